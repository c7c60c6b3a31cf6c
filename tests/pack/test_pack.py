import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from helpers.tiny import names

from ese_deploy.bundle.hashes import check_files
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.app import main
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.export import export
from ese_deploy.pack import LAYOUTS, api, pack
from ese_deploy.runtime import Encoder

TEXTS = ["hello", "a longer text, with some more words", "Café, naïve, Zürich", ""]
SETTINGS = ["config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_bundle_of_fewer_targets_gives_the_same_bytes(projected_bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(projected_bundle.path, ["1x32", "2x16"], tmp_path / "small", layout="ese")
    small = open_bundle(packed.out)
    assert [str(entry.target) for entry in small.manifest.targets] == ["1x32", "2x16"]
    for target in ("1x32", "2x16"):
        expected = Encoder.open(projected_bundle, target).encode(TEXTS)
        assert np.array_equal(Encoder.open(small, target).encode(TEXTS), expected)
    weights = small.manifest.weights[0]
    assert weights.bytes < projected_bundle.manifest.weights[0].bytes
    assert {entry.file for entry in small.manifest.targets} < set(check_files(small)) | set(names(packed.out))
    assert packed.bytes == sum((packed.out / name).stat().st_size for name in names(packed.out))


def test_it_keeps_the_way_to_the_source_space(projected_bundle: Bundle, tmp_path: Path) -> None:
    small = pack(projected_bundle, "1x32", tmp_path / "small", layout="ese").out
    expected = Encoder.open(projected_bundle, "1x32", space="source").encode(TEXTS)
    assert np.array_equal(Encoder.open(small, "1x32", space="source").encode(TEXTS), expected)
    assert Encoder.open(small, "1x32").encode(TEXTS, precision="int8").dtype == np.int8


@pytest.mark.parametrize(
    ("layout", "model", "beside"),
    [
        ("onnx", "model.onnx", []),
        ("onnx-external", "model.onnx", ["model.onnx_data"]),
        ("fastembed", "model.onnx", []),
        ("transformers.js", "onnx/model.onnx", []),
    ],
)
def test_onnx_layouts_contain_one_graph_and_its_weights(
    tiny_bundle: Bundle, tmp_path: Path, layout: str, model: str, beside: list[str]
) -> None:
    packed = pack(tiny_bundle, "2x16", tmp_path / "out", layout=layout)
    assert files(packed.out) == sorted([model, *beside, *SETTINGS])
    assert packed.max_abs <= 1e-5
    graph = onnx.load(packed.out / model, load_external_data=False)
    external = {entry.value for t in graph.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert external == set(beside)
    config = json.loads((packed.out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["model_type"]) == (2, "bert")
    assert json.loads((packed.out / "special_tokens_map.json").read_text())["pad_token"] == "[PAD]"
    bundled = next(entry for entry in tiny_bundle.manifest.targets if str(entry.target) == "2x16")
    assert packed.bytes < bundled.weight_bytes + 150_000


def test_triton_gets_a_model_repository(tiny_bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(tiny_bundle, "2x16", tmp_path / "out", layout="triton")
    model = "d02_k016_fp32"
    expected = [f"{model}/1/model.onnx", f"{model}/config.pbtxt", *(f"tokenizer/{name}" for name in SETTINGS)]
    assert files(packed.out) == sorted(expected)
    config = (packed.out / model / "config.pbtxt").read_text()
    assert f'name: "{model}"' in config and "dynamic_batching" in config
    assert '{ name: "token_type_ids", data_type: TYPE_INT64, dims: [ -1 ] }' in config
    assert '{ name: "sentence_embedding", data_type: TYPE_FP32, dims: [ 16 ] }' in config


def test_tei_takes_opset_18_only(tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs opset 18, and .* has opset 23. Export the bundle with `opset=18`"):
        pack(tiny_bundle, "2x16", tmp_path / "out", layout="tei")
    older = export(tiny_checkpoint, tmp_path / "bundle", targets="2x16", opset=18).bundle
    packed = pack(older, "2x16", tmp_path / "out", layout="tei")
    assert files(packed.out) == sorted(["1_Pooling/config.json", "model.onnx", "sentence_bert_config.json", *SETTINGS])


def test_openvino_gets_its_own_format(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    packed = pack(tiny_bundle, "2x16", tmp_path / "out", layout="openvino")
    assert files(packed.out) == sorted(["openvino_model.bin", "openvino_model.xml", *SETTINGS])
    assert packed.max_abs <= 1e-5


@pytest.mark.parametrize("target", ["2x16", "3x32"])
def test_sentence_transformers_gets_the_first_layers(tiny_bundle: Bundle, tmp_path: Path, target: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    packed = pack(tiny_bundle, target, tmp_path / "out", layout="sentence-transformers")
    model = library.SentenceTransformer(str(packed.out), device="cpu")
    expected = Encoder.open(tiny_bundle, target).encode(TEXTS)
    assert np.abs(model.encode(TEXTS) - expected).max() <= 1e-5
    assert json.loads((packed.out / "config.json").read_text())["num_hidden_layers"] == int(target[0])
    assert model.prompts["query"] == "find: "


def test_sentence_transformers_rotates_the_full_depth(projected_bundle: Bundle, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    packed = pack(projected_bundle, "3x16", tmp_path / "out", layout="sentence-transformers")
    model = library.SentenceTransformer(str(packed.out), device="cpu")
    expected = Encoder.open(projected_bundle, "3x16").encode(TEXTS)
    assert np.abs(model.encode(TEXTS) - expected).max() <= 1e-5
    with pytest.raises(InputError, match="The projection of depth 2 reads the states of several layers"):
        pack(projected_bundle, "2x16", tmp_path / "other", layout="sentence-transformers")


@pytest.mark.parametrize(
    ("targets", "layout", "message"),
    [
        ("2x16", "magic", "Unknown layout 'magic'. Choose one of: ese, onnx"),
        ("2x32", "onnx", "holds no target 2x32"),
        (["2x16", "3x16"], "onnx", "Layout 'onnx' holds one target, got 2"),
        (["2x16", "2x16"], "ese", "A target is named twice"),
        ([], "ese", "Name a target to pack"),
    ],
)
def test_wrong_arguments_are_refused(
    tiny_bundle: Bundle, tmp_path: Path, targets: str | list[str], layout: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pack(tiny_bundle, targets, tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


def test_a_dtype_that_a_tool_does_not_know_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    entries = [msgspec.structs.replace(entry, dtype="bf16") for entry in tiny_bundle.manifest.targets]
    other = Bundle(tiny_bundle.path, msgspec.structs.replace(tiny_bundle.manifest, targets=entries), "")
    for layout, message in (
        ("transformers.js", "has no name for dtype bf16"),
        ("sentence-transformers", "Choose 2x16"),
    ):
        with pytest.raises(InputError, match=message):
            pack(other, "2x16:bf16", tmp_path / "out", layout=layout)


def test_a_folder_with_files_is_not_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        pack(tiny_bundle, "2x16", tmp_path, layout="onnx")
    (tmp_path / "empty").mkdir()
    assert pack(tiny_bundle, "2x16", tmp_path / "empty", layout="onnx").out == tmp_path / "empty"


def test_other_vectors_leave_nothing_behind(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = api.load_golden

    def changed(bundle: Bundle) -> object:
        golden = load(bundle)
        vectors = {name: [[-x for x in row] for row in rows] for name, rows in golden.vectors.items()}
        return msgspec.structs.replace(golden, vectors=vectors)

    monkeypatch.setattr(api, "load_golden", changed)
    with pytest.raises(CheckFailedError, match="does not give the vectors") as caught:
        pack(tiny_bundle, "2x16", tmp_path / "out", layout="onnx")
    assert caught.value.failures[0].startswith("2x16: differs by")
    assert names(tmp_path) == []


def test_the_command_says_what_it_wrote(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pack", str(tiny_bundle.path), "--target", "2x16", "--layout", "onnx", "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    assert "2x16 for onnx" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_abs"] <= 1e-5


def test_every_layout_has_a_summary() -> None:
    from importlib import import_module

    for name in LAYOUTS:
        module, attribute = api._MODULES[name]
        layout = getattr(import_module(f"ese_deploy.pack.{module}"), attribute)
        assert (layout.name, layout.summary[-1]) == (name, ".")
