"""sentence-transformers: a module that computes a target of a bundle, for its evaluators and what is built on it."""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule

from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder

__all__ = ["BundleModule"]


class BundleModule(InputModule):  # type: ignore[misc, unused-ignore]
    """The only module of a ``SentenceTransformer``. It has no weights of its own and cannot be trained.

    Example:
        >>> model = SentenceTransformer(modules=[BundleModule("exports/minilm", "3x128")])
    """

    def __init__(self, bundle: str, target: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.encoder = Encoder.open(bundle, target)
        self.max_seq_length = self.encoder.max_seq_length

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Keep texts as they are: the encoder tokenizes them."""
        return {"texts": [(prompt or "") + text for text in inputs]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``sentence_embedding``, float32 [batch, dim]."""
        vectors = self.encoder.encode(features["texts"], prompt="")
        return {**features, "sentence_embedding": torch.from_numpy(vectors)}

    def get_embedding_dimension(self) -> int:
        """Dimensions of a vector."""
        return self.encoder.dim

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Refused, because sentence-transformers opens a saved module of other packages only as remote code."""
        raise InputError(f"A bundle is not saved with a model, got {output_path}. Keep it, and make the module again.")
