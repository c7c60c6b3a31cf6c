"""Jobs on a tiny bundle: outputs, options, and what a resumed job does."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ese_deploy import Encoder
from ese_deploy.bulk import BadRows, EmbedSummary, Fields, JobSettings, ModelSettings, embed_files
from ese_deploy.bulk.parts import StoppedError
from ese_deploy.bulk.progress import JobProgress
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError

TEXTS = [f"row {number} of rain and bread {'on the coast ' * (number % 7)}" for number in range(60)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n}", "text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def settings(tiny_bundle: Bundle) -> JobSettings:
    model = ModelSettings(tiny_bundle.path, ("2x16",), threads=1)
    return JobSettings(model, Fields(id="key", keep=("n",)), part_rows=16, window=8)


def tree(path: Path) -> dict[str, bytes]:
    """The content of every file of an output."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    return {str(item.relative_to(path.parent)): item.read_bytes() for item in files if item.is_file()}


def vectors(path: Path, column: str = "embedding") -> np.ndarray[Any, Any]:
    return np.array(pq.read_table(path)[column].to_pylist())


def stop_after(parts: int) -> tuple[Callable[[JobProgress], None], Callable[[], bool]]:
    """A report and a stop that end a job after some parts."""
    stopped = threading.Event()

    def report(progress: JobProgress) -> None:
        if progress.parts >= parts:
            stopped.set()

    return report, stopped.is_set


