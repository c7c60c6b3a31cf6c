"""The classic layout of a sentence-transformers folder.

It is that of sentence-transformers 3 to 6, text-embeddings-inference, infinity and vLLM. sentence-transformers 6 writes
another one, which the others do not read or read as another model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.backbones.files import read_json
from ese_deploy.backbones.modules import LEGACY_POOLINGS

__all__ = ["use_classic_layout"]

_CLASSIC = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
_SENTENCE_VECTOR = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_TOKEN_STATES = {"method": "forward", "method_output_name": "last_hidden_state"}
# Keys of sentence-transformers 6 that repeat what a classic Transformer module does.
_TRANSFORMER_KEYS = {"transformer_task", "modality_config", "module_output_name", "max_seq_length", "do_lower_case"}
_NO_LIMIT = 1_000_000


def use_classic_layout(
    folder: Path, max_seq_length: int | None, projection: NDArray[np.float32] | None = None
) -> str | None:
    """Rewrite the settings of a folder that ``SentenceTransformer.save_pretrained`` wrote; weights stay.

    What the classic layout cannot express, such as poolings in another order, stays in the layout of version 6.

    Args:
        folder: the folder.
        max_seq_length: longest input in tokens.
        projection: a matrix [width, width] to add as a Dense module, before a final Normalize.

    Returns:
        The folder of the added module, relative to ``folder``; None without a projection.
    """
    modules = read_json(folder / "modules.json")
    for item in modules:
        kind = str(item["type"]).rpartition(".")[2]
        if kind in _CLASSIC:
            item["type"] = f"sentence_transformers.models.{kind}"
        if kind in _REWRITERS:
            _REWRITERS[kind](folder / item["path"] / "config.json")
    added = None if projection is None else _add_dense(folder, modules, projection)
    _write_json(folder / "modules.json", modules)
    root = folder / modules[0]["path"]
    _rewrite_transformer(root / "sentence_bert_config.json", max_seq_length)
    _rewrite_tokenizer(root / "tokenizer_config.json")
    return added


def _add_dense(folder: Path, modules: list[dict[str, Any]], matrix: NDArray[np.float32]) -> str:
    from safetensors.numpy import save_file

    place = len(modules)
    if modules[-1]["type"].endswith(".Normalize"):
        place -= 1
        moved = f"{place + 1}_Normalize"
        (folder / modules[-1]["path"]).rename(folder / moved)
        modules[-1]["path"] = moved
    name = f"{place}_Dense"
    modules.insert(place, {"path": name, "type": "sentence_transformers.models.Dense"})
    for number, item in enumerate(modules):
        item.update(idx=number, name=str(number))
    width = len(matrix)
    (folder / name).mkdir()
    _write_json(
        folder / name / "config.json",
        {
            "in_features": width,
            "out_features": width,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    save_file({"linear.weight": np.ascontiguousarray(matrix)}, folder / name / "model.safetensors", {"format": "pt"})
    return name


def _rewrite_pooling(path: Path) -> None:
    config = read_json(path)
    stated = config["pooling_mode"]
    modes = [stated] if isinstance(stated, str) else stated
    if modes != [mode for mode in LEGACY_POOLINGS.values() if mode in modes]:
        return
    _write_json(
        path,
        {
            "word_embedding_dimension": config["embedding_dimension"],
            **{flag: mode in modes for flag, mode in LEGACY_POOLINGS.items()},
            "include_prompt": config["include_prompt"],
        },
    )


def _rewrite_dense(path: Path) -> None:
    config = read_json(path)
    if all(config.get(key, value) == value for key, value in _SENTENCE_VECTOR.items()):
        _write_json(path, {key: value for key, value in config.items() if key not in _SENTENCE_VECTOR})


def _rewrite_normalize(path: Path) -> None:
    if read_json(path, optional=True) == _SENTENCE_VECTOR:
        path.unlink()


_REWRITERS = {"Pooling": _rewrite_pooling, "Dense": _rewrite_dense, "Normalize": _rewrite_normalize}


def _rewrite_transformer(path: Path, max_seq_length: int | None) -> None:
    config = read_json(path)
    plain = (
        config.keys() <= _TRANSFORMER_KEYS
        and config.get("transformer_task", "feature-extraction") == "feature-extraction"
        and config.get("module_output_name", "token_embeddings") == "token_embeddings"
        and all(_TOKEN_STATES.items() <= modality.items() for modality in config.get("modality_config", {}).values())
    )
    limit = max_seq_length if max_seq_length and max_seq_length < _NO_LIMIT else None
    # Lower-casing is part of the tokenizer that version 6 wrote.
    _write_json(path, {**({} if plain else config), "max_seq_length": limit, "do_lower_case": False})


def _rewrite_tokenizer(path: Path) -> None:
    if not path.is_file():
        return
    config = read_json(path)
    # Both names are of the same class; transformers 4 knows the second only.
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    _write_json(path, config)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
