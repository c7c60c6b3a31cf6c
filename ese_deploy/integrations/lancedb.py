"""LanceDB: ``TextEmbeddingFunction``, which a table stores by name and opens again."""

import functools
from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register

from ese_deploy.runtime import Encoder

__all__ = ["LanceDbEmbeddingFunction"]


@register("ese-deploy")  # type: ignore[misc, no-untyped-call, unused-ignore]
class LanceDbEmbeddingFunction(TextEmbeddingFunction):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """Embeds the texts and queries of a table with a target of a bundle. Make it with ``create``."""

    bundle: str
    target: str | None = None

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The open bundle."""
        return Encoder.open(self.bundle, self.target)

    def ndims(self) -> int:
        """Dimensions of a vector."""
        return self.encoder.dim

    def generate_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
        """One vector a text."""
        return list(self.encoder.encode_document(list(texts)))

    def compute_query_embeddings(self, query: str, *_: Any, **__: Any) -> list[Any]:
        """The vector of a query."""
        return [self.encoder.encode_query(query)]
