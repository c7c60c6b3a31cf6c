"""LangChain: ``Embeddings``."""

from typing import Any

from langchain_core.embeddings import Embeddings

from ese_deploy.runtime import Encoder

__all__ = ["LangChainEmbeddings"]


class LangChainEmbeddings(Embeddings):  # type: ignore[misc, unused-ignore]
    """Embeds the documents and queries of a LangChain vector store.

    Args:
        encoder: an open encoder.
        **options: of ``encode``, such as ``dim=128``.
    """

    def __init__(self, encoder: Encoder, **options: Any) -> None:
        self.encoder = encoder
        self.options = options

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        vectors: list[list[float]] = self.encoder.encode_document(texts, **self.options).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        vector: list[float] = self.encoder.encode_query(text, **self.options).tolist()
        return vector
