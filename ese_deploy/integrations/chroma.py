"""Chroma: ``EmbeddingFunction``, which a collection stores by name and opens again."""

from typing import Any

from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from ese_deploy.runtime import Encoder

__all__ = ["ChromaEmbeddingFunction"]


@register_embedding_function  # type: ignore[misc, unused-ignore]
class ChromaEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc, unused-ignore]
    """Embeds the documents and queries of a collection with a target of a bundle."""

    def __init__(self, bundle: str, target: str | None = None) -> None:
        self.encoder = Encoder.open(bundle, target)

    def __call__(self, input: Documents) -> Embeddings:
        """One vector a document."""
        return list(self.encoder.encode_document(input))

    def embed_query(self, input: Documents) -> Embeddings:
        """One vector a query."""
        return list(self.encoder.encode_query(input))

    @staticmethod
    def name() -> str:
        """The name that a collection stores."""
        return "ese-deploy"

    def default_space(self) -> str:
        """Vectors are compared by their cosine."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """The arguments that a collection stores."""
        return {"bundle": str(self.encoder.bundle.path), "target": str(self.encoder.target)}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "ChromaEmbeddingFunction":
        """Open the bundle that a collection names."""
        return ChromaEmbeddingFunction(**config)
