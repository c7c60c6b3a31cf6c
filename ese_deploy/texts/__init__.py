"""A collection of short texts written for this project: queries, sentences and passages on 24 topics."""

import functools
import hashlib
from importlib.resources import files

import msgspec

__all__ = ["COLLECTION_NAME", "CollectionText", "collection", "collection_sha256"]

COLLECTION_NAME = "ese-deploy collection"


class CollectionText(msgspec.Struct, frozen=True):
    """A text of the collection.

    Attributes:
        kind: ``query`` (2 to 9 words), ``sentence`` (8 to 30) or ``passage`` (50 to 170).
        topic: a label such as ``cooking``; each topic has 4 queries, 9 sentences and 3 passages.
        text: the text.
    """

    kind: str
    topic: str
    text: str


@functools.cache
def collection() -> tuple[CollectionText, ...]:
    """All 384 texts, in the file's order."""
    decoder = msgspec.json.Decoder(CollectionText)
    return tuple(decoder.decode(line) for line in _data().splitlines())


@functools.cache
def collection_sha256() -> str:
    """Hash of the collection's file."""
    return hashlib.sha256(_data()).hexdigest()


@functools.cache
def _data() -> bytes:
    return files(__name__).joinpath("collection.jsonl").read_bytes()
