"""The one place where a backbone says what is special about its exits."""

from dataclasses import dataclass
from typing import Any

from ese_deploy.errors import InputError

__all__ = ["ARCHITECTURES", "Architecture", "find_architecture", "position_limit", "uses_token_types"]


@dataclass(frozen=True)
class Architecture:
    """A backbone of transformers, by its ``model_type``.

    Attributes:
        model_type: as in the checkpoint's ``config.json``.
        final_norm: path of the norm that follows the last block of a pre-norm model. ``hidden_states[l]`` has not
            passed it for l < L, so exits apply it there.
        padding_positions: positions are counted from ``pad_token_id + 1``, as in RoBERTa, so that the position table
            holds that many texts fewer than its length says.
        per_layer_lists: config fields with one item per block, which a truncated model must cut too.
    """

    model_type: str
    final_norm: str | None = None
    padding_positions: bool = False
    per_layer_lists: tuple[str, ...] = ()


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("bert"),
        Architecture("camembert", padding_positions=True),
        Architecture("distilbert"),
        Architecture("electra"),
        Architecture("roberta", padding_positions=True),
        Architecture("xlm-roberta", padding_positions=True),
    )
}


def find_architecture(model_type: str) -> Architecture:
    """Look an architecture up.

    Raises:
        InputError: it is not supported; the message names those that are.
    """
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        supported = ", ".join(ARCHITECTURES)
        raise InputError(f"architecture '{model_type}' is not supported; supported are: {supported}") from None


def position_limit(architecture: Architecture, config: Any) -> int:
    """Longest input in tokens that the position table allows."""
    limit = int(config.max_position_embeddings)
    return limit - int(config.pad_token_id) - 1 if architecture.padding_positions else limit


def uses_token_types(config: Any) -> bool:
    """Whether the backbone tells the two texts of a pair apart."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1
