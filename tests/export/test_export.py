import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from helpers.tiny import edit_json, make_checkpoint, names, write_json

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.card import model_card
from ese_deploy.bundle.reader import Bundle, is_bundle, open_bundle
from ese_deploy.choose import resolve_profile
from ese_deploy.errors import BundleError, CheckFailedError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export import graphs as graphs_module
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.plan import grid
from ese_deploy.export.trace import trace
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus() if len(item.text) < 80][:40]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def graph(bundle: Bundle, name: str) -> onnx.GraphProto:
    return onnx.load(bundle.path / f"{name}.onnx", load_external_data=False).graph


def test_every_target_passed_its_checks_and_has_a_quality(tiny_bundle: Bundle) -> None:
    assert [str(entry.target) for entry in tiny_bundle.manifest.targets] == ["1x8", "2x16", "3x16", "3x32"]
    for entry in tiny_bundle.manifest.targets:
        parity, *others = entry.parity
        (quality,) = entry.quality
        assert parity.passed
        assert all(other.passed is None for other in others)
        assert parity.max_abs is not None and parity.max_abs <= 1e-6
        assert parity.n > 40
        assert (quality.metric, quality.n) == ("agreement", 384)
    assert tiny_bundle.manifest.targets[-1].quality[0].value == pytest.approx(1, abs=1e-6)


def test_graphs_have_the_contracts_inputs_output_and_axes(tiny_bundle: Bundle) -> None:
    for entry in tiny_bundle.manifest.targets:
        model = onnx.load(tiny_bundle.path / entry.file, load_external_data=False)
        onnx.checker.check_model(str(tiny_bundle.path / entry.file))
        inputs = {value.name: [d.dim_param for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
        assert inputs == {name: ["batch", "sequence"] for name in tiny_bundle.manifest.inputs}
        assert [value.name for value in model.graph.output] == ["sentence_embedding"]
        assert {opset.domain for opset in model.opset_import} <= {""}


def test_a_shallow_graph_holds_nothing_of_deeper_layers(tiny_bundle: Bundle) -> None:
    for name, depth in (("d01_k008.fp32", 1), ("d02_k016.fp32", 2), ("d03_k032.fp32", 3)):
        extracted = graph(tiny_bundle, name)
        assert sum(node.op_type == "Attention" for node in extracted.node) == depth
        weights = {tensor.name for tensor in extracted.initializer}
        assert not any(f"layer.{layer}." in weight for weight in weights for layer in range(depth, 3))
        used = {name for node in extracted.node for name in node.input}
        assert weights <= used


def test_graphs_say_nothing_of_the_code_they_came_from(tiny_bundle: Bundle) -> None:
    for entry in tiny_bundle.manifest.targets:
        content = (tiny_bundle.path / entry.file).read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content
        assert not any(node.metadata_props or node.doc_string for node in graph(tiny_bundle, entry.name).node)


def test_a_layer_is_the_same_bytes_in_every_target(tiny_bundle: Bundle) -> None:
    def places(name: str) -> dict[str, tuple[str, str]]:
        found = {}
        for tensor in graph(tiny_bundle, name).initializer:
            data = {item.key: item.value for item in tensor.external_data}
            if data:
                found[tensor.name] = (data["location"], data["offset"])
        return found

    shallow, deep = places("d01_k008.fp32"), places("d03_k032.fp32")
    shared = shallow.keys() & deep.keys()
    assert len(shared) >= 8
    assert all(shallow[name] == deep[name] for name in shared)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_traces")
def test_an_export_is_the_same_bytes_each_time(tiny_checkpoint: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    targets = [entry.target for entry in tiny_bundle.manifest.targets]
    export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "tiny", targets))
    again, before = hashes(tmp_path / "tiny"), hashes(tiny_bundle.path)
    assert again == before


@pytest.mark.slow
def test_update_adds_targets_and_touches_no_other(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    first = export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 16)])).bundle
    before, vectors = hashes(out), Encoder.open(first, "2x16").encode(TEXTS)
    added = export_bundle(
        ExportRequest(str(tiny_checkpoint), out, [Target(1, 8), Target(2, 16), Target(3, 32)], update=True)
    )
    after = hashes(out)
    assert [str(check.entry.target) for check in added.checks] == ["1x8", "3x32"]
    assert after["d02_k016.fp32.onnx"] == before["d02_k016.fp32.onnx"]
    assert after["tokenizer.json"] == before["tokenizer.json"]
    np.testing.assert_array_equal(Encoder.open(out, "2x16").encode(TEXTS), vectors)
    assert resolve_profile(out, "full").target == Target(3, 32)
    kept = next(entry for entry in added.bundle.manifest.targets if entry.name == "d02_k016.fp32")
    assert kept == first.manifest.targets[0]
    assert added.bundle.manifest.weights[0].bytes < 1.1 * (tiny_checkpoint / "model.safetensors").stat().st_size


