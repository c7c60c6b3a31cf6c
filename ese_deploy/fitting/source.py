"""What fitting needs of a model and its texts."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ese_deploy.system.progress import Progress

__all__ = ["StateBatch", "StateSource", "TokenCounts"]


@dataclass(frozen=True)
class StateBatch:
    """The pooled token states of one batch, on the CPU.

    Attributes:
        tokens: token ids of each text, special tokens included.
        pooled: for each state float32 [batch, pooled].
        weighted: for each state float32 [batch, hidden], the sum of the token states weighted by rarity; empty without
            rarity weights.
        vectors: float32 [batch, width], the full model's vectors, of any norm.
    """

    tokens: list[NDArray[np.int32]]
    pooled: dict[int, Tensor]
    weighted: dict[int, Tensor]
    vectors: Tensor


@dataclass(frozen=True)
class TokenCounts:
    """How often tokens occur.

    Attributes:
        texts: number of texts.
        with_token: for each token the number of texts that contain it, int64 [vocabulary].
    """

    texts: int
    with_token: NDArray[np.int64]


class StateSource(Protocol):
    """A model and the texts to fit on. All passes give the same texts in the same order.

    Attributes:
        depth: layers of the model.
        hidden: dimensions of a token state.
        pooled: dimensions of pooled states, a multiple of ``hidden``.
        width: dimensions of the full model's vectors.
        texts_name: what the texts are called in errors.
    """

    depth: int
    hidden: int
    pooled: int
    width: int
    texts_name: str

    def count_tokens(self, progress: Progress) -> TokenCounts:
        """Count the texts that contain each token."""
        ...

    def batches(
        self,
        states: Collection[int],
        progress: Progress,
        rarity: NDArray[np.float32] | None = None,
        weighted: Collection[int] = (),
    ) -> Iterator[StateBatch]:
        """Run the model over the texts.

        Args:
            states: the layers whose pooled states are wanted; 0 is the output of the embeddings.
            progress: called after each window of texts.
            rarity: rarity weights, float32 [vocabulary].
            weighted: states of which rarity-weighted sums are wanted too.
        """
        ...

    def token_states(self) -> NDArray[np.float32]:
        """The output of the embeddings for each token alone at the first position, [vocabulary, hidden]."""
        ...

    def empty_text(self) -> NDArray[np.float32]:
        """The full model's vector of the empty text, of norm 1, [width]; zeros if the empty text has no token."""
        ...
