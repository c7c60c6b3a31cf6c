"""Folders that are easily misread: they give the vectors of sentence-transformers, or an error."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BACKBONES, MAX_LENGTH, edit_json, make_checkpoint, write_json
from safetensors.torch import load_file, save_file

from ese_deploy.backbones import Checkpoint, load_backbone, read_checkpoint
from ese_deploy.backbones.architectures import find_architecture
from ese_deploy.backbones.exits import exit_states
from ese_deploy.errors import InputError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def set_type(folder: Path, place: int, path: str) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules[place]["type"] = path
    write_json(folder / "modules.json", modules)


@pytest.mark.parametrize(
    ("place", "path"),
    [(0, "custom_st.Transformer"), (1, "my_pool.Pooling"), (2, "x.Normalize"), (2, "x.Dropout"), (1, "Pooling")],
)
def test_a_module_of_own_code_is_refused_whatever_its_last_name(folder: Path, place: int, path: str) -> None:
    set_type(folder, place, path)
    refused(folder, f"the module '{path}' of the checkpoint's own code, which is never run")


@pytest.mark.parametrize(
    "path",
    [
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Pooling.Pooling",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    ],
)
def test_the_paths_of_all_releases_are_known(folder: Path, path: str) -> None:
    set_type(folder, 1, path)
    assert read_checkpoint(str(folder)).pooling == "mean"


@pytest.mark.parametrize("name", ["my_act.Identity", "torch.nn.Softsign", "torch.nn.functional.Tanh", 3])
def test_an_activation_of_own_code_is_refused(folder: Path, name: object) -> None:
    (folder / "3_Dense").mkdir()
    save_file({"linear.weight": torch.eye(32), "linear.bias": torch.zeros(32)}, folder / "3_Dense/model.safetensors")
    config = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": name}
    write_json(folder / "3_Dense/config.json", config)
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(folder / "modules.json", [*modules, dense])
    refused(folder, f"the activation '{name}'. Supported are those of torch.nn: Identity")


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_older_names_of_the_settings_are_read(folder: Path, name: str) -> None:
    (folder / "sentence_bert_config.json").unlink()
    write_json(folder / f"sentence_{name}_config.json", {"max_seq_length": 16, "do_lower_case": True})
    found = read_checkpoint(str(folder))
    assert (found.max_seq_length, found.lower_case) == (16, True)


def test_of_several_settings_the_first_name_counts(folder: Path) -> None:
    write_json(folder / "sentence_roberta_config.json", {"max_seq_length": 16})
    assert read_checkpoint(str(folder)).max_seq_length == MAX_LENGTH


BROKEN: dict[str, tuple[str, Any, str]] = {
    "modules without type": ("modules.json", [{"idx": 0}], r"modules\.json: the module 0 has no 'type'"),
    "modules as object": ("modules.json", {"a": 1}, "must hold a list of objects"),
    "module outside": (
        "modules.json",
        [{"idx": 0, "type": "sentence_transformers.models.Transformer", "path": "../x"}],
        "outside of the checkpoint",
    ),
    "pooling as list": ("1_Pooling/config.json", [], r"1_Pooling/config\.json must hold an object"),
    "pooling of numbers": ("1_Pooling/config.json", {"pooling_mode": [1]}, "pooling_mode is"),
    "pooling with a new key": ("1_Pooling/config.json", {"pooling_window": 3}, "pooling_window is not known"),
    "length as text": ("sentence_bert_config.json", {"max_seq_length": "64"}, "max_seq_length is '64'"),
    "length -1": ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length is -1"),
    "length 0": ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0"),
    "length true": ("sentence_bert_config.json", {"max_seq_length": True}, "max_seq_length is True"),
    "lower case": ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case is 'no'"),
    "arguments": ("sentence_bert_config.json", {"model_args": {"hidden_act": "relu"}}, "model_args sets 'hidden_act'"),
    "modality": ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "modality_config"),
    "normalize": ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name is"),
    "prompt": ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt_name is 'x'"),
    "settings as list": ("config_sentence_transformers.json", [], "must hold an object"),
    "adapter": ("adapter_config.json", {}, "LoRA adapter"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_followed_is_named_at_once(folder: Path, name: str) -> None:
    file, value, message = BROKEN[name]
    write_json(folder / file, value)
    refused(folder, message)


def test_an_index_without_files_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {})
    refused(folder, r"model\.safetensors\.index\.json has no weight_map")


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
    (folder / "model.safetensors").write_text(pointer)
    refused(folder, "is a git-lfs pointer, not the weights. Run git lfs pull")


def test_weights_that_are_not_finite_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="a value that is NaN or infinite, in "):
        load_backbone(read_checkpoint(str(folder)))


def _states(checkpoint: Checkpoint, backbone: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 17, 30], [6, 7, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    return exit_states(backbone, checkpoint.architecture, ids, mask)[-1]


@pytest.mark.parametrize("title", ["Llama", "Qwen3"])
def test_a_decoder_that_is_said_not_to_be_causal_attends_in_both_directions(title: str, tmp_path: Path) -> None:
    model_type, settings = BACKBONES[title]
    folder = make_checkpoint(tmp_path / "m", model_type, **settings)
    edit_json(folder / "config.json", is_causal=False)
    checkpoint = read_checkpoint(str(folder))
    backbone = load_backbone(checkpoint)
    ids = torch.tensor([[5, 9, 17, 30]])
    expected = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(_states(checkpoint, backbone)[:1], expected, atol=2e-6, rtol=0)
    assert find_architecture(checkpoint.config).mask == "plain"
    # The first token sees the last one.
    changed = backbone(input_ids=torch.tensor([[5, 9, 17, 31]]), attention_mask=torch.ones_like(ids))
    assert float((changed.last_hidden_state - expected)[:, 0].abs().max()) > 1e-4
