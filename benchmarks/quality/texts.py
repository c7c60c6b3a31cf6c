"""Prepares the training data of the protocol, without excluded sources."""

import functools
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality.protocol import Protocol
from ese_deploy.errors import InputError
from ese_deploy.system.files import sha256_file, write_atomic
from ese_deploy.texts.reader import read_rows

__all__ = ["DEV_SEARCH", "TrainingFiles"]

DEV_SEARCH = "dev_search"
"""Name of the retrieval development set in figures."""

_SOURCE = "source"
# Columns without text to train on.
_ABOUT = ("source", "id", "n_words")


class TrainingFiles:
    """The sets of training data as files that ``training.train`` reads.

    Args:
        protocol: names the files.
        data: the folder of these files.
        work: where prepared files are written and kept.
    """

    def __init__(self, protocol: Protocol, data: Path, work: Path) -> None:
        self._protocol = protocol
        self._data = data
        self._work = work
        # Each file is read and hashed once.
        self.hash_of = functools.cache(self._hash_of)
        self.files = functools.cache(self._files)

    def dev(self) -> Path:
        """The development set."""
        return self._path(self._protocol.data.dev)

    def dev_search(self) -> Path:
        """The retrieval development set: drawn queries, their answers and further documents.

        Raises:
            InputError: the protocol has none.
        """
        given = self._protocol.data.dev_search
        if given is None:
            raise InputError("The protocol has no [data.dev_search].")
        count, more = given.sizes
        draw = random.Random(0)
        judged: dict[str, list[Mapping[str, Any]]] = {}
        for _, row in read_rows(self._path(given.qrels)):
            judged.setdefault(row["query-id"], []).append(row)
        queries = {row["id"]: row for _, row in read_rows(self._path(given.queries))}
        corpus = {row["id"]: row for _, row in read_rows(self._path(given.corpus))}
        chosen = draw.sample(sorted(judged), min(len(judged), count))
        answers = {row["corpus-id"] for query in chosen for row in judged[query]}
        others = sorted(corpus.keys() - answers)
        kept = answers | set(draw.sample(others, min(len(others), more)))
        folder = self._work / DEV_SEARCH
        _write_rows(folder / "queries.jsonl", (queries[query] for query in chosen))
        _write_rows(folder / "corpus.jsonl", (row for name, row in corpus.items() if name in kept))
        columns = ("query-id", "corpus-id", "score")
        lines = ["\t".join(row[column] for column in columns) for query in chosen for row in judged[query]]
        _write(folder / "qrels.tsv", "".join(f"{line}\n" for line in ("\t".join(columns), *lines)).encode())
        return folder

    def tests(self) -> tuple[list[Path], list[Path]]:
        """Scored pairs and retrieval collections of the test."""
        data = self._protocol.data
        return [self._path(name) for name in data.test_sts], [self._path(name) for name in data.test_retrieval]

    def calibration(self, names: tuple[str, ...]) -> Path:
        """All distinct texts of some sets, one per line."""
        texts = dict.fromkeys(
            " ".join(str(text).split())
            for name in names
            for path in self.files(name)
            for _, row in read_rows(path)
            for text in _texts(row)
        )
        path = self._work / f"{'-'.join(names)}.txt"
        _write(path, "".join(f"{text}\n" for text in texts).encode())
        return path

    def _hash_of(self, name: str) -> str:
        if name == "dev":
            return sha256_file(self.dev())
        return "+".join(sha256_file(path)[:16] for path in self.files(name))

    def _files(self, name: str) -> tuple[Path, ...]:
        """One prepared file for each file of the set, which can have several formats."""
        prepared = []
        for number, source in enumerate(self._protocol.data.train[name], start=1):
            path = self._work / f"{name}-{number}.jsonl"
            rows = self._rows(self._path(source))
            if name in self._protocol.data.plain:
                rows = ({"text": text} for text in dict.fromkeys(text for row in rows for text in _texts(row)))
            _write_rows(path, rows)
            prepared.append(path)
        return tuple(prepared)

    def _rows(self, path: Path) -> Iterator[Mapping[str, Any]]:
        for _, row in read_rows(path):
            if row.get(_SOURCE) not in self._protocol.data.left_out:
                yield row

    def _path(self, name: str) -> Path:
        path = self._data / name
        if not path.exists():
            raise InputError(f"There is no {path}. --data must name the folder with the files of the protocol.")
        return path


def _texts(row: Mapping[str, Any]) -> list[Any]:
    return [text for column, text in row.items() if column not in _ABOUT]


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _write(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        with write_atomic(path) as file:
            file.write(content)
