"""Tables of LanceDB."""

from typing import Any

import lancedb
import pyarrow as pa

from ese_deploy.bulk.sinks.base import Batch, refuse_dims, split_address

__all__ = ["LanceSink", "open_address"]


class LanceSink:
    """A table of LanceDB with the columns id, vector and the kept fields of the first batch."""

    file = None

    def __init__(self, place: str, name: str) -> None:
        self._database = lancedb.connect(place)
        self._name = name
        self._table: Any = None
        self._dim = 0
        self._strings = False

    def prepare(self, dim: int, strings: bool) -> None:
        """Open the table, if it is there."""
        self._dim, self._strings = dim, strings
        try:
            self._table = self._database.open_table(self._name)
        except (ValueError, FileNotFoundError):
            return
        refuse_dims(f"Table {self._name}", self._table.schema.field("vector").type.list_size, dim)

    def write(self, batch: Batch) -> None:
        """Insert rows, and replace those with the same id."""
        flat = pa.array(batch.vectors.reshape(-1), pa.float32())
        names = list(batch.fields[0]) if batch.fields else []
        ids = pa.array(batch.ids, pa.string() if self._strings else pa.int64())
        columns = {name: pa.array([row[name] for row in batch.fields]) for name in names}
        table = pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, self._dim), **columns})
        if self._table is None:
            self._table = self._database.create_table(self._name, table)
        else:
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def count(self) -> int:
        """How many rows the table has."""
        return 0 if self._table is None else int(self._table.count_rows())

    def close(self) -> None:
        """Do nothing: each write is durable."""


def open_address(address: str) -> LanceSink:
    """Open ``lancedb:FOLDER#TABLE``."""
    return LanceSink(*split_address(address))
