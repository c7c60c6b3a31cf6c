import json
from pathlib import Path

import numpy as np
import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.index import convert_index
from ese_deploy.index import files as files_module
from ese_deploy.runtime import Encoder

TEXTS = [f"text number {number} about {word}" for number in range(7) for word in ("rain", "trains", "bread")]


@pytest.fixture(scope="module")
def old(tiny_bundle: Bundle) -> np.ndarray:
    """Vectors of the model without projections, of any norm, as another tool makes them."""
    return Encoder.open(tiny_bundle, "3x32").encode(TEXTS) * np.linspace(0.5, 3, len(TEXTS), dtype=np.float32)[:, None]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_ROWS", 4)


@pytest.mark.parametrize(("dim", "target"), [(None, "3x32"), (16, "3x16")])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_converted_vectors_are_those_of_the_target(
    projected_bundle: Bundle, old: np.ndarray, tmp_path: Path, dim: int | None, target: str, dtype: str
) -> None:
    np.save(tmp_path / "old.npy", old.astype(dtype))
    done = convert_index(projected_bundle, tmp_path / "old.npy", tmp_path / "new.npy", dim=dim)
    encoder = Encoder.open(projected_bundle, target)
    assert (done.vectors, done.dim, done.space) == (len(TEXTS), encoder.dim, encoder.space)
    assert np.abs(np.load(tmp_path / "new.npy") - encoder.encode(TEXTS)).max() <= 1e-5


def test_a_bundle_without_projections_only_cuts(tiny_bundle: Bundle, old: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", old)
    convert_index(tiny_bundle.path, tmp_path / "old.npy", tmp_path / "new.npy", dim=16)
    expected = Encoder.open(tiny_bundle, "3x16").encode(TEXTS)
    assert np.abs(np.load(tmp_path / "new.npy") - expected).max() <= 1e-5
    with pytest.raises(InputError, match="there is nothing to convert"):
        convert_index(tiny_bundle, tmp_path / "old.npy", tmp_path / "again.npy")


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_keeps_the_other_columns_and_names_the_space(
    projected_bundle: Bundle, old: np.ndarray, tmp_path: Path, fixed: bool
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    kind = pyarrow.list_(pyarrow.float32(), *([32] if fixed else []))
    table = pyarrow.table({"id": TEXTS, "vector": pyarrow.array(old.tolist(), kind), "n": range(len(TEXTS))})
    parquet.write_table(table, tmp_path / "old.parquet", row_group_size=5)
    convert_index(projected_bundle, tmp_path / "old.parquet", tmp_path / "new.parquet", dim=16, column="vector")
    new = parquet.read_table(tmp_path / "new.parquet")
    encoder = Encoder.open(projected_bundle, "3x16")
    assert new.column_names == ["id", "vector", "n"]
    assert (new["id"].to_pylist(), new["n"].to_pylist()) == (TEXTS, list(range(len(TEXTS))))
    assert np.abs(np.array(new["vector"].to_pylist(), np.float32) - encoder.encode(TEXTS)).max() <= 1e-5
    assert json.loads(new.schema.metadata[b"ese_deploy"]) == {"space": encoder.space, "dim": 16}
    with pytest.raises(InputError, match=r"is in the embedding space .* already"):
        convert_index(projected_bundle, tmp_path / "new.parquet", tmp_path / "again.parquet", column="vector")


def test_files_of_embed_name_their_space(projected_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from ese_deploy.bulk import JobSettings, ModelSettings, embed_files

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    model = ModelSettings(projected_bundle.path, targets=("3x32", "3x16"))
    embed_files(tmp_path / "texts.txt", tmp_path / "own.parquet", JobSettings(model))
    with pytest.raises(InputError, match=r"is in the embedding space .* already"):
        convert_index(projected_bundle, tmp_path / "own.parquet", tmp_path / "new.parquet", column="embedding_3x32")


def test_an_index_that_exists_is_replaced_only_if_asked(
    projected_bundle: Bundle, old: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "old.npy", old)
    (tmp_path / "new.npy").write_text("precious")
    with pytest.raises(InputError, match=r"new.npy exists. Name another file"):
        convert_index(projected_bundle, tmp_path / "old.npy", tmp_path / "new.npy")
    assert (tmp_path / "new.npy").read_text() == "precious"
    convert_index(projected_bundle, tmp_path / "old.npy", tmp_path / "new.npy", overwrite=True)
    assert np.load(tmp_path / "new.npy").shape == old.shape


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0] * 32, None], "has missing vectors"),
        ([[1.0] * 31, [1.0] * 33], "vectors of other than 32 dimensions"),
        ([[1.0] * 32, [0.0] * 32], "Vector 1 is zero or not finite"),
    ],
)
def test_wrong_rows_of_parquet_are_refused_and_nothing_is_written(
    projected_bundle: Bundle, tmp_path: Path, rows: list[list[float] | None], message: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"embedding": pyarrow.array(rows)}), tmp_path / "old.parquet")
    with pytest.raises(InputError, match=message):
        convert_index(projected_bundle, tmp_path / "old.parquet", tmp_path / "new.parquet")
    assert not (tmp_path / "new.parquet").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 16), np.float32), r"shape \[3, 16\].*\[n, 32\]"),
        (np.ones(32, np.float32), r"shape \[32\]"),
        (np.ones((3, 32), np.int8), "dtype int8"),
        (np.array([["a"]], object), "Cannot read"),
        (np.full((3, 32), np.nan, np.float32), "Vector 0 is zero or not finite"),
    ],
)
def test_wrong_arrays_are_refused(projected_bundle: Bundle, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "old.npy", array)
    with pytest.raises(InputError, match=message):
        convert_index(projected_bundle, tmp_path / "old.npy", tmp_path / "new.npy")
    assert not (tmp_path / "new.npy").exists()


