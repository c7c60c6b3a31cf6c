import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from helpers.tiny import HIDDEN, LAYERS, names
from safetensors.torch import load_file

from ese_deploy.bundle.manifest import encode_manifest
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.app import main
from ese_deploy.evaluate import evaluate, read_sts
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, encode_projections
from ese_deploy.target import Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    """Thirty scored pairs."""
    texts = [item.text for item in sample_corpus()]
    rows = [f"{texts[i]}\t{texts[i + 40]}\t{i % 6}\n" for i in range(30)]
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\tscore\n" + "".join(rows), "utf-8")
    return path


@pytest.fixture
def retrieval(tmp_path: Path) -> Path:
    """Twenty documents, five queries, one judgement of a document that is not there."""
    texts = [item.text for item in sample_corpus()]
    folder = tmp_path / "search"
    folder.mkdir()
    write = {
        "corpus.jsonl": [{"_id": f"d{i}", "title": "", "text": texts[i]} for i in range(20)],
        "queries.jsonl": [{"_id": f"q{i}", "text": texts[100 + i]} for i in range(5)],
    }
    for name, rows in write.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = "".join(f"q{i}\td{i * 3}\t1\n" for i in range(5))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}q1\td99\t1\n")
    return folder


def test_figures_are_printed_saved_and_drawn(
    tiny_bundle: Bundle, tmp_path: Path, sts: Path, retrieval: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    out, plots = tmp_path / "out.json", tmp_path / "plots"
    arguments = ["evaluate", str(folder), "--sts", str(sts), "--retrieval", str(retrieval)]
    assert main([*arguments, "--save", "--out", str(out), "--plots", str(plots)]) == 0
    printed = capsys.readouterr()
    assert "Spearman correlation with the scores, x 100, on pairs (30 pairs; sts_spearman)" in printed.out
    assert "BM25, without a model: " in printed.out
    assert "(=): no difference from the full model can be seen with 5 queries." in printed.out
    assert "Prompts put before texts: query: 'find: '" in printed.out
    assert "Saved the figures of 4 targets on sample corpus, pairs, search in manifest.json" in printed.err
    assert "1 judgements of search name a missing query or document" in printed.err
    assert f"{retrieval / 'qrels.tsv'} line 7 names document 'd99'" in printed.err
    document = json.loads(out.read_text())
    assert [one["target"] for one in document["targets"]] == ["1x8", "2x16", "3x16", "3x32"]
    full = {(one["metric"], one["data"]): one for one in document["targets"][-1]["quality"]}
    assert all(one["share_of_full"] == 1 for one in full.values())
    assert {"sts_pearson", "recall_at_100", "neighbour_overlap_at_10"} <= {metric for metric, _ in full}
    assert document["machine"]["cores"] > 0 and document["versions"]["onnxruntime"]
    # Of equal dim there are 3x16 and 2x16; 8 and 32 each have one exit.
    assert len(document["asymmetric"]) == 4 + 1 + 1
    assert len({(one["data"], one["dim"], one["query"], one["document"]) for one in document["asymmetric"]}) == 6
    drawn = names(plots)
    assert {"search.asymmetric.k016.png", "search.asymmetric.k016.svg", "pairs.sts_spearman.fp32.png"} <= set(drawn)
    assert "search.asymmetric.k032.png" not in drawn, "one exit alone is no matrix"
    title = "x 100, on search, queries of one depth and documents of another, 16 dims"
    matrix = printed.out[printed.out.index(title) :].splitlines()
    cells = {(one["query"], one["document"]): one for one in document["asymmetric"] if one["dim"] == 16}
    assert matrix[1].split() == ["queries", "\\", "documents", "2", "3"]
    for line, query in zip(matrix[2:4], (2, 3), strict=True):
        other = cells[query, 5 - query]
        assert f"{other['score']['ndcg_at_10'] * 100:.1f} ({other['share']:.0%})*" in line
        assert line.count("*") == 1 and line.startswith(str(query))
    assert matrix[5] == "*: the two exits have different embedding spaces."
    saved = {entry.name: entry for entry in open_bundle(folder).manifest.targets}
    assert {quality.data for quality in saved["d01_k008.fp32"].quality} >= {"pairs", "search"}
    assert main(["choose", str(folder), "--min-quality", "1% pairs", "--json"]) == 0
    assert main(["doctor", str(folder)]) == 0


def test_a_bundle_without_the_full_model_takes_shares_of_the_checkpoint(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path, sts: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    manifest = open_bundle(folder).manifest
    part = msgspec.structs.replace(manifest, targets=manifest.targets[:2])
    (folder / "manifest.json").write_bytes(encode_manifest(part))
    assert main(["evaluate", str(folder), "--sts", str(sts), "--json"]) == 0
    printed = capsys.readouterr()
    assert f"shares are of {tiny_checkpoint} in PyTorch" in printed.err
    found = {one["target"]: one["quality"] for one in json.loads(printed.out)["targets"]}
    assert main(["evaluate", str(tiny_bundle.path), "--sts", str(sts), "--json"]) == 0
    whole = {one["target"]: one["quality"] for one in json.loads(capsys.readouterr().out)["targets"]}
    for target, figures in found.items():
        for one, other in zip(figures, whole[target], strict=True):
            assert one["share_of_full"] == pytest.approx(other["share_of_full"], abs=1e-3)
    elsewhere = msgspec.structs.replace(part, source=msgspec.structs.replace(part.source, model=str(tmp_path / "no")))
    (folder / "manifest.json").write_bytes(encode_manifest(elsewhere))
    assert main(["evaluate", str(folder), "--sts", str(sts)]) == 2
    assert "lacks the full model, which figures are compared with" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--sts", str(sts), "--against", str(tiny_checkpoint)]) == 0
    pickled = Path(shutil.copytree(tiny_checkpoint, tmp_path / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    command = ["evaluate", str(folder), "--against", str(pickled)]
    assert main(command) == 2
    assert "set --allow-pickle if you trust its author" in capsys.readouterr().err
    assert main([*command, "--allow-pickle"]) == 2
    assert "is not the checkpoint that" in capsys.readouterr().err, "another file has another hash"
    assert main(["evaluate", str(pickled), "--depths", "1", "--dims", "8", "--allow-pickle"]) == 0


@pytest.mark.slow
def test_a_bundle_without_the_trained_maps_is_compared_with_a_full_model_without_them(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    matrix = np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN)).astype(np.float32)
    (checkpoint / PROJECTIONS_FILE).write_bytes(encode_projections({LAYERS: Projection(matrix)}))
    request = ExportRequest(str(checkpoint), tmp_path / "bundle", [Target(LAYERS, 16)], projection="prefix")
    (entry,) = export_bundle(request).bundle.manifest.targets
    assert main(["evaluate", str(request.out), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["targets"]
    assert found["quality"][0]["value"] == pytest.approx(entry.quality[0].value, abs=1e-3)


def test_a_checkpoint_and_its_bundle_have_the_same_figures(
    tiny_bundle: Bundle, tiny_checkpoint: Path, sts: Path, capsys: Capture
) -> None:
    figures = []
    for model, options in ((tiny_checkpoint, ["--depths", "1,3", "--dims", "8"]), (tiny_bundle.path, [])):
        assert main(["evaluate", str(model), "--sts", str(sts), "--json", *options]) == 0
        document = json.loads(capsys.readouterr().out)
        figures.append({one["target"]: one["quality"][0]["value"] for one in document["targets"]})
    checkpoint, bundle = figures
    assert set(checkpoint) == {"1x8", "1x32", "3x8", "3x32"}
    for target in set(checkpoint) & set(bundle):
        assert checkpoint[target] == pytest.approx(bundle[target], abs=1e-4)


def test_two_sets_of_one_name_are_refused(
    tiny_bundle: Bundle, tmp_path: Path, sts: Path, retrieval: Path, capsys: Capture
) -> None:
    (tmp_path / "other").mkdir()
    pairs, search = shutil.copy(sts, tmp_path / "other"), shutil.copytree(retrieval, tmp_path / "other/search")
    for option, first, second in (("--sts", sts, pairs), ("--sts", sts, sts), ("--retrieval", retrieval, search)):
        assert main(["evaluate", str(tiny_bundle.path), option, str(first), option, str(second)]) == 2
        assert f"{first} and {second} are both named '{sts.stem if option == '--sts' else 'search'}'" in (
            capsys.readouterr().err
        )


def test_the_python_function_takes_strings_and_has_a_short_repr(tiny_bundle: Bundle, sts: Path) -> None:
    found = evaluate(str(tiny_bundle.path), sts=[str(sts)])
    assert repr(found) == f"Evaluation({tiny_bundle.path.name}: 4 targets on {SAMPLE_CORPUS_NAME}, pairs)"
    full = found.find("3x32", "sts_spearman", "pairs")
    assert full is not None and full.share_of_full == 1
    assert found.find("3x32", "sts_spearman", "other") is None
    assert evaluate(tiny_bundle, sts=[read_sts(str(sts))]).figures == found.figures


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("bundle", ["--depths", "1"], "--depths need a checkpoint, and "),
        ("bundle", ["--device", "cpu", "--bf16"], "--device and --bf16 need a checkpoint, and "),
        ("bundle", ["--against", "checkpoint"], "--against is for a bundle without the full model"),
        ("checkpoint", ["--engine", "onnxruntime"], "--engine need a bundle, and "),
        ("checkpoint", ["--save", "--threads", "1"], "--save and --threads need a bundle, and "),
    ],
)
def test_options_that_do_not_apply_are_refused(
    tiny_bundle: Bundle, tiny_checkpoint: Path, capsys: Capture, model: str, options: list[str], message: str
) -> None:
    path = tiny_bundle.path if model == "bundle" else tiny_checkpoint
    assert main(["evaluate", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_missing_plot_library_is_found_before_anything_is_embedded(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["evaluate", str(tiny_bundle.path), "--plots", str(tmp_path / "plots")]) == 2
    out, err = capsys.readouterr()
    assert "This command needs matplotlib. Install it with: pip install" in err and out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sts", "none.tsv"], "There is no file none.tsv"),
        (["--retrieval", "none"], "There is no folder none"),
        (["--engine", "steam"], "Unknown engine 'steam'"),
        (["--out", "none/x.json"], "cannot write none/x.json: there is no folder none"),
        (["--plots", __file__], f"cannot draw into {__file__}: it is a file"),
    ],
)
def test_bad_input_ends_with_one_line_before_anything_is_embedded(
    tiny_bundle: Bundle, capsys: Capture, options: list[str], message: str
) -> None:
    assert main(["evaluate", str(tiny_bundle.path), *options]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
