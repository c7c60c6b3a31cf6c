"""Reading the tokenizer of a checkpoint, and writing the ``tokenizer.json`` of a bundle."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from ese_deploy.errors import InputError

__all__ = ["CheckpointTokenizer", "read_tokenizer"]


_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


@dataclass(frozen=True)
class CheckpointTokenizer:
    """A tokenizer of a checkpoint.

    Attributes:
        tokenizer: includes lower-casing if the checkpoint sets it.
        pad_id: id of the padding token.
        pad_type_id: token type of padding.
        pad_token: the padding token.
        truncation_side: the side on which long texts are truncated.
        max_length: longest input of the tokenizer's own settings; None if they set no limit.
        special_tokens: the tokens of settings such as ``cls_token``.
    """

    tokenizer: Tokenizer
    pad_id: int
    pad_type_id: int
    pad_token: str
    truncation_side: str
    max_length: int | None
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, max_length: int) -> bytes:
        """Encode a ``tokenizer.json`` that truncates at ``max_length`` tokens and pads on the right."""
        self.tokenizer.enable_truncation(max_length, direction=self.truncation_side)
        self.tokenizer.enable_padding(
            direction="right", pad_id=self.pad_id, pad_type_id=self.pad_type_id, pad_token=self.pad_token
        )
        return self.tokenizer.to_str().encode()

    def config(self, max_length: int, inputs: Sequence[str]) -> dict[str, Any]:
        """The content of a ``tokenizer_config.json`` that fits the file of :meth:`to_json`.

        Args:
            max_length: longest input in tokens.
            inputs: the inputs of the model.
        """
        return {
            "clean_up_tokenization_spaces": False,
            "model_input_names": list(inputs),
            "model_max_length": max_length,
            "pad_token": self.pad_token,
            "pad_token_type_id": self.pad_type_id,
            "padding_side": "right",
            **dict(sorted(self.special_tokens.items())),
            # Both major versions of transformers know this name.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "truncation_side": self.truncation_side,
        }


def read_tokenizer(folder: Path, lower_case: bool) -> CheckpointTokenizer:
    """Read the tokenizer of a checkpoint.

    Args:
        folder: the checkpoint.
        lower_case: lower-case texts before the tokenizer's own normalisation.

    Raises:
        InputError: the checkpoint has no tokenizer, or only a slow one.
    """
    from transformers import AutoTokenizer

    # Without these files, transformers creates a tokenizer with an empty vocabulary.
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise InputError(f"{folder} has no tokenizer. Save the model's tokenizer there with save_pretrained.")
    model = next(folder.glob("*.model"), None)
    if model and not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        raise InputError(
            f"{model} is a SentencePiece model without a tokenizer.json. To convert it, run: pip install sentencepiece"
        )
    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"Cannot read the tokenizer of {folder}: {reason}. Save the model's tokenizer there with save_pretrained."
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise InputError(
            f"{folder} has only a slow tokenizer ({type(loaded).__name__}), but a bundle needs a tokenizer.json. "
            "Load its fast form with transformers and save that with save_pretrained."
        )
    # A copy, because transformers may cache the tokenizer.
    tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    if lower_case:
        own = tokenizer.normalizer
        lower = normalizers.Lowercase()
        tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
    limit = int(loaded.model_max_length)
    return CheckpointTokenizer(
        tokenizer,
        pad_id=loaded.pad_token_id or 0,
        pad_type_id=loaded.pad_token_type_id,
        pad_token=loaded.pad_token or "",
        truncation_side=loaded.truncation_side,
        # transformers writes "no limit" as an int of about 1e30.
        max_length=limit if limit < 1_000_000 else None,
        special_tokens={
            name: str(token) for name, token in loaded.special_tokens_map.items() if not isinstance(token, list)
        },
    )
