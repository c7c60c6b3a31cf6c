"""What the engines on ONNX Runtime's GPU providers share: loading, IO binding, and the check where nodes run."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.libraries import missing_library
from ese_deploy.engines.memory import explain_out_of_memory
from ese_deploy.engines.onnxruntime_cpu import first_line, session_options
from ese_deploy.errors import EngineError

__all__ = ["GpuSession", "Placement", "check_placement", "load_session", "require_provider"]

Batch = Mapping[str, NDArray[np.int64]]

_LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
_RECORD = "session.record_ep_graph_assignment_info"
# Operators with which graphs compute shapes. ONNX Runtime runs those on the CPU on purpose.
_SHAPES = frozenset({"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Cast"}) | {
    *("Range", "Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Where", "ConstantOfShape", "Identity")
}
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation")


@dataclass(frozen=True)
class Placement:
    """Where a node of a loaded graph runs.

    Attributes:
        provider: the execution provider.
        operator: its type, such as ``MatMul``.
        name: its name in the graph.
    """

    provider: str
    operator: str
    name: str


def require_provider(onnxruntime: Any, provider: str) -> None:
    """Check that the installed package contains a provider, and load the CUDA libraries that pip installed.

    Raises:
        EngineError: the installed package does not contain it.
    """
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"The installed ONNX Runtime {onnxruntime.__version__} has no {provider}. Run: pip uninstall -y "
            "onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        )
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every library that it does not find, needed or not
            preload()


def load_session(
    onnxruntime: Any,
    providers: list[tuple[str, dict[str, str]]],
    source: EngineInput,
    threads: int,
    *,
    index: int = 0,
    allow_cpu: bool = False,
    device: str = "cuda",
    most_rows: int | None = None,
) -> "GpuSession":
    """Load a graph and check that its nodes run on the provider.

    Args:
        onnxruntime: the module.
        providers: the execution providers with their options, in order of preference.
        source: the graph and its weights.
        threads: threads for what runs on the CPU.
        index: the GPU's number.
        allow_cpu: whether nodes that compute may run on the CPU.
        device: what ONNX Runtime calls the device.
        most_rows: as for :class:`GpuSession`.

    Raises:
        EngineError: the graph or a provider does not load, or nodes were placed on the CPU.
    """
    options = session_options(onnxruntime, source.weights.parent, threads)
    options.log_severity_level = 4  # the errors below report what is missing, in one line
    options.add_session_config_entry(_RECORD, "1")
    wanted = [name for name, _ in providers]
    try:
        session = onnxruntime.InferenceSession(source.graph, options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise EngineError(f"{wanted[0]} failed: {_lacking(onnxruntime, wanted) or first_line(error)}") from error
    session.disable_fallback()
    loaded = session.get_providers()
    if loaded[: len(wanted)] != wanted:
        reason = _lacking(onnxruntime, wanted) or "run ese-deploy doctor"
        raise EngineError(f"ONNX Runtime loaded {loaded[0]} instead of {wanted[0]}: {reason}")
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} does not report where nodes run. Run: "
            "pip install -U onnxruntime-gpu"
        )
    placements = [
        Placement(part.ep_name, node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    check_placement(placements, wanted, allow_cpu)
    return GpuSession(onnxruntime, session, tuple(placements), index, device, most_rows)


def _lacking(onnxruntime: Any, providers: Iterable[str]) -> str | None:
    """Why the libraries of the providers do not load; None if they do."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    reasons = (missing_library(folder / _LIBRARIES[name]) for name in providers)
    return next((reason for reason in reasons if reason), None)


def check_placement(placements: Iterable[Placement], providers: Sequence[str], allow_cpu: bool = False) -> None:
    """Check that the nodes of a graph run on the providers.

    Args:
        placements: of every node.
        providers: the execution providers, in order of preference.
        allow_cpu: whether nodes that compute may run elsewhere.

    Raises:
        EngineError: a node that computes was placed elsewhere, or no node on the first provider.
    """
    placements = list(placements)
    strays = [one for one in placements if one.provider not in providers and one.operator not in _SHAPES]
    if strays and not allow_cpu:
        kinds = ", ".join(sorted({node.operator for node in strays}))
        raise EngineError(
            f"{providers[0]} left {len(strays)} nodes that compute to the CPU ({kinds}). Update onnxruntime-gpu, or "
            "allow it with `allow_cpu=True`."
        )
    if not any(node.provider == providers[0] for node in placements):
        raise EngineError(f"{providers[0]} took no node of the graph. Update onnxruntime-gpu.")


class GpuSession:
    """A graph on a GPU; inputs are copied there and vectors back, nothing else.

    Args:
        onnxruntime: the module.
        session: the session.
        placements: where each node runs.
        index: the GPU's number.
        device: what ONNX Runtime calls the device.
        most_rows: most rows that the provider takes at once. Larger batches are computed in parts.

    Attributes:
        placements: where each node runs.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        placements: tuple[Placement, ...],
        index: int = 0,
        device: str = "cuda",
        most_rows: int | None = None,
    ) -> None:
        self._onnxruntime, self._session = onnxruntime, session
        self._index, self._device, self._most_rows = index, device, most_rows
        self.placements = placements
        self._output = session.get_outputs()[0].name

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Batch) -> NDArray[np.float32]:
        """Compute one batch; see :meth:`ese_deploy.engines.base.Session.run`."""
        try:
            return self._run(inputs)
        except Exception as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise explain_out_of_memory(inputs, self._run) from error
            raise EngineError(f"ONNX Runtime failed on a batch: {first_line(error)}") from error

    def prepare(self, inputs: Batch) -> Callable[[], None]:
        """Copy a batch to the GPU, and return a function that computes it there and waits for the end.

        The vectors stay on the GPU. For measurements without copies.
        """
        bindings = [self._bind(part, self._device) for part in self._parts(inputs)]

        def run() -> None:
            for binding in bindings:
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()

        return run

    def _run(self, inputs: Batch) -> NDArray[np.float32]:
        found: list[NDArray[np.float32]] = []
        for part in self._parts(inputs):
            binding = self._bind(part, "cpu")
            self._session.run_with_iobinding(binding)
            found.append(binding.copy_outputs_to_cpu()[0])
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _parts(self, inputs: Batch) -> Iterator[Batch]:
        rows = len(next(iter(inputs.values())))
        most = self._most_rows or rows
        for first in range(0, rows, most):
            yield {name: array[first : first + most] for name, array in inputs.items()}

    def _bind(self, inputs: Batch, output: str) -> Any:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            rows = np.ascontiguousarray(array)
            value = self._onnxruntime.OrtValue.ortvalue_from_numpy(rows, self._device, self._index)
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(self._output, output, 0 if output == "cpu" else self._index)
        return binding
