"""Peers: other ways from the same weights and texts to vectors, each a process in an environment of its own.

A folder of peers holds ``baselines.toml``, a driver script for each, and the environments in ``.envs``. A driver speaks
JSON, one object a line; ``benchmarks/baselines/serve.py`` documents the messages.
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

__all__ = ["PEERS_FILE", "PeerEntry", "PeerError", "PeerJob", "RunningPeer", "read_peers", "start_peer"]

PEERS_FILE = "baselines.toml"
_ENVIRONMENTS = ".envs"
# Loading may export a graph or quantise it; anything else is far shorter.
_TIMEOUT = 900


class PeerError(EseDeployError):
    """A peer did not start, failed, or gave no answer in time; the others go on without it.

    Attributes:
        peer: the one that was running; None where it did not start.
    """

    def __init__(self, message: str, peer: "RunningPeer | None" = None) -> None:
        super().__init__(message)
        self.peer = peer


class PeerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A peer as ``baselines.toml`` describes it.

    Attributes:
        name: its name.
        environment: name of its environment, and of the requirements file.
        driver: its script.
        engine: what computes.
        options: handed to the driver; ``dtype`` among them.
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


class _PeersFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: list[PeerEntry]


@dataclass(frozen=True)
class PeerJob:
    """What every peer is asked to run.

    Attributes:
        model: the checkpoint's folder.
        graph: the bundle's full fp32 graph.
        tokenizer: the bundle's tokenizer.
        key: hash of the weights, which names the cache of graphs that peers export.
        width: dimensions of a vector.
        max_seq_length: longest input in tokens.
        threads: threads that may compute.
        calibration: texts for a peer that quantises.
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
class RunningPeer:
    """A peer's process, the model loaded.

    Attributes:
        entry: who it is.
        versions: versions of its libraries.
        settings: those to try.
    """

    entry: PeerEntry
    folder: Path
    process: "subprocess.Popen[str]"
    log: Path
    versions: dict[str, str] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerError: the peer failed, died or gave no answer in time.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(_TIMEOUT, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise PeerError(f"{self.entry} died at '{op}': {self._last_words()}", self)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.entry} failed at '{op}': {answer['error']}", self)
        return answer

    def send_texts(self, name: str, texts: Sequence[str]) -> None:
        """Hand texts over; later requests name them."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(list(texts)), "utf-8")
        self.ask("texts", name=name, file=str(file))

    def passes(self, name: str, setting: dict[str, Any], seconds: float) -> list[float]:
        """Seconds of whole passes over the texts, of at least one."""
        found: list[float] = self.ask("passes", texts=name, setting=setting, seconds=seconds)["seconds"]
        return found

    def singles(self, name: str, setting: dict[str, Any]) -> list[float]:
        """Seconds of each text alone."""
        found: list[float] = self.ask("singles", texts=name, setting=setting)["seconds"]
        return found

    def vectors(self, name: str, setting: dict[str, Any]) -> NDArray[np.float32]:
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
                with suppress(OSError):  # a request that a dead process did not take
                    stream.close()

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def read_peers(folder: Path) -> list[PeerEntry]:
    """Read ``baselines.toml`` of a folder.

    Raises:
        InputError: it is missing or broken.
    """
    path = folder / PEERS_FILE
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _PeersFile).peer
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a folder like benchmarks/baselines") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} does not describe peers: {error}") from None
    for entry in entries:
        if "dtype" not in entry.options:
            raise InputError(f"{path}: peer '{entry.name}' lacks options.dtype, such as fp32")
    return entries


def start_peer(folder: Path, entry: PeerEntry, job: PeerJob, scratch: Path) -> RunningPeer:
    """Start a peer and let it load the model.

    Args:
        folder: the folder of peers.
        entry: which.
        job: what to load.
        scratch: an empty folder that outlives the peer.

    Raises:
        PeerError: it is not installed, with the reason, or it cannot load the model.
    """
    environments = folder.resolve() / _ENVIRONMENTS
    python = environments / entry.environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    failed = environments / f"{entry.environment}.failed.txt"
    if failed.is_file():
        raise PeerError(f"{entry} is not installed: {' '.join(failed.read_text('utf-8').split())}")
    if not python.is_file():
        raise PeerError(f"{entry} is not installed; make peers")
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
    peer = RunningPeer(entry, own, process, log)
    calibration = own / "calibration.json"
    calibration.write_text(json.dumps(list(job.calibration)), "utf-8")
    try:
        peer.versions = peer.ask("hello")["versions"]
        peer.settings = peer.ask(
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
    except PeerError:
        peer.stop()
        raise
    return peer
