"""OpenVINO on the CPU."""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.onnxruntime_cpu import first_line
from ese_deploy.errors import EngineError
from ese_deploy.system.install import install_hint

__all__ = ["OpenVino", "import_openvino"]

_TELEMETRY = "openvino_telemetry"
_BF16 = "BF16"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    The Python package reports every import unless the user has opted out. If its telemetry package is missing, it uses
    a stub.

    Raises:
        EngineError: the library is missing or cannot be imported.
    """
    with _without_module(_TELEMETRY):
        try:
            import openvino
        except ImportError as error:
            if getattr(error, "name", None) == "openvino":
                raise EngineError(f"OpenVINO is not installed. {install_hint('openvino')}") from None
            raise EngineError(f"OpenVINO cannot be imported ({first_line(error)}). Reinstall it.") from error
    return openvino


@contextmanager
def _without_module(name: str) -> Iterator[None]:
    """Make imports of a module fail within the block."""
    absent = object()
    loaded: Any = sys.modules.get(name, absent)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if loaded is absent:
            del sys.modules[name]
        else:
            sys.modules[name] = loaded


class _Session:
    """A compiled graph, with a request for each thread that runs it."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests = threading.local()
        self._process = os.getpid()

    @property
    def inputs(self) -> list[str]:
        return [value.any_name for value in self._compiled.inputs]

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        if os.getpid() != self._process:
            # The threads of OpenVINO do not exist in the child, which would wait for them for ever.
            raise EngineError("OpenVINO does not run in a forked child. Open the encoder after the fork, or use spawn.")
        request = getattr(self._requests, "one", None)
        try:
            if request is None:
                request = self._requests.one = self._compiled.create_infer_request()
            _infer(request, inputs)
            # A copy, because the next batch overwrites the tensor.
            vectors: NDArray[np.float32] = np.array(request.get_output_tensor(0).data, np.float32)
        except Exception as error:
            raise EngineError(f"OpenVINO failed on a batch: {first_line(error)}") from error
        return vectors


_called = threading.Event()
_first_call = threading.Lock()


def _infer(request: Any, inputs: Mapping[str, NDArray[np.int64]]) -> None:
    """Run a request. The first request of the process runs alone.

    OpenVINO's binding initialises itself in its first call. Two threads that both make it deadlock: one holds Python's
    lock and waits for the binding's, the other holds the binding's and waits for Python's.
    """
    if _called.is_set():
        request.infer(dict(inputs))
        return
    with _first_call:
        request.infer(dict(inputs))
        _called.set()


class OpenVino:
    """Runs graphs on the CPU with OpenVINO.

    Args:
        bf16: round the factors of matrix products to bf16. Needs a CPU with bf16 instructions. fp32 targets then exceed
            the tolerance of fp32.

    Raises:
        EngineError: the library is missing, or the CPU has no bf16 instructions.
    """

    name = "openvino"

    def __init__(self, *, bf16: bool = False) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        self._precision = "bf16" if bf16 else "f32"
        if bf16 and _BF16 not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("This CPU has no bf16 instructions. Choose the engine 'openvino'.")
        self.device = "cpu, bf16" if bf16 else "cpu"
        self.versions = {"openvino": str(openvino.__version__).partition("-")[0]}

    def load(self, source: EngineInput, threads: int) -> _Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`."""
        return self._load(source, threads, 1)

    def load_streams(self, source: EngineInput, threads: int) -> _Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Streaming.load_streams`."""
        return self._load(source, threads, threads)

    def _load(self, source: EngineInput, threads: int, streams: int) -> _Session:
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(threads),
        }
        with _file_of(source) as path:
            try:
                return _Session(self._compile(self._core.read_model(path), settings))
            except Exception as error:
                raise EngineError(f"OpenVINO cannot load the graph: {_reason(error)}") from error

    def _compile(self, model: Any, settings: Mapping[str, str]) -> Any:
        return self._core.compile_model(model, "CPU", dict(settings))


@contextmanager
def _file_of(source: EngineInput) -> Iterator[Path]:
    """A file of the graph beside its weights: OpenVINO looks for them in the graph's folder and does not follow links.

    A graph that was made in memory gets a temporary folder.
    """
    if source.path.is_file() and source.path.read_bytes() == source.graph:
        yield source.path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        path = Path(name, "graph.onnx")
        path.write_bytes(source.graph)
        if source.weights.is_file():
            weights = Path(name, source.weights.name)
            try:
                weights.hardlink_to(source.weights)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source.weights, weights)
        yield path


def _reason(error: BaseException) -> str:
    """The last line of an error that contains a word. The lines before it name places in OpenVINO's code."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
    return lines[-1] if lines else type(error).__name__