@pytest.mark.parametrize(
    ("source", "out", "options", "message"),
    [
        ("old.npy", "new.parquet", {}, "Both must be .npy files"),
        ("old.csv", "new.csv", {}, "Both must be .npy files"),
        ("old.npy", "old.npy", {}, "is the index itself"),
        ("old.npy", "no/new.npy", {}, "there is no folder"),
        ("old.npy", "new.npy", {"dim": 33}, "`dim` must be between 1 and 32"),
        ("none.npy", "new.npy", {}, "Cannot read"),
        ("none.parquet", "new.parquet", {}, "Cannot read"),
    ],
)
def test_wrong_arguments_are_refused(
    projected_bundle: Bundle,
    old: np.ndarray,
    tmp_path: Path,
    source: str,
    out: str,
    options: dict[str, int],
    message: str,
) -> None:
    np.save(tmp_path / "old.npy", old)
    with pytest.raises(InputError, match=message):
        convert_index(projected_bundle, tmp_path / source, tmp_path / out, **options)  # type: ignore[arg-type]


def test_columns_of_other_types_are_refused(projected_bundle: Bundle, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"embedding": ["a"], "b": [[1]]}), tmp_path / "old.parquet")
    for column, message in (("c", "has no column 'c'"), ("embedding", "type string"), ("b", "list<")):
        with pytest.raises(InputError, match=message):
            convert_index(projected_bundle, tmp_path / "old.parquet", tmp_path / "new.parquet", column=column)


def test_the_command_says_what_it_wrote(
    projected_bundle: Bundle, old: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "old.npy", old)
    arguments = ["convert-index", str(projected_bundle.path), str(tmp_path / "old.npy"), str(tmp_path / "new.npy")]
    assert main([*arguments, "--dim", "16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dim"] == 16
    assert main([*arguments, "--overwrite"]) == 0
    assert f"{len(TEXTS)} vectors of 32 dimensions, embedding space aligned-" in capsys.readouterr().out
