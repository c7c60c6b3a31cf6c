"""The description of a job, its work folder, and what --resume compares."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from ese_deploy.bulk.parts import PartRecord
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.locks import try_lock
from ese_deploy.texts.source import Survey

__all__ = ["SKIPPED", "InputRecord", "Job", "Manifest", "WorkFolder", "compare_jobs"]

# Readers of a folder of Parquet files leave out names that begin with an underscore.
_JOB, _MANIFEST, _RECORDS, SKIPPED = "_job.json", "_manifest.json", "_records", "_skipped.jsonl"
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_AGAIN = "Run the command with --overwrite to start again."


class InputRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the input; of a stream only the name."""

    file: str
    bytes: int = 0
    sha256: str = ""


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides the bytes of an output.

    Attributes:
        version: of this format.
        bundle_sha256: of the bundle's manifest, which lists the hash of every file.
        engine: the engine, as ``--engine`` names it.
        threads: threads of a worker. Other numbers can change the last digits of vectors.
        survey: what the first reading of the input found; None for a stream.
        libraries: versions of what computes and writes.
    """

    version: int
    bundle: str
    bundle_sha256: str
    targets: list[str]
    spaces: list[str]
    index_target: str | None
    prompt: str
    precision: str
    engine: str
    threads: int
    text: str
    id_field: str | None
    keep_fields: list[str] | None
    encoding: str
    on_bad_row: str
    part_rows: int
    window: int
    format: str
    inputs: list[InputRecord]
    survey: Survey | None
    libraries: dict[str, str]
    separator: str | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a complete output contains. It has no times, so that the same job gives the same bytes."""

    job: Job
    rows: int
    written: int
    texts: int
    skipped: int
    distinct: int
    tokens: int
    truncated: int
    parts: list[PartRecord]


# What a resumed job may not change, and how messages name it.
_SAME = {
    "version": "the format of the job",
    "bundle_sha256": "the bundle",
    "targets": "--target",
    "index_target": "--index-target",
    "prompt": "--prompt-name",
    "precision": "--precision",
    "engine": "--engine",
    "threads": "--threads or --workers",
    "text": "--text-field or --text",
    "id_field": "--id-field",
    "keep_fields": "--keep-fields",
    "encoding": "--encoding",
    "separator": "--separator",
    "on_bad_row": "--on-bad-row",
    "part_rows": "--part-rows",
    "window": "--window",
    "format": "the format of --out",
    "libraries": "an installed library",
}


