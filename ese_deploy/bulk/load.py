"""Loading a folder of Parquet parts into a sink, part by part, so that an interruption costs one part."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ese_deploy.bulk.job import Manifest, WorkFolder
from ese_deploy.bulk.parts import StoppedError
from ese_deploy.bulk.sinks import Batch, Sink, open_sink
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.progress import Progress, silent
from ese_deploy.texts.columnar import require_pyarrow

__all__ = ["LoadSummary", "load_vectors"]

_FLOATS = ("float32", "float16")


class LoadSummary(msgspec.Struct, frozen=True):
    """What was loaded.

    Attributes:
        folder: the parts.
        to: the sink, without a password.
        rows: rows of the folder that have a vector.
        loaded: rows that this run has written.
        count: rows that the sink has afterwards.
    """

    folder: str
    to: str
    rows: int
    loaded: int
    count: int


def load_vectors(
    folder: str | Path,
    to: str,
    *,
    column: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> LoadSummary:
    """Load the vectors of a complete job into a database or an index file.

    Parts that were loaded are noted in the folder. An interrupted load continues when it is called again; a row that is
    written twice is there once. Databases are appended to; index files are always built from all parts.

    Args:
        folder: the output of :func:`ese_deploy.bulk.embed_files`, a folder of Parquet parts.
        to: such as ``lancedb:FOLDER#TABLE``; see :data:`ese_deploy.bulk.sinks.SINKS`.
        column: the column of vectors, where the job had several targets.
        overwrite: replace an index file that exists.
        progress: called with the parts that are loaded.
        stop: asked before each part; true ends the load.

    Raises:
        StoppedError: ``stop`` returned true.
        InputError: the folder is not a complete job, its vectors are not floats, the destination is malformed or has
            other vectors, or a package is missing.
    """
    folder = Path(folder)
    require_pyarrow(folder)
    manifest = WorkFolder(folder, folder).manifest()
    if manifest is None:
        raise InputError(f"{folder} is not the folder of a complete job. Finish it with: ese-deploy embed ... --resume")
    if manifest.job.precision not in _FLOATS:
        raise InputError(
            f"{folder} has vectors in {manifest.job.precision}; only {' and '.join(_FLOATS)} can be loaded."
        )
    names = [f"embedding_{target.replace(':', '_')}" for target in manifest.job.targets]
    names = names if len(names) > 1 else ["embedding"]
    if column is not None and column not in names:
        raise InputError(f"{folder} has no vectors '{column}'. Choose one of: {', '.join(names)}.")
    if column is None and len(names) > 1:
        raise InputError(f"{folder} has vectors of several targets. Choose `column`: {', '.join(names)}.")
    sink = open_sink(to)
    if sink.file is not None and sink.file.exists() and not overwrite:
        raise InputError(f"{sink.file} exists. Name another file, or replace it with `overwrite`.")
    try:
        return _load(folder, manifest, sink, to, column or names[0], progress, stop)
    finally:
        if sink.file is None:
            sink.close()


def _load(
    folder: Path,
    manifest: Manifest,
    sink: Sink,
    to: str,
    column: str,
    progress: Progress,
    stop: Callable[[], bool],
) -> LoadSummary:
    from pyarrow.parquet import ParquetFile, read_schema

    id_name = manifest.job.id_field or "id"
    schema = read_schema(folder / manifest.parts[0].files[0].file)
    sink.prepare(schema.field(column).type.list_size, str(schema.field(id_name).type) == "string")
    note = folder / "_loaded" / f"{hashlib.sha256(f'{to} {column}'.encode()).hexdigest()[:16]}.json"
    done = _noted(note, sink, manifest)
    loaded = first = 0
    for number, part in enumerate(manifest.parts):
        if part.index not in done:
            if stop():
                raise StoppedError(f"Stopped. {len(done)} parts are loaded; run the command again to go on.")
            with ParquetFile(folder / part.files[0].file) as file:
                for batch in _batches(file, id_name, column, first):
                    sink.write(batch)
                    loaded += len(batch.ids)
            done.add(part.index)
            note.parent.mkdir(exist_ok=True)
            with write_atomic(note) as out:
                out.write(msgspec.json.encode(sorted(done)))
        first += part.written
        progress("load", number + 1, len(manifest.parts))
    count = sink.count()
    if sink.file is not None:
        sink.close()
    return LoadSummary(str(folder), _without_password(to), manifest.texts, loaded, count)


def _noted(note: Path, sink: Sink, manifest: Manifest) -> set[int]:
    """The parts that were loaded; none if the sink has fewer rows than they have, because it was emptied."""
    try:
        done = set(msgspec.json.decode(note.read_bytes(), type=list[int]))
    except (OSError, msgspec.DecodeError):
        return set()
    rows = sum(part.texts for part in manifest.parts if part.index in done)
    return done if sink.count() >= rows else set()


def _batches(file: Any, id_name: str, column: str, first: int) -> Iterator[Batch]:
    kept = [name for name in file.schema_arrow.names if name != id_name and not name.startswith("embedding")]
    for batch in file.iter_batches(8192, columns=[id_name, column, *kept]):
        valid = batch.filter(batch[column].is_valid())
        width = valid.schema.field(column).type.list_size
        vectors = valid[column].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        ids = valid[id_name].to_pylist()
        yield Batch(first, ids, vectors, valid.select(kept).to_pylist() if kept else [{}] * len(ids))
        first += len(batch)


def _without_password(address: str) -> str:
    head, at, tail = address.rpartition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{tail}" if at else address