def test_update_refuses_another_checkpoint_and_what_is_there_already(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    before = hashes(out)
    other = make_checkpoint(tmp_path / "other", intermediate_size=64)
    with pytest.raises(InputError, match=r"was made with other weights: .*\. Use the same, or replace it with `force`"):
        export_bundle(ExportRequest(str(other), out, [Target(1, 16)], update=True))
    prompted = Path(shutil.copytree(tiny_checkpoint, tmp_path / "prompted"))
    edit_json(prompted / "config_sentence_transformers.json", prompts={"query": "search: "})
    with pytest.raises(InputError, match="was made with other prompts"):
        export_bundle(ExportRequest(str(prompted), out, [Target(1, 16)], update=True))
    with pytest.raises(InputError, match=r"already contains 1x8\. There is nothing to add"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(1, 8)], update=True))
    with pytest.raises(InputError, match="`update` adds to a bundle and `force` replaces it"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(1, 16)], update=True, force=True))
    assert hashes(out) == before


def test_update_does_not_undo_what_was_written_meanwhile(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    manifest = out / "manifest.json"

    def write(step: str, done: int, _: int) -> None:
        if (step, done) == ("trace", 0):
            manifest.write_bytes(manifest.read_bytes() + b"\n")

    with pytest.raises(InputError, match=r"was changed while targets were made to add to it\. Export again"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)], update=True), write)
    assert not (out / "d02_k008.fp32.onnx").exists()


def test_an_update_of_damaged_weights_does_not_make_them_right(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    weights = out / tiny_bundle.manifest.weights[0].file
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    before = hashes(out)
    with pytest.raises(BundleError, match=r"weights\.fp32\.data is not the file that was exported"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)], update=True))
    assert hashes(out) == before


@pytest.mark.parametrize("force", [False, True])
def test_what_arrives_while_targets_are_made_is_not_deleted(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path, force: bool
) -> None:
    out = tmp_path / "bundle"
    if force:
        shutil.copytree(tiny_bundle.path, out)

    def write(step: str, done: int, _: int) -> None:
        if (step, done) == ("trace", 0):
            out.mkdir(exist_ok=True)
            (out / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="is not part of a bundle" if force else "is not a bundle"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)], force=force), write)
    assert "thesis.txt" in names(out) and is_bundle(out) == force


def test_an_existing_bundle_is_replaced_only_with_force(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    with pytest.raises(InputError, match="Add targets with `update`, or replace it with `force`"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)]))
    replaced = export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)], force=True)).bundle
    assert [str(entry.target) for entry in replaced.manifest.targets] == ["2x8"]
    assert names(tmp_path) == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is a folder that is not a bundle"):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path, [Target(1, 8)], force=True))
    with pytest.raises(InputError, match=r"is a file\. Name a folder with `out`"):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "thesis.txt", [Target(1, 8)], force=True))
    assert names(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "index.html"])
@pytest.mark.parametrize("way", ["update", "force"])
def test_what_somebody_put_into_a_bundle_is_never_deleted(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path, name: str, way: str
) -> None:
    out = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(InputError, match="is not part of a bundle and would be deleted"):
        export_bundle(ExportRequest(str(tiny_checkpoint), out, [Target(2, 8)], **{way: True}))
    assert (out / name).read_text() == "mine"


