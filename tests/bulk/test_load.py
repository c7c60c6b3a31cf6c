"""Loading into the real databases and index files, interrupted and repeated."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ese_deploy.bulk import Fields, JobSettings, ModelSettings, embed_files, load_vectors
from ese_deploy.bulk.parts import StoppedError
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError

ROWS = 40
PACKAGES = {"lancedb": "lancedb", "qdrant": "qdrant_client", "faiss": "faiss", "usearch": "usearch"}


@pytest.fixture(scope="module")
def folders(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two jobs: one with whole numbers as ids, one with strings."""
    place = tmp_path_factory.mktemp("load")
    found = {}
    for kind, prefix in (("numbers", ""), ("strings", "k")):
        lines = [f"{prefix}{n + 100},title {n},text {n} of rain" for n in range(ROWS)]
        (place / f"{kind}.csv").write_text("\n".join(["id,title,text", *lines]))
        if kind == "numbers":
            rows = [f'{{"id": {n + 100}, "title": "title {n}", "text": "text {n} of rain"}}' for n in range(ROWS)]
            (place / f"{kind}.jsonl").write_text("\n".join(rows))
        source = place / (f"{kind}.jsonl" if kind == "numbers" else f"{kind}.csv")
        settings = JobSettings(
            ModelSettings(tiny_bundle.path, ("2x16",), threads=1), Fields(id="id", keep=("title",)), part_rows=15
        )
        found[kind] = place / kind
        embed_files([source], found[kind], settings)
    return found


@pytest.fixture(params=[*PACKAGES, "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kind = request.param
    if kind == "postgresql":
        pgserver = pytest.importorskip("pgserver")
        pytest.importorskip("psycopg")
        pytest.importorskip("pgvector")
        try:
            server = pgserver.get_server(tmp_path / "pg", cleanup_mode="stop")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        yield f"{server.get_uri()}#documents"
        server.cleanup()
        return
    pytest.importorskip(PACKAGES[kind])
    yield f"{kind}:{tmp_path / 'sink'}" + ("" if kind in ("faiss", "usearch") else "#documents")


def expected(folder: Path) -> dict[str, Any]:
    table = pq.read_table(folder)
    return dict(zip(map(str, table["id"].to_pylist()), table["embedding"].to_pylist(), strict=True))


def contents(address: str) -> dict[str, Any]:
    """The vectors of a sink by id, as its own library reads them."""
    scheme, _, rest = address.partition(":")
    place, _, name = rest.rpartition("#")
    if scheme == "lancedb":
        import lancedb

        rows = lancedb.connect(place).open_table(name).to_arrow().to_pylist()
        assert all(row["title"].startswith("title ") for row in rows)
        return {str(row["id"]): row["vector"] for row in rows}
    if scheme == "qdrant":
        from qdrant_client import QdrantClient

        client = QdrantClient(path=place)
        points, _ = client.scroll(name, limit=1000, with_vectors=True)
        client.close()
        assert all(point.payload["title"].startswith("title ") for point in points)
        return {str(point.payload["id"]): point.vector for point in points}
    if scheme == "postgresql":
        import psycopg

        with psycopg.connect(address.rpartition("#")[0]) as connection:
            rows = connection.execute("SELECT id, embedding::text, fields->>'title' FROM documents").fetchall()
        assert all(title.startswith("title ") for _, _, title in rows)
        return {str(key): [float(part) for part in text[1:-1].split(",")] for key, text, _ in rows}
    if scheme == "faiss":
        import faiss

        index = faiss.read_index(rest)
        keys = faiss.vector_to_array(index.id_map)
        return {str(key): index.reconstruct(int(key)) for key in keys}
    from usearch.index import Index

    index = Index.restore(rest)
    return {str(key): index[int(key)] for key in index.keys}


def stop_at(call: int) -> Callable[[], bool]:
    calls = iter(range(1000))
    return lambda: next(calls) >= call


@pytest.mark.parametrize("kind", ["numbers", "strings"])
def test_an_interrupted_load_ends_with_every_row_once(folders: dict[str, Path], address: str, kind: str) -> None:
    folder, want = folders[kind], expected(folders[kind])
    for _ in range(2):
        with pytest.raises(StoppedError, match="run the command again"):
            load_vectors(folder, address, stop=stop_at(1))
    summary = load_vectors(folder, address)
    assert (summary.rows, summary.count) == (ROWS, ROWS)
    if address.startswith(("faiss", "usearch")):
        with pytest.raises(InputError, match=r"exists\. Name another file, or replace it with `overwrite`"):
            load_vectors(folder, address)
    again = load_vectors(folder, address, overwrite=True)
    assert again.count == ROWS
    if kind == "strings" and address.startswith(("faiss", "usearch")):
        want = {str(place): vector for place, vector in enumerate(want.values())}
    got = contents(address)
    assert got.keys() == want.keys()
    np.testing.assert_allclose([got[key] for key in want], list(want.values()), atol=1e-6)


def test_what_cannot_be_loaded_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["numbers"]
    for address, message in (
        ("mongodb:x", "Unknown destination 'mongodb:x'"),
        ("lancedb:folder", "names no table"),
        ("postgresql://localhost/x", "names no table"),
    ):
        pytest.importorskip("lancedb")
        pytest.importorskip("psycopg")
        with pytest.raises(InputError, match=message):
            load_vectors(folder, address)
    with pytest.raises(InputError, match="is not the folder of a complete job"):
        load_vectors(tmp_path, "faiss:x")
    with pytest.raises(InputError, match="has no vectors 'other'"):
        load_vectors(folder, "faiss:x", column="other")


def test_a_table_of_other_vectors_is_refused(tiny_bundle: Bundle, folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    (tmp_path / "in.txt").write_text("a\nb\n")
    embed_files([tmp_path / "in.txt"], tmp_path / "v", JobSettings(ModelSettings(tiny_bundle.path, ("1x8",))))
    load_vectors(folders["numbers"], f"lancedb:{tmp_path / 'db'}#documents")
    with pytest.raises(InputError, match="has vectors of 16 dimensions, and these have 8"):
        load_vectors(tmp_path / "v", f"lancedb:{tmp_path / 'db'}#documents")


def test_a_missing_package_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "ese_deploy.bulk.sinks.faiss_file", raising=False)
    with pytest.raises(InputError, match="faiss needs faiss"):
        load_vectors(folders["numbers"], "faiss:x")
