"""Computing parts: in this process, with reading and writing beside it, or in several processes."""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ese_deploy.bulk.embedder import Embedder
from ese_deploy.bulk.formats import Layout, format_of
from ese_deploy.bulk.job import WorkFolder
from ese_deploy.bulk.parts import Advance, FileRecord, Part, PartRecord, PartVectors, StoppedError, embed_part
from ese_deploy.bulk.settings import JobSettings
from ese_deploy.errors import InputError
from ese_deploy.system.files import sha256_file, write_atomic

__all__ = ["PartWork", "compute_here", "compute_in_processes", "write_part"]

Stop = Callable[[], bool]


@dataclass(frozen=True)
class PartWork:
    """What a worker needs to know about a job.

    Attributes:
        settings: of the job.
        dims: dimensions of each target.
        layout: columns of the output.
        work: where parts are written.
    """

    settings: JobSettings
    dims: list[int]
    layout: Layout
    work: WorkFolder

    def embed(self, part: Part, embedder: Embedder, advance: Advance) -> PartVectors:
        """Embed a part."""
        settings = self.settings
        return embed_part(part, embedder, settings.bad_rows, self.dims, settings.model.precision, advance)

    def write(self, vectors: PartVectors) -> PartRecord:
        """Write a part and its record."""
        return write_part(vectors, self.layout, self.work)


def write_part(vectors: PartVectors, layout: Layout, work: WorkFolder) -> PartRecord:
    """Write the files of a part, and then the record that says so.

    Raises:
        InputError: a file cannot be written.
    """
    stem = work.stem(vectors.index)
    files = []
    try:
        for suffix, save in format_of(work.out).write(vectors, layout).items():
            path = stem.with_name(stem.name + suffix)
            with write_atomic(path) as file:
                save(file)
            files.append(FileRecord(path.name, path.stat().st_size, sha256_file(path)))
        record = vectors.record(files)
        work.record(record)
    except InputError as error:
        reason = str(error).replace(" Nothing was changed.", "")
        raise InputError(f"{reason} Complete parts stay; run the command with --resume to go on.") from error
    return record


def compute_here(parts: Iterator[Part], work: PartWork, embedder: Embedder, advance: Advance) -> Iterator[PartRecord]:
    """Compute parts one after another; the next one is read and the one before is written meanwhile.

    Yields:
        The record of each part, in order, once it is complete.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        pending: Future[PartRecord] | None = None
        for part in read_ahead(parts):
            vectors = work.embed(part, embedder, advance)
            if pending is not None:
                yield pending.result()
            pending = writer.submit(work.write, vectors)
            del vectors
        if pending is not None:
            yield pending.result()


def read_ahead(parts: Iterator[Part]) -> Iterator[Part]:
    """Read the next part in a thread while one is used."""
    found: queue.Queue[Part | BaseException | None] = queue.Queue(1)
    left = threading.Event()

    def offer(item: Part | BaseException | None) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                found.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for part in parts:
                offer(part)
                if left.is_set():
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    threading.Thread(target=read, name="read", daemon=True).start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()


def compute_in_processes(
    parts: Iterator[Part], work: PartWork, workers: int, stop: Stop, advance: Advance
) -> Iterator[PartRecord]:
    """Compute parts in spawned processes.

    Yields:
        The record of each part, once it is complete, in any order.

    Raises:
        InputError: a process died.
        StoppedError: ``stop`` became true.
    """
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(work, stopped))
    running: set[Future[PartRecord]] = set()
    try:
        left = True
        while left or running:
            # One part more than there are workers waits, so that none of them is idle.
            while left and len(running) <= workers and not stop():
                part = next(parts, None)
                left = part is not None
                if part is not None:
                    running.add(pool.submit(_compute, part))
            done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            if stop():
                raise StoppedError("stopped")
            for future in done:
                record = future.result()
                advance(record.rows, record.tokens)
                yield record
    except BrokenProcessPool:
        raise InputError(
            "A worker process died; it was killed, or memory ran out. Complete parts stay; run the command with "
            "--resume, and with a smaller --part-rows or fewer --workers if memory ran out."
        ) from None
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(work: PartWork, stopped: Any) -> None:
    # The parent gets Ctrl-C too, and tells its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _worker.update(work=work, stopped=stopped, embedder=Embedder.open(work.settings.model, work.settings.window))


def _compute(part: Part) -> PartRecord:
    work: PartWork = _worker["work"]

    def advance(rows: int, tokens: int) -> None:
        if _worker["stopped"].is_set():
            raise StoppedError("stopped")

    return work.write(work.embed(part, _worker["embedder"], advance))
