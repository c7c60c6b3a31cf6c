"""Jobs that are killed or get write errors at every point: what is left must resume to the bytes of an unbroken run.

Run as ``python -m helpers.interruptions BUNDLE FOLDER kills|errors COUNT`` with the root of the repository and its
``tests`` on the path. Each trial runs in a child of a process that has imported everything and started no thread.
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401 - imported before the children are made
import pyarrow.parquet  # noqa: F401

import ese_deploy.engines.onnxruntime_cpu  # noqa: F401
from ese_deploy.bulk import BadRows, Fields, JobSettings, ModelSettings, embed_files
from ese_deploy.errors import InputError
from ese_deploy.system import files

NAMES = ("v", "v.npy", "v.parquet", "v.jsonl")


class Calls:
    """Counts the calls that change a disk, and does something before one of them.

    Args:
        last: the number of the call, from 1; 0 is none.
        act: what to do.
    """

    def __init__(self, last: int, act: Callable[[], None]) -> None:
        self.count = 0
        self._last = last
        self._act = act

    def __call__(self) -> None:
        self.count += 1
        if self.count == self._last:
            self._act()

    def install(self) -> None:
        """Replace the calls of the process."""
        fdopen = os.fdopen
        calls = self

        class File:
            def __init__(self, file: Any) -> None:
                self._file = file

            def write(self, data: Any) -> int:
                calls()
                return int(self._file.write(data))

            def writelines(self, lines: Any) -> None:
                for line in lines:
                    self.write(line)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

            def __enter__(self) -> "File":
                return self

            def __exit__(self, *reason: object) -> None:
                self._file.close()

        files.os = OsProxy(fdopen=lambda *a, **k: File(fdopen(*a, **k)), fsync=self._wrap(os.fsync))  # type: ignore[attr-defined]
        for name in ("replace", "unlink", "mkdir"):
            setattr(Path, name, self._wrap(getattr(Path, name)))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self()
            return function(*arguments, **options)

        return wrapped


class OsProxy:
    """The module ``os`` with some functions replaced."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def child(work: Callable[[], None]) -> int:
    """Run a function in a child. Returns its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        status = 70
        with suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def job(bundle: Path, source: Path, out: Path, resume: bool) -> None:
    """Run a job with parts of seven rows, of which some are bad."""
    model = ModelSettings(bundle, ("2x16",), threads=1)
    settings = JobSettings(model, Fields(id="key", keep=("n",)), bad_rows=BadRows.SKIP, part_rows=7, window=4)
    embed_files([source], out, settings, resume=resume)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of all files, without temporary ones beside a single file, which the next write removes."""
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = {str(path.relative_to(folder)): data for path, data in found.items()}
    return {name: data for name, data in kept.items() if not (name.startswith(".") and ".part-" in name)}


def finish(bundle: Path, source: Path, out: Path) -> None:
    """Resume a job, or begin it where nothing was written."""
    try:
        job(bundle, source, out, resume=True)
    except InputError as error:
        if "There is no job to resume" not in str(error):
            raise
        job(bundle, source, out, resume=False)


def trials(bundle: Path, folder: Path, kind: str, count: int) -> int:
    """Interrupt ``count`` jobs, some of them twice. Returns how many calls change the disk in an unbroken run."""
    source = folder / "in.jsonl"
    rows = [
        {"key": f"k{n}", "text": f"rain and bread {'coast ' * (n % 9)}" if n % 11 else None, "n": n} for n in range(40)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {}
    for name in NAMES:
        target = folder / "whole" / name
        target.parent.mkdir(exist_ok=True)
        assert child(lambda: job(bundle, source, target, resume=False)) == 0  # noqa: B023
        whole[name] = tree(target.parent)
        shutil.rmtree(target.parent)
    choose = random.Random(5)
    total = count_calls(bundle, source, folder)
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        out = folder / "cut" / name
        out.parent.mkdir()
        for resume in (False, True)[: 1 + number % 2]:
            interrupt(bundle, source, out, kind, choose.randint(1, total), resume, choose.choice((0, 0, 0.05, 0.2)))
        error = folder / "error.txt"

        def last() -> None:
            try:
                finish(bundle, source, out)  # noqa: B023
            except BaseException as reason:
                error.write_text(repr(reason))  # noqa: B023
                raise

        assert child(last) == 0, (number, name, error.read_text())
        found = tree(out.parent)
        assert found == whole[name], (number, name, sorted(found), sorted(whole[name]))
        shutil.rmtree(out.parent)
    return total


def interrupt(bundle: Path, source: Path, out: Path, kind: str, call: int, resume: bool, delay: float) -> None:
    """Run a job that is killed, before a call or after some time, or gets an error from a call."""

    def act() -> None:
        if kind == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if call % 2 else errno.EIO
        raise OSError(code, os.strerror(code))

    def work() -> None:
        Calls(0 if delay and kind == "kills" else call, act).install()
        (finish if resume else lambda *paths: job(*paths, resume=False))(bundle, source, out)

    if delay and kind == "kills":
        process = os.fork()
        if process == 0:
            with suppress(BaseException):
                work()
            os._exit(0)
        time.sleep(delay * random.random() * 4)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return
    child(work)


def count_calls(bundle: Path, source: Path, folder: Path) -> int:
    """How many calls change the disk in the shortest unbroken run."""
    counted = folder / "count.txt"
    totals = []
    for name in NAMES:

        def work() -> None:
            calls = Calls(0, lambda: None)
            calls.install()
            job(bundle, source, folder / "counted" / name, resume=False)  # noqa: B023
            with counted.open("w") as file:
                file.write(str(calls.count))

        (folder / "counted").mkdir()
        assert child(work) == 0
        totals.append(int(counted.read_text()))
        shutil.rmtree(folder / "counted")
    return min(totals)


if __name__ == "__main__":
    print(trials(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
