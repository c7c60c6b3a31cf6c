"""Results as JSON lines. Each line is on disk before the next case starts, so a run that is cut keeps what it measured.

Kinds of lines:

- ``run``: one per start of the kit (date, device, size).
- ``case``: one measurement or check of a step.
- ``step``: how a step ended. ``state`` is ``ok``, ``failed``, ``skipped`` or ``timed out``; ``reason`` says why.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["FAILED", "OK", "SKIPPED", "TIMED_OUT", "Record", "append", "cases", "read", "states"]

OK, FAILED, SKIPPED, TIMED_OUT = "ok", "failed", "skipped", "timed out"

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Write one line and wait until it is on disk. Several processes may append to one file."""
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        # A process that was killed may have left half a line.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Record]:
    """All whole lines of a results file; a line that was cut is left out."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def cases(records: Iterable[Record], step: str) -> list[Record]:
    """The cases of one step, in the order measured."""
    return [record for record in records if record["kind"] == "case" and record["step"] == step]


def states(records: Iterable[Record]) -> dict[str, Record]:
    """The last state of each step."""
    return {record["step"]: record for record in records if record["kind"] == "step"}
