"""A use in words, such as "10M documents, 50 queries/s, 2 cores, 512 MB", and what a pair of targets takes for it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ese_deploy.choose.budgets import parse_latency, parse_size
from ese_deploy.choose.choice import Candidate
from ese_deploy.errors import InputError

__all__ = ["DOCUMENT_TOKENS", "QUERY_TOKENS", "Need", "Pair", "PairLimit", "excess", "pairs_of", "parse_need"]

QUERY_TOKENS, DOCUMENT_TOKENS = 32, 128
"""Tokens of the texts that are measured for queries and for documents."""

# Bits of a component of a stored vector, the most exact first.
PRECISIONS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}
# Above this share of the cores queries wait for each other.
_BUSIEST = 0.7

_NUMBER = r"(\d+(?:\.\d+)?)"
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_EXAMPLE = "10M documents, 50 queries/s, 2 cores, 512 MB"


@dataclass(frozen=True)
class Need:
    """What an index has to do, and what there is for it.

    Attributes:
        documents: vectors in the index.
        queries_per_second: that are encoded and searched.
        cores: of the machine; None for those of this process.
        memory: bytes for the process and the vectors together; None for any.
        latency: seconds within which the median query is encoded; None for any.
    """

    documents: int
    queries_per_second: float = 0.0
    cores: int | None = None
    memory: int | None = None
    latency: float | None = None


class PairLimit(StrEnum):
    """What limits a pair."""

    MEMORY = "memory"
    QUERIES = "queries per second"
    LATENCY = "latency"


@dataclass(frozen=True)
class Pair:
    """A target for documents and one for queries, with what they take.

    Attributes:
        index: makes the vectors of documents.
        query: makes those of queries; of the same dim and embedding space.
        precision: in which vectors are stored.
        index_bytes: of the vectors alone.
        memory: bytes of the process of queries and of the vectors.
        indexing_seconds: with all cores.
        latency: seconds from a query to its vector, median, on one core.
        load: share of the cores that encoding the queries takes.
        quality: the lower of the two targets' figures.
    """

    index: Candidate
    query: Candidate
    precision: str
    index_bytes: int
    memory: float
    indexing_seconds: float
    latency: float
    load: float
    quality: float

    @property
    def symmetric(self) -> bool:
        """Whether one target makes both."""
        return self.index.entry.target == self.query.entry.target


def parse_need(text: str) -> Need:
    """Read parts separated by commas: documents, queries/s, cores, memory, and a latency.

    Raises:
        InputError: a part is not understood or stands twice, or documents are missing.
    """
    found: dict[str, Any] = {}
    for part in (one.strip() for one in re.split(r",(?!\d{3}\b)", text)):
        name, value = _part(part)
        if name in found:
            raise InputError(f"`for` names {name.replace('_', ' ')} twice: '{text}'. Leave one out.")
        found[name] = value
    if found.get("documents", 0) < 1:
        raise InputError(f"`for` needs a number of documents, got '{text}'. Write for example '{_EXAMPLE}'.")
    return Need(**found)


_PARTS = {
    "documents": rf"{_NUMBER}\s*(k|m|g|b|thousand|million|billion)?\s*(?:documents?|docs?|texts?|vectors?)",
    "queries_per_second": rf"{_NUMBER}\s*(?:quer(?:y|ies)|requests?)\s*(?:/|per )\s*(s|second|min|minute|h|hour)",
    "cores": r"(\d+)()\s*v?(?:cores?|cpus?)",
    "memory": rf"{_NUMBER}\s*([kmg]i?b)(?:\s*(?:of )?(?:memory|ram))?",
    "latency": rf"{_NUMBER}\s*(ms|s)",
}


def _part(part: str) -> tuple[str, float | int]:
    """The name and the value of a part."""
    words = part.replace(",", "")
    for name, pattern in _PARTS.items():
        found = re.fullmatch(pattern, words, re.IGNORECASE)
        if found is not None:
            return name, _value(name, found[1], found[2] or "")
    raise InputError(f"`for` has '{part}', which is not understood. Write for example '{_EXAMPLE}'.")


def _value(name: str, number: str, unit: str) -> float | int:
    match name:
        case "documents":
            return round(float(number) * _COUNTS[unit.lower()])
        case "queries_per_second":
            return float(number) / {"s": 1, "m": 60, "h": 3600}[unit[0].lower()]
        case "cores":
            if int(number) < 1:
                raise InputError("`for` needs at least 1 core, got 0.")
            return int(number)
        case "memory":
            return parse_size(f"{number}{unit[0].upper()}{unit[1:].replace('b', 'B').replace('I', 'i')}", "a memory")
        case _:
            return parse_latency(f"{number}{unit.lower()}").seconds


def pairs_of(candidates: Sequence[Candidate], need: Need, cores: int) -> list[Pair]:
    """All pairs of targets of one dim and embedding space with every precision, as far as they were measured.

    Queries need not be deeper than documents: documents are embedded once.

    Args:
        candidates: targets on one engine, with latency on one core, throughput on all cores, memory and quality.
        need: what is needed.
        cores: of the machine.
    """
    return [
        _pair(index, query, precision, need, cores)
        for index in candidates
        for query in candidates
        if (index.entry.dim, index.entry.space, index.engine) == (query.entry.dim, query.entry.space, query.engine)
        and index.entry.dtype == query.entry.dtype
        and query.entry.depth <= index.entry.depth
        and None not in (index.throughput, index.quality, query.latency, query.memory, query.quality)
        for precision in PRECISIONS
    ]


def _pair(index: Candidate, query: Candidate, precision: str, need: Need, cores: int) -> Pair:
    stored = need.documents * -(-index.entry.dim * PRECISIONS[precision] // 8)
    latency = query.latency or 0.0
    return Pair(
        index=index,
        query=query,
        precision=precision,
        index_bytes=stored,
        memory=(query.memory or 0.0) + stored,
        indexing_seconds=need.documents / (index.throughput or 1.0),
        latency=latency,
        load=need.queries_per_second * latency / cores,
        quality=min(index.quality or 0.0, query.quality or 0.0),
    )


def excess(pair: Pair, need: Need, limit: PairLimit) -> float:
    """By which share a pair exceeds a limit; 0 where it meets it."""
    match limit:
        case PairLimit.MEMORY:
            return 0.0 if need.memory is None else max(0.0, pair.memory / need.memory - 1)
        case PairLimit.QUERIES:
            return max(0.0, pair.load / _BUSIEST - 1)
        case PairLimit.LATENCY:
            return 0.0 if need.latency is None else max(0.0, pair.latency / need.latency - 1)
