"""Haystack: a component for queries and one for documents."""

import dataclasses
from typing import Any

from haystack import Document, component, default_to_dict

from ese_deploy.runtime import Encoder

__all__ = ["HaystackDocumentEmbedder", "HaystackTextEmbedder"]


class _Embedder:
    """Opens the bundle in ``warm_up``, so that a pipeline can be saved and loaded without it."""

    def __init__(self, bundle: str, target: str | None = None) -> None:
        self.bundle = bundle
        self.target = target
        self._encoder: Encoder | None = None

    def warm_up(self) -> Encoder:
        """Open the bundle."""
        self._encoder = self._encoder or Encoder.open(self.bundle, self.target)
        return self._encoder

    def to_dict(self) -> dict[str, Any]:
        """The arguments, for a saved pipeline."""
        settings: dict[str, Any] = default_to_dict(self, bundle=self.bundle, target=self.target)
        return settings


@component  # type: ignore[misc, unused-ignore]
class HaystackTextEmbedder(_Embedder):
    """Embeds a query with a target of a bundle."""

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator, unused-ignore]
    def run(self, text: str) -> dict[str, Any]:
        """The vector of a query as ``embedding``."""
        return {"embedding": self.warm_up().encode_query(text).tolist()}


@component  # type: ignore[misc, unused-ignore]
class HaystackDocumentEmbedder(_Embedder):
    """Embeds documents with a target of a bundle."""

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator, unused-ignore]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The documents with their vectors."""
        vectors = self.warm_up().encode_document([document.content or "" for document in documents]).tolist()
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [dataclasses.replace(document, embedding=vector) for document, vector in pairs]}
