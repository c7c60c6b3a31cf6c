"""Databases and index files that take vectors: LanceDB, Qdrant, PostgreSQL with pgvector, FAISS and usearch."""

from ese_deploy.bulk.sinks.base import SINKS, Batch, Sink, open_sink

__all__ = ["SINKS", "Batch", "Sink", "open_sink"]
