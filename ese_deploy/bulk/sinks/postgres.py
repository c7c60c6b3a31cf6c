"""Tables of PostgreSQL with the extension pgvector."""

import json

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from ese_deploy.bulk.sinks.base import Batch, refuse_dims
from ese_deploy.errors import InputError

__all__ = ["PostgresSink", "open_address"]


class PostgresSink:
    """A table with the columns id, embedding (vector) and fields (jsonb)."""

    file = None

    def __init__(self, address: str, name: str) -> None:
        try:
            self._connection = psycopg.connect(address)
        except psycopg.Error as error:
            raise InputError(f"Cannot connect to PostgreSQL: {str(error).strip().splitlines()[0]}.") from None
        self._table = sql.Identifier(name)
        self._name = name

    def prepare(self, dim: int, strings: bool) -> None:
        """Create the extension and the table, unless they are there."""
        kind = sql.SQL("text" if strings else "bigint")
        with self._connection.transaction():
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            self._connection.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} (id {} PRIMARY KEY, embedding vector({}), fields jsonb)").format(
                    self._table, kind, sql.Literal(dim)
                )
            )
            found = self._connection.execute(
                "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
                (self._name,),
            ).fetchone()
        refuse_dims(f"Table {self._name}", int(found[0]) if found else 0, dim)
        register_vector(self._connection)

    def write(self, batch: Batch) -> None:
        """Insert rows in one transaction, and replace those with the same id."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TEMP TABLE loaded (LIKE {}) ON COMMIT DROP").format(self._table))
            with cursor.copy("COPY loaded (id, embedding, fields) FROM STDIN") as copy:
                for key, vector, fields in zip(batch.ids, batch.vectors, batch.fields, strict=True):
                    numbers = "[" + ",".join(map(str, vector.tolist())) + "]"
                    copy.write_row((key, numbers, json.dumps(dict(fields), default=str)))
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT * FROM loaded ON CONFLICT (id) DO UPDATE "
                    "SET embedding = EXCLUDED.embedding, fields = EXCLUDED.fields"
                ).format(self._table)
            )

    def count(self) -> int:
        """How many rows the table has."""
        row = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(self._table)).fetchone()
        self._connection.commit()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_address(address: str) -> PostgresSink:
    """Open ``postgresql://USER@HOST/DATABASE#TABLE``."""
    place, _, table = address.rpartition("#")
    if not place or not table.isidentifier():
        raise InputError(
            f"The destination '{address}' names no table. Add it: postgresql://localhost/database#documents"
        )
    return PostgresSink(place, table)
