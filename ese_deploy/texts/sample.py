"""A collection of short texts written for this project: queries, sentences and passages on 24 topics."""

import functools
import hashlib
from importlib.resources import files

import msgspec

__all__ = ["SAMPLE_CORPUS_NAME", "SampleText", "sample_corpus", "sample_corpus_sha256"]

SAMPLE_CORPUS_NAME = "ese-deploy collection"


class SampleText(msgspec.Struct, frozen=True):
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
def sample_corpus() -> tuple[SampleText, ...]:
    """All 384 texts, in the file's order."""
    decoder = msgspec.json.Decoder(SampleText)
    return tuple(decoder.decode(line) for line in _data().splitlines())


@functools.cache
def sample_corpus_sha256() -> str:
    """Hash of the collection's file."""
    return hashlib.sha256(_data()).hexdigest()


@functools.cache
def _data() -> bytes:
    return files("ese_deploy.texts").joinpath("collection.jsonl").read_bytes()
