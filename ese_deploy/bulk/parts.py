"""A part of a job: rows read at once, their vectors, and the record that says that its files are complete."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bulk.embedder import Embedder, dtype_of
from ese_deploy.bulk.settings import BadRows
from ese_deploy.errors import EseDeployError
from ese_deploy.texts.lines import Problem, raise_problem
from ese_deploy.texts.source import SourceRow

__all__ = ["FileRecord", "Part", "PartRecord", "PartVectors", "SkippedRow", "StoppedError", "cut", "embed_part"]

# Characters of a part: bounds its memory where texts are very long.
_MOST_CHARACTERS = 1 << 26
Advance = Callable[[int, int], object]


class StoppedError(EseDeployError):
    """A signal stopped the job; parts that are complete stay."""

    exit_code = 130


@dataclass(frozen=True)
class Part:
    """Consecutive rows of the input.

    Attributes:
        index: from 0.
        rows: the rows, bad ones included.
    """

    index: int
    rows: list[SourceRow]


class SkippedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row that has no vector.

    Attributes:
        file: its file.
        number: the number of its line, or of the row in Parquet and Arrow.
        reason: why it has none.
        id: its id, if it has one.
    """

    file: str
    number: int
    reason: str
    id: int | str | None = None


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a part."""

    file: str
    bytes: int
    sha256: str


class PartRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete part.

    Attributes:
        index: from 0.
        rows: rows of the input.
        written: rows in its files.
        texts: rows with a vector.
        distinct: different texts that were embedded.
        tokens: tokens of its texts.
        truncated: texts that were truncated.
        files: its files.
        skipped: rows without a vector.
    """

    index: int
    rows: int
    written: int
    texts: int
    distinct: int
    tokens: int
    truncated: int
    files: list[FileRecord]
    skipped: list[SkippedRow]


@dataclass
class PartVectors:
    """The rows of a part that are written, with their vectors.

    Attributes:
        index: of the part.
        rows: rows of the input.
        ids: ids of the written rows.
        kept: their kept fields.
        vectors: for each target an array [n, columns]; rows of ``missing`` are 0.
        missing: which rows have no vector, bool [n].
        skipped: rows without a vector.
    """

    index: int
    rows: int
    ids: list[int | str]
    kept: list[dict[str, Any]]
    vectors: list[NDArray[Any]]
    missing: NDArray[np.bool_]
    distinct: int = 0
    tokens: int = 0
    truncated: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)

    def record(self, files: list[FileRecord]) -> PartRecord:
        """The record of the part, once its files are written."""
        return PartRecord(
            index=self.index,
            rows=self.rows,
            written=len(self.ids),
            texts=int((~self.missing).sum()),
            distinct=self.distinct,
            tokens=self.tokens,
            truncated=self.truncated,
            files=files,
            skipped=self.skipped,
        )


def cut(rows: Iterable[SourceRow], part_rows: int) -> Iterator[Part]:
    """Cut the rows of an input into parts. The same input gives the same parts."""
    found: list[SourceRow] = []
    index = characters = 0
    for row in rows:
        size = len(row.text) if isinstance(row.text, str) else 0
        if found and (len(found) == part_rows or characters + size > _MOST_CHARACTERS):
            yield Part(index, found)
            found, characters, index = [], 0, index + 1
        found.append(row)
        characters += size
    if found:
        yield Part(index, found)


def embed_part(
    part: Part,
    embedder: Embedder,
    policy: BadRows,
    dims: list[int],
    precision: str,
    advance: Advance = lambda rows, tokens: None,
) -> PartVectors:
    """Embed a part.

    Args:
        part: its rows.
        embedder: for its texts.
        policy: what happens to a row without a text.
        dims: dimensions of each target.
        precision: of the vectors.
        advance: called with the rows and tokens of each window.

    Raises:
        InputError: a row has no text and the policy is ``error``.
        EngineError: the engine failed.
    """
    written: list[SourceRow] = []
    skipped: list[SkippedRow] = []
    good: list[tuple[int, str]] = []

    def reject(row: SourceRow, problem: Problem) -> bool:
        """Note a bad row. Returns whether it is written without a vector."""
        if policy is BadRows.ERROR:
            raise_problem(row.file.path, row.file.unit, row.number, problem)
        skipped.append(SkippedRow(str(row.file.path), row.number, problem.reason, row.id))
        return policy is BadRows.NULL and row.id is not None

    for row in part.rows:
        if isinstance(row.text, str):
            good.append((len(written), row.text))
            written.append(row)
        elif reject(row, row.text):
            written.append(row)
    texts = [text for _, text in good]
    places = np.array([place for place, _ in good], np.intp)
    missing = np.ones(len(written), bool)
    widths = [-(-dim // 8) if precision in ("binary", "ubinary") else dim for dim in dims]
    vectors = [np.zeros((len(written), width), dtype_of(precision).dtype) for width in widths]
    result = PartVectors(part.index, len(part.rows), [], [], vectors, missing, skipped=skipped)
    dropped: set[int] = set()
    start = 0
    for window in embedder.windows(texts):
        where, found = places[start : start + len(window)], window
        start += len(window)
        empty = _without_tokens(embedder, window)
        for place in empty:
            row = written[where[place]]
            if not reject(row, Problem("has a text without any token for this model, and so without a vector")):
                dropped.add(int(where[place]))
        if empty:
            kept = [place for place in range(len(window)) if place not in set(empty)]
            where, found = where[kept], [window[place] for place in kept]
        embedded = embedder.embed(found)
        for array, values in zip(vectors, embedded.vectors, strict=True):
            array[where] = values
        missing[where] = False
        result.distinct += embedded.distinct
        result.tokens += embedded.tokens
        result.truncated += embedded.truncated
        advance(len(window), embedded.tokens)
    if dropped:
        order = [place for place in range(len(written)) if place not in dropped]
        written = [written[place] for place in order]
        result.missing = missing[order]
        result.vectors = [array[order] for array in vectors]
    result.ids = [row.id for row in written if row.id is not None]
    result.kept = [row.kept for row in written]
    return result


def _without_tokens(embedder: Embedder, window: Any) -> list[int]:
    """Positions of texts without a token, which only models without special tokens have."""
    return [] if embedder.embeds_every_text else embedder.without_tokens(window)