def compare_jobs(old: Job, new: Job) -> None:
    """Check that a job continues another one.

    Raises:
        InputError: an option, the bundle or the input is another one. The message names it.
    """
    for name, label in _SAME.items():
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            shown = f" ({_short(before)}, now {_short(now)})" if name != "bundle_sha256" else ""
            raise InputError(f"Cannot resume: {label} has changed since the job began{shown}. {_AGAIN}")
    names = [Path(item.file).name for item in old.inputs], [Path(item.file).name for item in new.inputs]
    if names[0] != names[1]:
        raise InputError(f"Cannot resume: the job began with other input files ({_short(names[0])}). {_AGAIN}")
    for before, now in zip(old.inputs, new.inputs, strict=True):
        if before.sha256 != now.sha256:
            raise InputError(f"Cannot resume: {now.file} has changed since the job began. {_AGAIN}")


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class WorkFolder:
    """The folder in which the parts of a job are written.

    An output that is a folder is its own work folder. The parts of a single file are in ``NAME.job`` beside it until
    they are joined.

    Attributes:
        path: the folder.
        out: the output.
    """

    path: Path
    out: Path

    @classmethod
    def of(cls, out: Path, single: bool) -> "WorkFolder":
        """The work folder of an output."""
        return cls(out.with_name(f"{out.name}.job") if single else out, out)

    @property
    def single(self) -> bool:
        """Whether the output is a single file."""
        return self.path != self.out

    def check(self, resume: bool, overwrite: bool) -> None:
        """Check that the output may be written.

        Raises:
            InputError: it exists and neither option is given, its folder does not exist, or it is no output of a job.
        """
        if resume and overwrite:
            raise InputError("`resume` and `overwrite` exclude each other. Choose one.")
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"cannot write {self.out}: there is no folder {self.out.parent}; make it or name another")
        if self.single and self.out.is_dir():
            raise InputError(f"cannot write {self.out}: it is a folder; name a file")
        if not self.single and self.out.exists() and not self.out.is_dir():
            raise InputError(f"cannot write {self.out}: it is a file; name a folder, or a file with a suffix")
        foreign = self.job() is None and not self.single and self.out.is_dir()
        if foreign and any(not path.name.startswith(".") for path in self.out.iterdir()):
            raise InputError(f"cannot write {self.out}: it contains files that no bulk job has written. Name another.")
        finished = self.manifest() is not None if not self.single else self.out.is_file()
        if resume or overwrite:
            return
        if finished:
            raise InputError(f"{self.out} exists. Pass --overwrite to replace it.")
        if self.job() is not None:
            raise InputError(
                f"{self.out} has an unfinished job ({len(self.records())} parts are complete). Pass --resume to "
                "continue it, or --overwrite to start again."
            )

    def job(self) -> Job | None:
        """The job that began here and, for a single file, has not ended."""
        return _read(self.path / _JOB, Job)

    def manifest(self) -> Manifest | None:
        """The manifest of a complete output."""
        if self.single and (self.job() is not None or not self.out.is_file()):
            return None
        return _read(self.beside(_MANIFEST), Manifest)

    def beside(self, name: str) -> Path:
        """A file of the output: inside a folder, beside a single file."""
        return self.out.with_name(f"{self.out.name}.{name.removeprefix('_')}") if self.single else self.out / name

    def begin(self, job: Job) -> None:
        """Empty the folder, and write the job.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.clear()
            self.path.mkdir(exist_ok=True)
            with write_atomic(self.path / _JOB) as file:
                file.write(msgspec.json.format(msgspec.json.encode(job)))
        except OSError as error:
            raise InputError(f"Cannot write {self.path}: {error.strerror}.") from error

    def clear(self) -> None:
        """Remove what a job has written, and nothing else."""
        # The job goes last: with it, a folder that was emptied by half still counts as the output of a job.
        self.tidy()
        for pattern in (_MANIFEST, "part-*", SKIPPED):
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self.path / _RECORDS, ignore_errors=True)
        (self.path / _JOB).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove temporary files of a process that was killed."""
        for name in ("part-*", _MANIFEST, _JOB, SKIPPED):
            for path in (*self.path.glob(f".{name}.part-*"), *(self.path / _RECORDS).glob(f".{name}.part-*")):
                path.unlink()

    def stem(self, index: int) -> Path:
        """The path of a part, without suffix."""
        return self.path / f"part-{index:05d}"

    def records(self) -> dict[int, PartRecord]:
        """The parts that are complete."""
        manifest = self.manifest()
        if manifest is not None and not self.single:
            return {record.index: record for record in manifest.parts}
        found = [_read(path, PartRecord) for path in sorted((self.path / _RECORDS).glob("part-*.json"))]
        return {record.index: record for record in found if record is not None and self._is_whole(record)}

    def _is_whole(self, record: PartRecord) -> bool:
        paths = ((self.path / item.file, item.bytes) for item in record.files)
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    def record(self, record: PartRecord) -> None:
        """Note that a part is complete."""
        (self.path / _RECORDS).mkdir(exist_ok=True)
        with write_atomic(self.path / _RECORDS / f"part-{record.index:05d}.json") as file:
            file.write(msgspec.json.encode(record))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest of the output."""
        with write_atomic(self.beside(_MANIFEST)) as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest)))

    def remove_records(self) -> None:
        """Remove the records of parts, which the manifest replaces."""
        shutil.rmtree(self.path / _RECORDS, ignore_errors=True)

    def remove(self) -> None:
        """Remove the work folder of a single file."""
        if self.single:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second process for the time of the block.

        Raises:
            InputError: another process writes here.
        """
        lock = try_lock(self.path)
        if lock is None and os.name != "nt":
            raise InputError(f"Another process writes to {self.out}. Wait until it ends, or stop it.")
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)


def _read(path: Path, kind: type[_Struct]) -> _Struct | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None
