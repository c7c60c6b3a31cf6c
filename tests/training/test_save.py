"""Checkpoints that other tools read in the embedding space of the bundle."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny import HIDDEN, LAYERS, edit_json, make_checkpoint, names, wordpiece_tokenizer, write_json
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import normalizers
from torch import nn

from ese_deploy.backbones import read_checkpoint
from ese_deploy.backbones.contract import EseContract
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.losses import save_contract
from ese_deploy.projections.projection import Projection
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training import train
from ese_deploy.training.model import load_model
from ese_deploy.training.save import write_checkpoint

TEXTS = [item.text for item in sample_corpus()]
TARGETS = [Target(2, 16), Target(LAYERS, 16), Target(LAYERS, HIDDEN)]
CONTRACT = EseContract(variant="espresso", trained_exits=[LAYERS], trained_dims=[HIDDEN])
SHORT: dict[str, Any] = {"max_steps": 2, "batch_size": 8, "workers": 0, "use_cpu": True, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.txt"
    path.write_text("".join(text.replace("\n", " ") + "\n" for text in TEXTS), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_checkpoint, data, tmp_path_factory.mktemp("trained") / "out", **SHORT)


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(trained, tmp_path_factory.mktemp("bundle") / "new")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def export(folder: Path, out: Path) -> Bundle:
    return export_bundle(ExportRequest(str(folder), out, TARGETS)).bundle


def open_model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def old_layout(folder: Path, out: Path) -> Path:
    """The checkpoint as it was written before the projection was a module."""
    loaded = load_model(str(folder), None)
    assert loaded.contract is not None
    loaded.model.save_pretrained(str(out), create_model_card=False)
    save_contract(out, loaded.contract.with_module(None), loaded.projections)
    return out


def rotation(seed: int = 5) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(HIDDEN, HIDDEN)))[0].astype(np.float32)


def save(model: SentenceTransformer, out: Path, projections: Mapping[int, Projection] | None = None) -> Path:
    write_checkpoint(model, CONTRACT, out, projections or {})
    return out


def test_a_trained_checkpoint_has_the_classic_layout(trained: Path) -> None:
    modules = [(item["path"], item["type"]) for item in read(trained / "modules.json")]
    assert modules == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Dense", "sentence_transformers.models.Dense"),
        ("3_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = read(trained / "1_Pooling/config.json")
    assert pooling.pop("word_embedding_dimension") == HIDDEN
    assert {key for key, value in pooling.items() if value} == {"pooling_mode_mean_tokens", "include_prompt"}
    assert len(pooling) == 7
    assert read(trained / "sentence_bert_config.json") == {"max_seq_length": 48, "do_lower_case": False}
    assert read(trained / "2_Dense/config.json") == {
        "in_features": HIDDEN,
        "out_features": HIDDEN,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    assert names(trained / "2_Dense") == ["config.json", "model.safetensors"]
    assert names(trained / "3_Normalize") == []
    assert read(trained / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    contract = read(trained / "ese.json")
    assert (contract["schema_version"], contract["projection_module"]) == (2, "2_Dense")


def test_sentence_transformers_computes_the_vectors_of_the_bundle(trained: Path, bundle: Bundle) -> None:
    model, texts = open_model(trained), TEXTS[:24]
    vectors = model.encode(texts, normalize_embeddings=True)
    full = Encoder.open(bundle, f"{LAYERS}x{HIDDEN}")
    np.testing.assert_allclose(vectors, full.encode(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode(texts, prompt_name="query"), full.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(unit(vectors[:, :16]), Encoder.open(bundle, f"{LAYERS}x16").encode(texts), atol=1e-5)
    truncated = model.encode(texts, normalize_embeddings=True, truncate_dim=16)
    np.testing.assert_allclose(truncated, unit(vectors[:, :16]), atol=1e-5)
    plain = load_model(str(trained), None).model.encode(texts, normalize_embeddings=True)
    assert np.abs(plain - vectors).max() > 0.1, "without the projection it is another space"


def test_the_layout_changes_no_byte_of_graphs_and_weights(trained: Path, bundle: Bundle, tmp_path: Path) -> None:
    old = old_layout(trained, tmp_path / "old")
    assert not list(old.glob("*_Dense")) and read_checkpoint(str(old)).projections.keys() == {1, 2, 3}
    files = [
        {
            path.relative_to(one.path): path.read_bytes()
            for path in one.path.rglob("*")
            if path.is_file() and path.name not in ("manifest.json", "README.md")
        }
        for one in (export(old, tmp_path / "bundle"), bundle)
    ]
    assert files[0] == files[1] and any(path.suffix == ".onnx" for path in files[0])
    sources = [read_checkpoint(str(folder)).weights_sha256() for folder in (old, trained)]
    assert sources[0] == sources[1]


def test_training_starts_from_both_layouts_alike(trained: Path, data: Path, tmp_path: Path) -> None:
    loaded = load_model(str(trained), None)
    assert [type(module).__name__ for module in loaded.model] == ["Transformer", "Pooling", "Normalize"]
    assert loaded.projections.keys() == {1, 2, 3}
    old = old_layout(trained, tmp_path / "old")
    again = [train(folder, data, tmp_path / f"again{i}", **SHORT) for i, folder in enumerate((old, trained))]
    for file in ("model.safetensors", "projection.safetensors", "2_Dense/model.safetensors", "modules.json"):
        assert (again[0] / file).read_bytes() == (again[1] / file).read_bytes(), file
    assert (again[0] / "projection.safetensors").read_bytes() != (trained / "projection.safetensors").read_bytes()
    third = train(again[1], data, tmp_path / "third", **SHORT)
    assert names(third) == names(trained)
    projection = read_checkpoint(str(third)).projections[LAYERS].matrix
    np.testing.assert_array_equal(load_file(third / "2_Dense/model.safetensors")["linear.weight"], projection)
    plain = train(third, data, tmp_path / "plain", projections=0, **SHORT)
    assert not list(plain.glob("*_Dense")) and read(plain / "ese.json")["projection_module"] is None


def test_the_best_checkpoint_has_the_layout_and_a_run_resumes(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    rows = [f"{a}\t{b}\t{i % 3}\n" for i, (a, b) in enumerate(zip(TEXTS[:8], TEXTS[8:16], strict=True))]
    (tmp_path / "scored.tsv").write_text("text1\ttext2\tlabel\n" + "".join(rows), "utf-8")
    settings = {**SHORT, "max_steps": 1, "save_steps": 1, "scored": [str(tmp_path / "scored.tsv")]}
    out = train(tiny_checkpoint, data, tmp_path / "out", **settings)
    best = tmp_path / "out.run/best-checkpoint"
    assert names(best) == names(out)
    assert read_checkpoint(str(best)).head == ()
    assert not list((tmp_path / "out.run/checkpoint-1").glob("*_Dense"))
    out.rename(tmp_path / "first")
    train(tiny_checkpoint, data, out, resume=True, **settings)
    file = "2_Dense/model.safetensors"
    assert (out / file).read_bytes() == (tmp_path / "first" / file).read_bytes()


def test_truncation_writes_only_a_projection_of_the_exits_own_vector(trained: Path, tmp_path: Path) -> None:
    cut = train(trained, None, tmp_path / "cut", truncate_to=2)
    assert read(cut / "ese.json")["projection_module"] is None and not list(cut.glob("*_Dense"))
    assert read_checkpoint(str(cut)).projections[2].states == (0, 1, 2)
    whole = train(trained, None, tmp_path / "whole", truncate_to=LAYERS)
    np.testing.assert_array_equal(open_model(whole).encode(TEXTS[:4]), open_model(trained).encode(TEXTS[:4]))
    loaded = load_model(str(trained), None)
    loaded = replace(loaded, projections={2: Projection(rotation()), LAYERS: Projection(rotation(6))})
    save(loaded.model, tmp_path / "own", loaded.projections)
    own = train(tmp_path / "own", None, tmp_path / "own2", truncate_to=2)
    assert read(own / "ese.json")["projection_module"] == "2_Dense"
    np.testing.assert_array_equal(load_file(own / "2_Dense/model.safetensors")["linear.weight"], rotation())


def spoil_matrix(folder: Path) -> None:
    save_file({"linear.weight": np.eye(HIDDEN, dtype=np.float32)}, folder / "2_Dense/model.safetensors")


def spoil_shape(folder: Path) -> None:
    edit_json(folder / "2_Dense/config.json", out_features=16)
    save_file({"linear.weight": np.ones((16, HIDDEN), np.float32)}, folder / "2_Dense/model.safetensors")
    (folder / "projection.safetensors").unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_matrix,
        spoil_shape,
        lambda folder: edit_json(folder / "2_Dense/config.json", activation_function="torch.nn.Tanh"),
        lambda folder: edit_json(folder / "ese.json", projection_module="1_Dense"),
        lambda folder: (folder / "projection.safetensors").unlink(),
    ],
)
def test_a_module_that_is_not_the_projection_is_refused(copy: Path, spoil: Any) -> None:
    spoil(copy)
    with pytest.raises(InputError, match=r"_Dense is not the full depth's projection .* delete ese\.json and proj"):
        read_checkpoint(str(copy))
    (copy / "ese.json").unlink()
    (copy / "projection.safetensors").unlink(missing_ok=True)
    assert len(read_checkpoint(str(copy)).head) == 1, "then it is a module like any other"


def test_a_head_stays_before_the_projection(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = open_model(tiny_checkpoint)
    model.insert(2, Dense(HIDDEN, 24, activation_function=nn.Tanh()))
    before = model.encode(TEXTS[:6])
    matrix = np.ascontiguousarray(rotation()[:24, :24])
    folder = save(model, tmp_path / "out", {LAYERS: Projection(matrix)})
    assert [item["path"] for item in read(folder / "modules.json")] == [
        "",
        "1_Pooling",
        "2_Dense",
        "3_Dense",
        "4_Normalize",
    ]
    assert read(folder / "2_Dense/config.json").keys() == {"in_features", "out_features", "bias", "activation_function"}
    np.testing.assert_allclose(open_model(folder).encode(TEXTS[:6]), unit(before @ matrix.T), atol=1e-6)
    checkpoint = read_checkpoint(str(folder))
    assert [layer.weights.parent.name for layer in checkpoint.head] == ["2_Dense"] and checkpoint.width == 24


def test_a_model_without_normalize_ends_with_the_projection(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = open_model(tiny_checkpoint)
    assert isinstance(model[-1], Normalize)
    del model[-1]
    before = model.encode(TEXTS[:6])
    folder = save(model, tmp_path / "out", {LAYERS: Projection(rotation())})
    np.testing.assert_allclose(open_model(folder).encode(TEXTS[:6]), before @ rotation().T, atol=1e-5)
    assert len(load_model(str(folder), None).model) == 2


@pytest.mark.parametrize("pooling", [*Pooling.POOLING_MODES, ("cls", "mean"), ("mean", "cls"), ("mean", "mean")])
def test_every_pooling_is_read_as_before(tiny_checkpoint: Path, tmp_path: Path, pooling: Any) -> None:
    model = open_model(tiny_checkpoint)
    model[1] = Pooling(HIDDEN, pooling)
    folder = save(model, tmp_path / "out")
    assert open_model(folder)[1].pooling_mode == pooling
    assert read_checkpoint(str(folder)).pooling == (pooling if isinstance(pooling, str) else "+".join(pooling))
    assert ("pooling_mode" in read(folder / "1_Pooling/config.json")) == (pooling[0] == "mean")


def test_lower_case_and_special_tokens_survive(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(extra_special_tokens=["<one>", "<two>"])
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    settings: dict[str, Any] = {"lower_case": True, "max_seq_length": 32, "vocab_size": 602}
    source = make_checkpoint(tmp_path / "in", tokenizer=tokenizer, **settings)
    model = open_model(source)
    folder = save(model, tmp_path / "out")
    config = read(folder / "tokenizer_config.json")
    assert config["additional_special_tokens"] == ["<one>", "<two>"] and "extra_special_tokens" not in config
    again = open_model(folder)
    assert again.max_seq_length == read_checkpoint(str(folder)).max_seq_length == 32
    assert again.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    texts = ["HELLO <one> World", *TEXTS[:8]]
    np.testing.assert_array_equal(again.encode(texts), model.encode(texts))
    np.testing.assert_array_equal(again.encode("HELLO World"), again.encode("hello world"))


def test_what_the_classic_layout_cannot_express_stays(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "in")
    options = {"text": {"padding": "max_length"}}
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 48, "processing_kwargs": options})
    folder = save(open_model(source), tmp_path / "out")
    config = read(folder / "sentence_bert_config.json")
    assert (config["max_seq_length"], config["processing_kwargs"]) == (48, options)
    assert config["modality_config"].keys() == {"text"}
