"""What a sink is, and how an address names one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError

__all__ = ["SINKS", "Batch", "Sink", "open_sink", "refuse_dims", "split_address"]

# The module of each sink, the package that it needs, and an example of its address.
SINKS: Mapping[str, tuple[str, str, str]] = {
    "lancedb": ("lance", "lancedb", "lancedb:vectors.lance#documents"),
    "qdrant": ("qdrant", "qdrant-client", "qdrant:http://localhost:6333#documents"),
    "postgresql": ("postgres", "psycopg pgvector", "postgresql://localhost/database#documents"),
    "faiss": ("faiss_file", "faiss-cpu", "faiss:index.faiss"),
    "usearch": ("usearch_file", "usearch", "usearch:index.usearch"),
}


@dataclass(frozen=True)
class Batch:
    """Rows for a sink.

    Attributes:
        first: the position of the first row in the output.
        ids: distinct ids.
        vectors: float32 [n, dim].
        fields: the kept fields of each row.
    """

    first: int
    ids: Sequence[int | str]
    vectors: NDArray[np.float32]
    fields: Sequence[Mapping[str, Any]]


class Sink(Protocol):
    """A database or an index file. Writing a batch twice has the effect of writing it once."""

    @property
    def file(self) -> Path | None:
        """The index file, which :meth:`close` replaces; None of a database."""
        ...

    def prepare(self, dim: int, strings: bool) -> None:
        """Create the table, unless it is there.

        Args:
            dim: dimensions of the vectors.
            strings: whether ids are strings; otherwise they are 64-bit integers.

        Raises:
            InputError: a table with another number of dimensions is there.
        """

    def write(self, batch: Batch) -> None:
        """Insert rows, and replace those with the same id."""

    def count(self) -> int:
        """How many rows the sink has."""

    def close(self) -> None:
        """Make everything durable."""


def open_sink(address: str) -> Sink:
    """Open the sink of an address such as ``lancedb:FOLDER#TABLE``.

    Raises:
        InputError: the address is malformed, or the package is not installed.
    """
    scheme, _, rest = address.partition(":")
    if scheme not in SINKS or not rest:
        examples = ", ".join(example for _, _, example in SINKS.values())
        raise InputError(f"Unknown destination '{address}'. Write for example: {examples}.")
    module, package, _ = SINKS[scheme]
    try:
        found: Sink = import_module(f"ese_deploy.bulk.sinks.{module}").open_address(address)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ese_deploy"):
            raise
        raise InputError(f"{scheme} needs {error.name}. Run: pip install {package}") from None
    return found


def split_address(address: str) -> tuple[str, str]:
    """The place and the table of ``scheme:PLACE#TABLE``.

    Raises:
        InputError: there is no table.
    """
    place, _, table = address.partition(":")[2].rpartition("#")
    if not place or not table.isidentifier():
        raise InputError(f"The destination '{address}' names no table. Add it: {SINKS[address.partition(':')[0]][2]}")
    return place, table


def refuse_dims(where: str, there: int, dim: int) -> None:
    """Refuse a table of other vectors.

    Raises:
        InputError: the numbers of dimensions differ.
    """
    if there != dim:
        raise InputError(f"{where} has vectors of {there} dimensions, and these have {dim}. Name another table.")
