"""Adapters that let other frameworks embed with a bundle. Each imports its framework, which must be installed."""

from typing import TYPE_CHECKING

from ese_deploy.system.lazy import lazy_names

if TYPE_CHECKING:
    from ese_deploy.evaluate.mteb import MtebModel
    from ese_deploy.integrations.chroma import ChromaEmbeddingFunction
    from ese_deploy.integrations.haystack import HaystackDocumentEmbedder, HaystackTextEmbedder
    from ese_deploy.integrations.lancedb import LanceDbEmbeddingFunction
    from ese_deploy.integrations.langchain import LangChainEmbeddings
    from ese_deploy.integrations.llama_index import LlamaIndexEmbedding
    from ese_deploy.integrations.sentence_transformers import BundleModule
    from ese_deploy.integrations.sklearn import TextVectorizer
    from ese_deploy.integrations.spacy import SpacyComponent
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "ese_deploy.evaluate.mteb": ["MtebModel"],
            "ese_deploy.integrations.chroma": ["ChromaEmbeddingFunction"],
            "ese_deploy.integrations.haystack": ["HaystackDocumentEmbedder", "HaystackTextEmbedder"],
            "ese_deploy.integrations.lancedb": ["LanceDbEmbeddingFunction"],
            "ese_deploy.integrations.langchain": ["LangChainEmbeddings"],
            "ese_deploy.integrations.llama_index": ["LlamaIndexEmbedding"],
            "ese_deploy.integrations.sentence_transformers": ["BundleModule"],
            "ese_deploy.integrations.sklearn": ["TextVectorizer"],
            "ese_deploy.integrations.spacy": ["SpacyComponent"],
        },
    )

__all__ = [
    "BundleModule",
    "ChromaEmbeddingFunction",
    "HaystackDocumentEmbedder",
    "HaystackTextEmbedder",
    "LanceDbEmbeddingFunction",
    "LangChainEmbeddings",
    "LlamaIndexEmbedding",
    "MtebModel",
    "SpacyComponent",
    "TextVectorizer",
]
