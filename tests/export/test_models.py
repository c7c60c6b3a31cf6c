"""Whole checkpoints of other shapes, end to end: what sentence-transformers gives, the bundle gives."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import BACKBONES, HIDDEN, edit_json, make_checkpoint, write_json
from helpers.tokenizers import byte_level_bpe, byte_level_bpe_with_end
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.pipeline import Exported
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus()[::24]]


def _dense(folder: Path, name: str, activation: str, sizes: tuple[int, int], **settings: object) -> dict[str, str]:
    torch.manual_seed(sum(sizes))
    inside, outside = sizes
    tensors = {"linear.weight": torch.randn(outside, inside) / 4}
    if settings.get("bias", True):
        tensors["linear.bias"] = torch.randn(outside) / 4
    if settings.get("use_residual"):
        tensors["residual.weight"] = torch.randn(outside, inside) / 4
    (folder / name).mkdir()
    save_file(tensors, folder / name / "model.safetensors")
    config = {"in_features": inside, "out_features": outside, "bias": True, **settings}
    write_json(folder / name / "config.json", {**config, "activation_function": f"torch.nn.modules.{activation}"})
    return {"path": name, "type": "sentence_transformers.models.Dense"}


def _modules(folder: Path, *modules: dict[str, str]) -> None:
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **item} for i, item in enumerate(modules)])


@pytest.fixture(scope="module")
def with_dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """A BERT with two poolings side by side, scaled, and two Dense modules."""
    root = tmp_path_factory.mktemp("dense")
    folder = make_checkpoint(root / "model")
    write_json(folder / "1_Pooling/config.json", {"embedding_dimension": HIDDEN, "pooling_mode": ["cls", "mean"]})
    kind = "sentence_transformers.models."
    _modules(
        folder,
        {"path": "", "type": f"{kind}Transformer"},
        {"path": "1_Pooling", "type": f"{kind}Pooling"},
        {"path": "2_Normalize", "type": f"{kind}Normalize"},
        _dense(folder, "3_Dense", "activation.Tanh", (2 * HIDDEN, 40)),
        _dense(folder, "4_Dense", "linear.Identity", (40, 24), bias=False, use_residual=True),
    )
    request = ExportRequest(str(folder), root / "bundle", [Target(1, 8), Target(3, 8), Target(3, 24)])
    return folder, export_bundle(request)


def test_dense_modules_are_in_the_graph(with_dense: tuple[Path, Exported]) -> None:
    folder, exported = with_dense
    manifest = exported.bundle.manifest
    assert (manifest.pooling, manifest.width, manifest.hidden_size) == ("cls+mean", 24, HIDDEN)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder.open(exported.bundle, "3x24").encode(TEXTS), expected, atol=1e-5)


def test_an_exit_through_dense_modules_of_the_full_depth_is_pointed_out(with_dense: tuple[Path, Exported]) -> None:
    assert (with_dense[1].untrained, with_dense[1].dense) == ([1], True)


def test_a_dense_module_that_is_not_understood_is_refused(with_dense: tuple[Path, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(with_dense[0], tmp_path / "model"))
    edit_json(folder / "3_Dense/config.json", activation_function="mine.Softsign")
    with pytest.raises(InputError, match=r"activation 'mine.Softsign'\. Supported .*: Identity, Tanh"):
        export_bundle(ExportRequest(str(folder), tmp_path / "out"))
    edit_json(folder / "3_Dense/config.json", activation_function="torch.nn.Tanh", in_features=HIDDEN)
    with pytest.raises(InputError, match=f"takes vectors of {HIDDEN} dimensions, but the module before it gives 64"):
        export_bundle(ExportRequest(str(folder), tmp_path / "out"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """A Qwen3 whose tokenizer pads on the left and ends each text, pooled at the last token."""
    root = tmp_path_factory.mktemp("decoder")
    model_type, settings = BACKBONES["Qwen3"]
    tokenizer = byte_level_bpe_with_end()
    folder = make_checkpoint(root / "model", model_type, pooling="lasttoken", tokenizer=tokenizer, **settings)
    return folder, export_bundle(ExportRequest(str(folder), root / "bundle", [Target(2, 16), Target(3, 64)]))


def test_a_decoder_whose_tokenizer_pads_left_gives_the_same_vectors(decoder: tuple[Path, Exported]) -> None:
    folder, exported = decoder
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.tokenizer.padding_side == "left"
    found = Encoder.open(exported.bundle, "3x64").encode(TEXTS)
    np.testing.assert_allclose(found, model.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


@pytest.mark.slow
def test_a_text_without_tokens_has_no_vector(tmp_path: Path) -> None:
    model_type, settings = BACKBONES["Qwen3"]
    tokenizer = byte_level_bpe()
    folder = make_checkpoint(tmp_path / "m", model_type, pooling="mean", tokenizer=tokenizer, **settings)
    bundle = export_bundle(ExportRequest(str(folder), tmp_path / "bundle", [Target(1, 16)], opset=18)).bundle
    assert (bundle.manifest.opset, bundle.manifest.minimum_onnxruntime) == (18, "1.21.1")
    with pytest.raises(InputError, match="The text '' has no token for this model"):
        Encoder.open(bundle).encode(["a", ""])
