"""Baselines: other libraries that compute the same vectors, each in a process and an environment of its own.

A folder of baselines contains ``baselines.toml``, a driver script for each, and the environments in ``.envs``. A driver
reads and writes one JSON object a line; ``benchmarks/baselines/serve.py`` documents the messages.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines.onnxruntime_cpu import NO_TELEMETRY
from ese_deploy.errors import EseDeployError, InputError

__all__ = [
    "BASELINES_FILE",
    "BaselineEntry",
    "BaselineError",
    "BaselineJob",
    "RunningBaseline",
    "Setting",
    "read_baselines",
    "start_baseline",
]

BASELINES_FILE = "baselines.toml"
_ENVIRONMENTS = ".envs"
# Loading may export or quantize a graph; everything else is far shorter.
_TIMEOUT = 900


class BaselineError(EseDeployError):
    """A baseline did not start, failed, or did not answer in time; the bench continues without it.

    Attributes:
        baseline: the one that was running; None where it did not start.
    """

    def __init__(self, message: str, baseline: "RunningBaseline | None" = None) -> None:
        super().__init__(message)
        self.baseline = baseline


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a baseline batches.

    Attributes:
        mode: further setting of its library, such as OpenVINO's ``throughput``.
    """

    batch: int
    mode: str = ""


class BaselineEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A baseline as ``baselines.toml`` describes it.

    Attributes:
        environment: name of its environment, and of the requirements file.
        engine: the library that computes.
        options: passed to the driver; ``dtype`` is required.
    """

    name: str
    environment: str
    driver: str
    engine: str
    options: dict[str, str]

    @property
    def dtype(self) -> str:
        """The dtype that computes."""
        return self.options["dtype"]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"


class _BaselinesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    baseline: list[BaselineEntry]


@dataclass(frozen=True)
class BaselineJob:
    """What every baseline runs.

    Attributes:
        graph: the bundle's full fp32 graph.
        key: hash of the weights, which names the cache of graphs that baselines export.
        width: dimensions of a vector.
        calibration: texts for a baseline that quantizes.
    """

    model: Path
    graph: Path
    tokenizer: Path
    key: str
    width: int
    max_seq_length: int
    threads: int
    calibration: Sequence[str]


@dataclass
class RunningBaseline:
    """A baseline's process with the model loaded."""

    entry: BaselineEntry
    folder: Path
    process: "subprocess.Popen[str]"
    log: Path
    versions: dict[str, str] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            BaselineError: the baseline failed, died or did not answer in time.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(_TIMEOUT, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(msgspec.json.encode({"op": op, **fields}).decode() + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise BaselineError(f"{self.entry} died at '{op}': {self._last_words()}", self)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BaselineError(f"{self.entry} failed at '{op}': {answer['error']}", self)
        return answer

    def send_texts(self, name: str, texts: Sequence[str]) -> None:
        """Send texts once; later requests refer to them by name."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(list(texts)), "utf-8")
        self.ask("texts", name=name, file=str(file))

    def passes(self, name: str, setting: Setting, seconds: float) -> list[float]:
        """Embed all texts, at least once and for at least ``seconds``; seconds of each pass."""
        found: list[float] = self.ask("passes", texts=name, setting=setting, seconds=seconds)["seconds"]
        return found

    def singles(self, name: str, setting: Setting) -> list[float]:
        """Embed each text alone; seconds of each."""
        found: list[float] = self.ask("singles", texts=name, setting=setting)["seconds"]
        return found

    def vectors(self, name: str, setting: Setting) -> NDArray[np.float32]:
        """The vectors of the texts, float32 [n, dim]."""
        file = self.folder / "vectors.npy"
        self.ask("vectors", texts=name, setting=setting, file=str(file))
        found: NDArray[np.float32] = np.load(file, allow_pickle=False)
        return found

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # a request that a dead process did not read
                    stream.close()

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no message"


def read_baselines(folder: Path) -> list[BaselineEntry]:
    """Read ``baselines.toml`` of a folder.

    Raises:
        InputError: it is missing or broken.
    """
    path = folder / BASELINES_FILE
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _BaselinesFile).baseline
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror}. Choose a folder such as benchmarks/baselines."
        ) from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} does not describe baselines: {error}.") from None
    for entry in entries:
        if "dtype" not in entry.options:
            raise InputError(f"{path}: the baseline '{entry.name}' lacks options.dtype, such as fp32.")
    return entries


def start_baseline(folder: Path, entry: BaselineEntry, job: BaselineJob, scratch: Path) -> RunningBaseline:
    """Start a baseline and load the model in it.

    ``scratch`` is an empty folder that outlives the process.

    Raises:
        BaselineError: it is not installed, with the reason, or it cannot load the model.
    """
    environments = folder.resolve() / _ENVIRONMENTS
    python = environments / entry.environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    failed = environments / f"{entry.environment}.failed.txt"
    if failed.is_file():
        raise BaselineError(f"{entry} is not installed: {' '.join(failed.read_text('utf-8').split())}")
    if not python.is_file():
        raise BaselineError(f"{entry} is not installed; run: make baselines")
    own = Path(tempfile.mkdtemp(dir=scratch))
    log = own / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(python), str(folder.resolve() / entry.driver)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**NO_TELEMETRY, **os.environ},
            text=True,
            encoding="utf-8",
        )
    running = RunningBaseline(entry, own, process, log)
    calibration = own / "calibration.json"
    calibration.write_text(json.dumps(list(job.calibration)), "utf-8")
    try:
        running.versions = running.ask("hello")["versions"]
        settings = running.ask(
            "load",
            model=str(job.model),
            graph=str(job.graph.resolve()),
            tokenizer=str(job.tokenizer.resolve()),
            cache=str(environments / "cache" / job.key[:16]),
            threads=job.threads,
            width=job.width,
            max_seq_length=job.max_seq_length,
            calibration=str(calibration),
            options=entry.options,
        )["settings"]
        running.settings = msgspec.convert(settings, list[Setting])
    except BaselineError:
        running.stop()
        raise
    return running
