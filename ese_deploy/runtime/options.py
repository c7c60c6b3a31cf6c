"""The options of ``encode``, and what they say of batches and of the returned vectors."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines import Batch
from ese_deploy.errors import InputError
from ese_deploy.runtime.precision import Precision, check_precision, needs_ranges

__all__ = ["EncodeOptions", "EncodeSettings", "Usage", "convert", "cut_prefix", "resolve_batch", "resolve_options"]


class EncodeOptions(TypedDict, total=False):
    """Prompt, batches, and the form of vectors; see :meth:`ese_deploy.runtime.encoder.Encoder.encode`."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    batch_tokens: int | None
    show_progress_bar: bool | None
    precision: Precision
    dim: int | None
    truncate_dim: int | None
    normalize_embeddings: bool
    convert_to_numpy: bool
    convert_to_tensor: bool


_NAMES = tuple(EncodeOptions.__annotations__)


@dataclass(frozen=True)
class Usage:
    """What a call of ``encode`` read.

    Attributes:
        texts: number of texts.
        tokens: tokens that were computed, special tokens included and padding excluded.
        truncated: texts that were truncated.
    """

    texts: int
    tokens: int
    truncated: int


@dataclass(frozen=True)
class EncodeSettings:
    """Checked options.

    Attributes:
        prompt_name: name of a prompt, or None.
        prompt: the prompt itself, or None.
        batch: most rows and tokens of a batch.
        show_progress_bar: show a progress bar on standard error.
        precision: of the returned vectors.
        dim: dimensions that are kept.
        normalize: scale kept prefixes to norm 1.
        convert_to_numpy: return an array.
        convert_to_tensor: return a tensor, whatever ``convert_to_numpy`` says.
    """

    prompt_name: str | None
    prompt: str | None
    batch: Batch
    show_progress_bar: bool
    precision: Precision
    dim: int
    normalize: bool
    convert_to_numpy: bool
    convert_to_tensor: bool


def resolve_options(options: EncodeOptions, default: Batch, width: int) -> EncodeSettings:
    """Check options and fill in defaults.

    Args:
        options: as the user gave them.
        default: the engine's batch.
        width: dimensions of the target.

    Raises:
        TypeError: an option is unknown.
        InputError: a limit is below 1, a precision is unknown, or the target has no prefix of that dim.
    """
    for name in options:
        if name not in _NAMES:
            raise TypeError(f"Unknown option '{name}'. Choose from: {', '.join(_NAMES)}.")
    settings = EncodeSettings(
        prompt_name=options.get("prompt_name"),
        prompt=options.get("prompt"),
        batch=resolve_batch(default, options.get("batch_size"), options.get("batch_tokens")),
        show_progress_bar=bool(options.get("show_progress_bar")),
        precision=options.get("precision", "float32"),
        dim=_resolve_dim(options.get("dim"), options.get("truncate_dim"), width),
        normalize=options.get("normalize_embeddings", True),
        convert_to_numpy=options.get("convert_to_numpy", True),
        convert_to_tensor=options.get("convert_to_tensor", False),
    )
    check_precision(settings.precision)
    if needs_ranges(settings.precision) and settings.dim < width and not settings.normalize:
        raise InputError(
            f"Precision '{settings.precision}' needs prefixes of norm 1, the ranges are measured on those. Leave "
            "`normalize_embeddings` out."
        )
    return settings


def resolve_batch(default: Batch, size: int | None, tokens: int | None) -> Batch:
    """The batch that the user chose, with the engine's defaults for the rest.

    Raises:
        InputError: a limit is not an integer or is below 1.
    """
    batch = Batch(default.size if size is None else size, default.tokens if tokens is None else tokens)
    if not all(isinstance(limit, Integral) and limit >= 1 for limit in (batch.size, batch.tokens)):
        raise InputError(
            f"`batch_size` and `batch_tokens` must be integers of at least 1, got {batch.size} and {batch.tokens}."
        )
    return batch


def _resolve_dim(dim: int | None, truncate_dim: int | None, width: int) -> int:
    if dim is not None and truncate_dim is not None and dim != truncate_dim:
        raise InputError(f"`dim` and `truncate_dim` mean the same, got {dim} and {truncate_dim}. Pass one of them.")
    kept = next((value for value in (dim, truncate_dim) if value is not None), width)
    if not isinstance(kept, Integral) or not 1 <= kept <= width:
        raise InputError(f"`dim` must be between 1 and {width}, the dimensions of the target, got {kept}.")
    return kept


def cut_prefix(vectors: NDArray[np.float32], dim: int, normalize: bool = True) -> NDArray[np.float32]:
    """Keep the first ``dim`` components of vectors.

    Args:
        vectors: float32 [n, width].
        dim: components to keep.
        normalize: scale the prefixes to norm 1. Vectors that are kept whole are returned as they are.
    """
    if dim == vectors.shape[1]:
        return vectors
    prefix = vectors[:, :dim]
    if not normalize:
        return prefix
    # The floor is the graph's, which keeps a prefix of zeros.
    unit: NDArray[np.float32] = prefix / np.maximum(np.linalg.norm(prefix, axis=1, keepdims=True), 1e-12)
    return unit


def convert(embeddings: NDArray[Any], settings: EncodeSettings) -> Any:
    """Hand out an array, a tensor, or a list of tensors, as in sentence-transformers.

    Args:
        embeddings: [n, dim], or [dim] for one text.
        settings: which of them.

    Raises:
        InputError: a tensor is wanted and PyTorch is not installed.
    """
    if settings.convert_to_numpy and not settings.convert_to_tensor:
        return embeddings
    try:
        from torch import from_numpy
    except ImportError:
        raise InputError("Tensors need PyTorch. Run: pip install torch, or leave `convert_to_numpy=True`.") from None
    tensor = from_numpy(np.ascontiguousarray(embeddings))
    return tensor if settings.convert_to_tensor or embeddings.ndim == 1 else list(tensor)
