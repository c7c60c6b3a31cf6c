"""ONNX Runtime's CPU provider."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.integers import unsigned, wants_unsigned
from ese_deploy.errors import EngineError
from ese_deploy.system.files import sha256_file
from ese_deploy.system.install import install_hint, installed_version

__all__ = [
    "NO_TELEMETRY",
    "SLOW_FUSIONS",
    "OnnxRuntimeCpu",
    "first_line",
    "import_onnxruntime",
    "installed_distributions",
    "session_options",
]

_PROVIDER = "CPUExecutionProvider"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Threads that spin after a batch take CPU time from other sessions and processes.
_STOP_SPINNING = "session.force_spinning_stop"
_NO_PACKING = "session.disable_prepacking"

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""Environment variables with which ONNX Runtime sends no telemetry and writes nothing into the home folder."""

SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Optimisations that cost time: the fused kernel of a sum and a norm takes as long as eight norms."""


def installed_distributions() -> dict[str, str]:
    """Installed packages that contain the module ``onnxruntime``, with their versions."""
    names = ("onnxruntime", "onnxruntime-gpu")
    return {name: version for name in names if (version := installed_version(name))}


def import_onnxruntime(extra: str = "cpu") -> Any:
    """Import ONNX Runtime with its telemetry off, unless the environment turns it on.

    Args:
        extra: the extra of this package that installs it.

    Raises:
        EngineError: the library is missing or cannot be imported.
    """
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    try:
        import onnxruntime
    except ImportError as error:
        found = installed_distributions()
        if not found:
            raise EngineError(f"ONNX Runtime is not installed. {install_hint(extra)}") from None
        both = len(found) == 2
        advice = "Uninstall both packages and install one of them." if both else "Reinstall it."
        raise EngineError(f"ONNX Runtime {found} cannot be imported ({first_line(error)}). {advice}") from error
    onnxruntime.disable_telemetry_events()
    if extra != "cpu":
        # The engine reports what is missing in one line; the library would print ten.
        onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def session_options(onnxruntime: Any, folder: Path, threads: int) -> Any:
    """Options of a session that reads its weights from ``folder`` and computes with ``threads`` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder))
    options.add_session_config_entry(_STOP_SPINNING, "1")
    return options


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


@functools.lru_cache(maxsize=64)
def _hash_of(path: Path, _: tuple[int, ...]) -> str:
    """The hash of a file; the other argument tells apart files that replace each other."""
    return sha256_file(path)


def _check_weights(source: EngineInput) -> None:
    """Check the hash of a weights file that stays mapped, once for all graphs that read it.

    Raises:
        EngineError: the file has another hash, or cannot be read.
    """
    try:
        status = source.weights.stat()
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found = _hash_of(source.weights, stamp)
    except OSError as error:
        raise EngineError(f"{source.weights} cannot be read: {error.strerror}.") from error
    if found != source.weights_sha256:
        raise EngineError(
            f"{source.weights} has the hash {found:.12}..., expected {source.weights_sha256:.12}.... Get the bundle "
            "again."
        )


@dataclass(frozen=True)
class _Session:
    session: Any

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.session.get_inputs()]

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        try:
            (vectors,) = self.session.run(None, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on a batch: {first_line(error)}") from error
        result: NDArray[np.float32] = vectors
        return result


class OnnxRuntimeCpu:
    """Runs graphs on the CPU with ONNX Runtime.

    Args:
        mapped: compute on the weights as they are mapped from their file, read only, instead of packing a private copy
            for each session, and free buffers after each batch. Depths, dims and processes then share one copy. Short
            texts take longer.

    Raises:
        EngineError: the library is missing or cannot be imported.
    """

    name = "onnxruntime"

    def __init__(self, *, mapped: bool = False) -> None:
        self._onnxruntime = import_onnxruntime()
        self._mapped = mapped
        self.device = "cpu, mapped weights" if mapped else "cpu"
        self.versions = {"onnxruntime": str(self._onnxruntime.__version__)}

    def load(self, source: EngineInput, threads: int) -> _Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`."""
        options = session_options(self._onnxruntime, source.weights.parent, threads)
        if self._mapped:
            _check_weights(source)
            options.add_session_config_entry(_NO_PACKING, "1")
            options.enable_cpu_mem_arena = False
        graph = unsigned(source.graph) if wants_unsigned() else source.graph
        try:
            session = self._onnxruntime.InferenceSession(
                graph, options, providers=[_PROVIDER], disabled_optimizers=SLOW_FUSIONS
            )
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
        loaded = session.get_providers()
        if loaded != [_PROVIDER]:
            raise EngineError(f"ONNX Runtime loaded {loaded} instead of {_PROVIDER}.")
        return _Session(session)

    def load_streams(self, source: EngineInput, threads: int) -> _Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Streaming.load_streams`."""
        return self.load(source, 1)  # such a session computes in the threads of its callers
