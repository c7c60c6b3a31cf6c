"""Vectors of the exits of a draft: the widest target of a depth and dtype is run once for all of its dims."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import Engine
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.vectors import unchecked_vectors
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.emulate import engine_for

__all__ = ["ExitVectors"]

Vectors = NDArray[np.float32]


class ExitVectors:
    """Embeds texts with exits. The other targets of an exit are prefixes, which verification compared with PyTorch.

    Args:
        bundle: the bundle.
        engine: the engine that runs the graphs.
        targets: the targets whose exits are asked for.
    """

    def __init__(self, bundle: Bundle, engine: Engine, targets: Sequence[Target]) -> None:
        self._bundle = bundle
        self._engine = engine
        self._widest = {(target.depth, target.dtype): target for target in sorted(targets)}
        self._sample: dict[Target, Vectors] = {}

    def of_sample(self, target: Target) -> Vectors:
        """Vectors of the sample corpus, float32 [n, widest dim of the exit]; embedded once for each exit."""
        widest = self._widest[target.depth, target.dtype]
        if widest not in self._sample:
            self._sample[widest] = next(self.embed(widest, [[item.text for item in sample_corpus()]]))
        return self._sample[widest]

    def embed(self, target: Target, pieces: Iterable[Sequence[str]]) -> Iterator[Vectors]:
        """Vectors of each piece of texts, float32 [n, widest dim of the exit]."""
        widest = self._widest[target.depth, target.dtype]
        runner = engine_for(self._engine, widest.dtype)
        encoder = Encoder.open(self._bundle, widest, engine=runner, log_truncated=False)
        for texts in pieces:
            # A kept target that failed may give vectors that an encoder refuses.
            with unchecked_vectors():
                vectors = encoder.encode(texts)
            yield vectors