def test_a_folder_of_parts_has_ids_fields_and_metadata(
    tiny_bundle: Bundle, source: Path, settings: JobSettings, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    summary = embed_files([source], out, settings)
    assert (summary.rows, summary.texts, summary.dims) == (60, 60, [16])
    assert sorted(path.name for path in out.iterdir()) == [
        "_job.json",
        "_manifest.json",
        *(f"part-{index:05d}.parquet" for index in range(4)),
    ]
    table = pq.read_table(out)
    assert table.column_names == ["key", "n", "embedding"]
    assert table["key"].to_pylist() == [f"k{n}" for n in range(60)]
    assert table["n"].to_pylist() == list(range(60))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    metadata = json.loads(table.schema.metadata[b"ese_deploy"])
    assert (metadata["bundle_sha256"], metadata["targets"]) == (tiny_bundle.sha256, ["2x16"])
    np.testing.assert_allclose(vectors(out), Encoder.open(tiny_bundle, "2x16").encode(TEXTS), atol=2e-6)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert [part["rows"] for part in manifest["parts"]] == [16, 16, 16, 12]


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.npy"])
def test_a_single_file_has_the_rows_of_all_parts(
    tiny_bundle: Bundle, source: Path, settings: JobSettings, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    embed_files([source], out, settings)
    expected = Encoder.open(tiny_bundle, "2x16").encode(TEXTS)
    ids = [f"k{n}" for n in range(60)]
    if name == "v.npy":
        np.testing.assert_allclose(np.load(out), expected, atol=2e-6)
        lines = [json.loads(line) for line in (tmp_path / "v.ids.jsonl").read_text().splitlines()]
        assert [line["key"] for line in lines] == ids
    elif name == "v.jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["key"] for line in lines] == ids and lines[3]["n"] == 3
        np.testing.assert_allclose([line["embedding"] for line in lines], expected, atol=2e-6)
    else:
        assert pq.read_table(out)["key"].to_pylist() == ids
        np.testing.assert_allclose(vectors(out), expected, atol=2e-6)
    assert not (tmp_path / f"{name}.job").exists()
    assert json.loads((tmp_path / f"{name}.manifest.json").read_text())["job"]["targets"] == ["2x16"]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
def test_every_precision_is_stored_in_its_type(
    tiny_bundle: Bundle, source: Path, settings: JobSettings, tmp_path: Path, precision: Any
) -> None:
    chosen = replace(settings, model=replace(settings.model, precision=precision))
    embed_files([source], tmp_path / "v", chosen)
    encoder = Encoder.open(tiny_bundle, "2x16", threads=1)
    # A level may differ by one where a component lies on a border.
    expected = encoder.encode(TEXTS, precision="float32" if precision == "float16" else precision)
    got = vectors(tmp_path / "v")
    assert got.shape == expected.shape
    if precision in ("binary", "ubinary"):
        assert (got == expected).mean() > 0.99
    else:
        np.testing.assert_allclose(got, expected, atol=1 if "int" in precision else 1e-3)
    names = {"binary": "int8", "ubinary": "uint8", "float32": "float", "float16": "halffloat"}
    value = pq.read_table(tmp_path / "v").schema.field("embedding").type.value_type
    assert str(value) == names.get(precision, precision)


def test_several_targets_are_columns_of_one_pass(
    tiny_bundle: Bundle, source: Path, settings: JobSettings, tmp_path: Path
) -> None:
    both = replace(settings, model=replace(settings.model, targets=("2x16", "3x32")))
    embed_files([source], tmp_path / "v", both)
    for target in both.model.targets:
        expected = Encoder.open(tiny_bundle, target).encode(TEXTS)
        np.testing.assert_allclose(vectors(tmp_path / "v", f"embedding_{target}"), expected, atol=2e-6)
    with pytest.raises(InputError, match="has the vectors of one target"):
        embed_files([source], tmp_path / "v.npy", both)
    with pytest.raises(InputError, match="names 2x16 twice"):
        embed_files([source], tmp_path / "w", replace(both, model=replace(both.model, targets=("2x16", "2x16"))))


@pytest.mark.parametrize("policy", ["skip", "null"])
@pytest.mark.parametrize("name", ["v", "v.jsonl"])
def test_bad_rows_are_left_out_or_written_without_a_vector(
    settings: JobSettings, source: Path, tmp_path: Path, policy: str, name: str
) -> None:
    lines = source.read_text().splitlines()
    lines[1], lines[20] = '{"key": "k1", "text": null, "n": 1}', "broken"
    source.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"in\.jsonl line 2 has null as 'text'"):
        embed_files([source], tmp_path / name, settings)
    assert not (tmp_path / name).exists()
    summary = embed_files([source], tmp_path / name, replace(settings, bad_rows=BadRows(policy)))
    assert (summary.rows, summary.texts, summary.bad_rows) == (60, 58, 2)
    assert summary.skipped_file is not None
    skipped = [json.loads(line) for line in Path(summary.skipped_file).read_text().splitlines()]
    assert [(row["number"], row["id"]) for row in skipped] == [(2, "k1"), (21, None)]
    assert "not JSON" in skipped[1]["reason"]
    if name == "v":
        table = pq.read_table(tmp_path / "v")
        found = dict(zip(table["key"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    else:
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        found = {row["key"]: row["embedding"] for row in rows}
    assert ("k1" in found, "k20" in found) == (policy == "null", False)
    assert found.get("k1") is None and len(found["k2"]) == 16


def test_duplicates_of_a_window_are_embedded_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("rain\nbread\nrain\nrain\n" + "word " * 100 + "\n" + "word " * 100)
    summary = embed_files([tmp_path / "in.txt"], tmp_path / "v.npy", JobSettings(ModelSettings(tiny_bundle.path)))
    assert (summary.texts, summary.distinct, summary.truncated) == (6, 3, 2)
    found = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(found[[0, 0, 4]], found[[2, 3, 5]])


@pytest.mark.parametrize("name", ["v", "v.parquet", "v.jsonl", "v.npy"])
def test_a_job_that_stopped_is_resumed_with_the_same_bytes(
    source: Path, settings: JobSettings, tmp_path: Path, name: str
) -> None:
    (tmp_path / "whole").mkdir()
    embed_files([source], tmp_path / "whole" / name, settings)
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut" / name
    report, stop = stop_after(1)
    # While a part is embedded, the one before is written.
    with pytest.raises(StoppedError, match=r"2 parts are complete in .* --resume"):
        embed_files([source], out, settings, report=report, stop=stop)
    with pytest.raises(InputError, match=r"unfinished job \(2 parts are complete\)"):
        embed_files([source], out, settings)
    assert embed_files([source], out, settings, resume=True).resumed_rows == 32
    assert tree(out) == tree(tmp_path / "whole" / name)
    # Once more: there is nothing to do.
    assert embed_files([source], out, settings, resume=True).texts_per_second == 0
    assert tree(out) == tree(tmp_path / "whole" / name)


def test_changes_are_refused_when_a_job_is_resumed(
    aligned_bundle: Bundle, source: Path, settings: JobSettings, tmp_path: Path
) -> None:
    report, stop = stop_after(1)
    with pytest.raises(StoppedError):
        embed_files([source], tmp_path / "v", settings, report=report, stop=stop)

    def refused(message: str, changed: JobSettings) -> None:
        before = tree(tmp_path / "v")
        with pytest.raises(InputError, match=message):
            embed_files([source], tmp_path / "v", changed, resume=True)
        assert tree(tmp_path / "v") == before

    model = settings.model
    refused("the bundle has changed", replace(settings, model=replace(model, bundle=aligned_bundle.path)))
    refused("--target has changed", replace(settings, model=replace(model, targets=("3x16",))))
    refused("--precision has changed", replace(settings, model=replace(model, precision="int8")))
    refused("--threads or --workers has changed", replace(settings, model=replace(model, threads=2)))
    refused("--part-rows has changed", replace(settings, part_rows=17))
    refused("--id-field has changed", replace(settings, fields=Fields(keep=("n",))))
    source.write_text(source.read_text().replace("row 59", "row 95"))
    refused(r"in\.jsonl has changed since the job began", settings)


def test_an_output_that_exists_is_refused_and_replaced_on_request(
    source: Path, settings: JobSettings, tmp_path: Path
) -> None:
    for name in ("v", "v.npy"):
        embed_files([source], tmp_path / name, settings)
        with pytest.raises(InputError, match=r"exists\. Pass --overwrite"):
            embed_files([source], tmp_path / name, settings)
        small = replace(settings, model=replace(settings.model, targets=("1x8",)))
        assert embed_files([source], tmp_path / name, small, overwrite=True).dims == [8]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/precious.txt").write_text("x")
    with pytest.raises(InputError, match="files that no bulk job has written"):
        embed_files([source], tmp_path / "foreign", settings, overwrite=True)
    with pytest.raises(InputError, match="There is no job to resume"):
        embed_files([source], tmp_path / "w", settings, resume=True)
    (tmp_path / "old.npy").write_bytes(b"precious")
    with pytest.raises(InputError, match="There is no job to resume"):
        embed_files([source], tmp_path / "old.npy", settings, resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        embed_files([source], tmp_path / "w", settings, resume=True, overwrite=True)
    assert (tmp_path / "foreign/precious.txt").exists() and (tmp_path / "old.npy").read_bytes() == b"precious"


def test_an_input_that_changes_while_it_is_read_is_noticed(source: Path, settings: JobSettings, tmp_path: Path) -> None:
    def report(progress: JobProgress) -> None:
        if progress.stage == "embed" and progress.parts == 1:
            source.write_text(source.read_text()[:1000])

    with pytest.raises(InputError, match=r"in\.jsonl has changed while it was read"):
        embed_files([source], tmp_path / "v.npy", settings, report=report)
    assert not (tmp_path / "v.npy").exists()


def test_a_second_process_is_refused(source: Path, settings: JobSettings, tmp_path: Path) -> None:
    refused = []

    def report(progress: JobProgress) -> None:
        if progress.parts == 1 and not refused:
            with pytest.raises(InputError, match="Another process writes to") as caught:
                embed_files([source], tmp_path / "v", settings, resume=True)
            refused.append(caught)

    embed_files([source], tmp_path / "v", settings, report=report)
    assert refused


@pytest.mark.slow
def test_workers_give_the_bytes_of_one_process(source: Path, settings: JobSettings, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    embed_files([source], tmp_path / "one/v", settings)
    summary: EmbedSummary = embed_files([source], tmp_path / "two/v", settings, workers=2)
    assert (summary.workers, summary.threads) == (2, 1)
    assert tree(tmp_path / "one/v") == tree(tmp_path / "two/v")


def test_an_input_is_never_the_output(tiny_bundle: Bundle, settings: JobSettings, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "one"}\n')
    with pytest.raises(InputError, match=r"in.jsonl is one of the inputs. Write to another file"):
        embed_files(path, path, settings, overwrite=True)
    assert path.read_text() == '{"text": "one"}\n'
