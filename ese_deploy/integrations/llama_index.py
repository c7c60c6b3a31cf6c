"""LlamaIndex: ``BaseEmbedding``."""

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from ese_deploy.runtime import Encoder

__all__ = ["LlamaIndexEmbedding"]


class LlamaIndexEmbedding(BaseEmbedding):  # type: ignore[misc, unused-ignore]
    """Embeds the nodes and queries of a LlamaIndex index.

    Args:
        encoder: an open encoder.
        **settings: of ``BaseEmbedding``, such as ``embed_batch_size``.
    """

    _encoder: Encoder = PrivateAttr()

    def __init__(self, encoder: Encoder, **settings: Any) -> None:
        super().__init__(**{"model_name": f"{encoder.bundle.path.name}:{encoder.target}", **settings})
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex shows."""
        return "LlamaIndexEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._encoder.encode_document(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._encoder.encode_query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)
