"""Features that need no transformer layer: the rarity of tokens, and a table of token vectors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import BundleError

__all__ = ["TOKENS_FILE", "TOKEN_FEATURES", "TokenFeatures", "decode_tokens", "encode_tokens", "rarity_weights"]

TOKENS_FILE = "tokens.safetensors"

TOKEN_FEATURES = ("rarity", "table")
"""What projections can read beside the pooled states: their rarity-weighted means, and the sum of token vectors."""

# The weight of a token of almost every text would only amplify rounding.
_LEAST_RARITY = 0.01


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """Numbers of each token of a vocabulary, which all exits share.

    Attributes:
        rarity: float32 [vocabulary], 0 for tokens of every text to 1 for tokens of no text. None: no exit reads it.
        table: float32 [vocabulary, width], the token vectors. Their sum over a text is its vector at depth 0. None: no
            exit reads it.
    """

    rarity: NDArray[np.float32] | None = None
    table: NDArray[np.float32] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Which of :data:`TOKEN_FEATURES` there are."""
        return frozenset(name for name in TOKEN_FEATURES if getattr(self, name) is not None)

    def sums(self, rows: list[NDArray[np.int32]]) -> NDArray[np.float64]:
        """The sums of token vectors over texts, scaled to norm 1, [n, width].

        Args:
            rows: token ids of each text, special tokens included.
        """
        assert self.table is not None
        flat = np.concatenate(rows)
        starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
        found: NDArray[np.float64] = np.add.reduceat(self.table[flat].astype(np.float64), starts, axis=0)
        unit: NDArray[np.float64] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _NORM_FLOOR)
        return unit


_NORM_FLOOR = 1e-12


def rarity_weights(texts_with_token: NDArray[np.int64], texts: int) -> NDArray[np.float32]:
    """Weights of tokens by their rarity: log((n + 1) / (f + 1)) / log(n + 1), with f of n texts that contain a token.

    Special tokens are in every text and weigh nothing.

    Args:
        texts_with_token: for each token the number of texts that contain it, int64 [vocabulary].
        texts: the number of texts.
    """
    weights = 1 - np.log(texts_with_token + 1) / np.log(texts + 1)
    return np.where(weights < _LEAST_RARITY, 0, weights).astype(np.float32)


def encode_tokens(tokens: TokenFeatures) -> bytes:
    """Encode token features as a safetensors file with the tensors ``rarity`` and ``table``."""
    from safetensors.numpy import save

    return save({name: getattr(tokens, name) for name in sorted(tokens.names)})


def decode_tokens(content: bytes, where: str) -> TokenFeatures:
    """Decode a file of :func:`encode_tokens`.

    Args:
        content: the file's bytes.
        where: its path, for the error message.

    Raises:
        BundleError: the content has another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        if not tensors or set(tensors) - set(TOKEN_FEATURES):
            raise ValueError(f"it has the tensors {', '.join(sorted(tensors)[:5]) or 'none'}")
        for name, dimensions in (("rarity", 1), ("table", 2)):
            tensor = tensors.get(name)
            if tensor is not None and (tensor.dtype != np.float32 or tensor.ndim != dimensions):
                raise ValueError(f"'{name}' is {tensor.dtype} {list(tensor.shape)}")
        if len({len(tensor) for tensor in tensors.values()}) > 1:
            raise ValueError("its tensors have vocabularies of different sizes")
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{where} is not a file of token features: {error}. Export again.") from error
    return TokenFeatures(tensors.get("rarity"), tensors.get("table"))