def test_a_mount_point_is_refused_before_any_work(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="is a mount point, which cannot be replaced by a bundle"):
        export_bundle(ExportRequest(str(tiny_checkpoint), Path("/"), [Target(1, 8)]))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([Target(4, 16)], "Depth 4 is deeper than the model. Choose a depth of 1 to 3."),
        ([Target(1, 33)], "33 dimensions are wider than the model. Choose 8 to 32 dimensions."),
        ([Target(1, 16), Target(1, 16)], "Target '1x16' is named twice. Name each target once."),
    ],
)
def test_targets_that_cannot_be_are_refused_before_any_work(
    tiny_checkpoint: Path, tmp_path: Path, targets: list[Target], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", targets))
    assert names(tmp_path) == []


def test_training_decides_the_targets_their_space_and_the_warning(tiny_checkpoint: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(tiny_checkpoint, tmp_path / "trained"))
    contract = {"schema_version": 1, "variant": "espresso", "trained_exits": [2, 3], "trained_dims": [8, 32]}
    write_json(trained / "ese.json", {**contract, "aligned_exits": True})
    checkpoint = read_checkpoint(str(trained))
    assert [str(target) for target in grid(checkpoint, (), (), ("fp32",))] == ["2x8", "2x32", "3x8", "3x32"]
    exported = export_bundle(ExportRequest(str(trained), tmp_path / "bundle", depths=(1, 2)))
    manifest = exported.bundle.manifest
    assert [str(entry.target) for entry in manifest.targets] == ["1x8", "1x32", "2x8", "2x32"]
    assert [entry.space for entry in manifest.targets] == ["exit01", "exit01", "aligned", "aligned"]
    assert [entry.trained for entry in manifest.targets] == [False, False, True, True]
    assert exported.untrained == [1]


def test_without_training_the_grid_is_the_full_model(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    assert grid(checkpoint, (), (), ("fp32",)) == [Target(3, 32)]
    assert grid(checkpoint, (1, 2), (), ("fp32",)) == [Target(1, 32), Target(2, 32)]


def test_a_target_that_does_not_equal_pytorch_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: onnx.ModelProto, dtype: str, settings: QuantizationSettings | None = None) -> onnx.ModelProto:
        for value in model.graph.initializers.values():  # type: ignore[attr-defined]
            if value.name.endswith("layer.1.output.LayerNorm.bias"):
                value.const_value = graphs_module.ir.tensor(value.const_value.numpy() + 1e-4)
        return convert(model, dtype, settings)

    monkeypatch.setattr(graphs_module, "convert", broken)
    with pytest.raises(CheckFailedError, match="nothing was written") as caught:
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", [Target(1, 8), Target(2, 8)]))
    assert names(tmp_path) == []
    assert all(line.startswith("2x8: ") for line in caught.value.failures)
    assert any("max |difference| from PyTorch" in line for line in caught.value.failures)


@pytest.mark.parametrize(
    ("model_type", "pooling", "settings"),
    [
        ("bert", "cls", {}),
        ("distilbert", "mean", {}),
        ("roberta", "mean", {"pad_token_id": 1, "type_vocab_size": 1}),
    ],
)
def test_encoders_like_bert_pass_the_checks_at_every_exit(
    tmp_path: Path, model_type: str, pooling: str, settings: dict[str, int]
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", model_type, pooling=pooling, **settings)
    exported = export_bundle(ExportRequest(str(folder), tmp_path / "bundle", depths=(1, 2, 3), dims=(8, 32)))
    assert all(check.parity.passed for check in exported.checks)
    expects_types = model_type == "bert"
    assert ("token_type_ids" in exported.bundle.manifest.inputs) == expects_types


def test_one_trace_gives_every_exit(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    model = trace(checkpoint, load_backbone(checkpoint), [1, 2, 3])
    assert [value.name for value in model.graph.outputs] == ["exit1", "exit2", "exit3"]
    assert sum(node.op_type == "Attention" for node in model.graph) == 3


def test_the_model_card_lists_every_target(tiny_bundle: Bundle) -> None:
    card = (tiny_bundle.path / "README.md").read_text("utf-8")
    for entry in tiny_bundle.manifest.targets:
        assert f"| {entry.target} | `{entry.file}` |" in card
    assert 'target="3x32"' in card
    assert '- `query`: "find: "' in card


def test_the_model_card_writes_a_prompt_of_several_lines_on_one(tiny_bundle: Bundle) -> None:
    manifest = msgspec.structs.replace(tiny_bundle.manifest, prompts={"query": "Find:\nÜber"})
    assert '- `query`: "Find:\\nÜber"\n' in model_card(manifest, "name")


def test_golden_vectors_are_pytorchs(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    from sentence_transformers import SentenceTransformer

    golden = json.loads((tiny_bundle.path / "golden.json").read_text())
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    np.testing.assert_allclose(golden["vectors"]["d03_k032.fp32"], model.encode(golden["texts"]), atol=2e-6)


def test_full_depth_equals_sentence_transformers(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    np.testing.assert_allclose(Encoder.open(tiny_bundle).encode(TEXTS), model.encode(TEXTS), atol=2e-6)
    queries = Encoder.open(tiny_bundle).encode_query(TEXTS)
    np.testing.assert_allclose(queries, model.encode_query(TEXTS), atol=2e-6)


def test_what_was_written_opens_as_it_was_returned(tiny_bundle: Bundle) -> None:
    assert open_bundle(tiny_bundle.path) == tiny_bundle
