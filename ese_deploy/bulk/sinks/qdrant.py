"""Collections of Qdrant: a server, or a folder in local mode."""

import uuid

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.models import Distance, PointStruct, VectorParams

from ese_deploy.bulk.sinks.base import Batch, refuse_dims, split_address
from ese_deploy.errors import InputError

__all__ = ["QdrantSink", "open_address"]

_BATCH = 512
# Qdrant takes whole numbers and UUIDs as ids. A string becomes the UUID of its name in this namespace.
_NAMESPACE = uuid.UUID("6d3d5a5e-9d0b-5c0a-8a57-0f6a3d7f1c11")


class QdrantSink:
    """A collection of Qdrant. The id and the kept fields are the payload of a point."""

    file = None

    def __init__(self, place: str, name: str) -> None:
        self._place = place
        self._client = QdrantClient(url=place) if "://" in place else QdrantClient(path=place)
        self._name = name

    def prepare(self, dim: int, strings: bool) -> None:
        """Create the collection with the cosine distance, unless it is there."""
        try:
            there = self._client.collection_exists(self._name)
        except (ResponseHandlingException, UnexpectedResponse) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"Cannot reach Qdrant at {self._place}: {reason}. Start it, or correct the URL.") from None
        if not there:
            self._client.create_collection(self._name, VectorParams(size=dim, distance=Distance.COSINE))
            return
        params = self._client.get_collection(self._name).config.params.vectors
        refuse_dims(f"Collection {self._name}", params.size if isinstance(params, VectorParams) else 0, dim)

    def write(self, batch: Batch) -> None:
        """Insert points, and replace those with the same id."""
        points = [
            PointStruct(id=_point_id(key), vector=vector.tolist(), payload={"id": key, **fields})
            for key, vector, fields in zip(batch.ids, batch.vectors, batch.fields, strict=True)
        ]
        for start in range(0, len(points), _BATCH):
            self._client.upsert(self._name, points[start : start + _BATCH], wait=True)

    def count(self) -> int:
        """How many points the collection has."""
        return int(self._client.count(self._name, exact=True).count)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _point_id(key: int | str) -> int | str:
    return key if isinstance(key, int) and key >= 0 else str(uuid.uuid5(_NAMESPACE, str(key)))


def open_address(address: str) -> QdrantSink:
    """Open ``qdrant:URL#COLLECTION`` or ``qdrant:FOLDER#COLLECTION``."""
    return QdrantSink(*split_address(address))
