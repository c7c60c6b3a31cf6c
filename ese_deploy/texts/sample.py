"""The sample corpus: 384 short texts on 24 topics that the package ships, written for this project."""

import functools
import hashlib

import msgspec

__all__ = ["SAMPLE_CORPUS_NAME", "SampleText", "current_name", "sample_corpus", "sample_corpus_sha256"]

SAMPLE_CORPUS_NAME = "sample corpus"
_FORMER_NAME = "ese-deploy collection"


class SampleText(msgspec.Struct, frozen=True):
    """A text of the sample corpus.

    Attributes:
        kind: ``query`` (2 to 9 words), ``sentence`` (8 to 30) or ``passage`` (50 to 170).
        topic: a label such as ``cooking``; each topic has 4 queries, 9 sentences and 3 passages.
        text: the text.
    """

    kind: str
    topic: str
    text: str


def current_name(data: str) -> str:
    """The name of a data set; older files have another name for the sample corpus."""
    return SAMPLE_CORPUS_NAME if data == _FORMER_NAME else data


@functools.cache
def sample_corpus() -> tuple[SampleText, ...]:
    """All texts, in the file's order."""
    decoder = msgspec.json.Decoder(SampleText)
    return tuple(decoder.decode(line) for line in _data().splitlines())


@functools.cache
def sample_corpus_sha256() -> str:
    """SHA-256 of the file."""
    return hashlib.sha256(_data()).hexdigest()


@functools.cache
def _data() -> bytes:
    from importlib.resources import files  # opening a bundle does not need it

    return files("ese_deploy.texts").joinpath("sample_corpus.jsonl").read_bytes()
