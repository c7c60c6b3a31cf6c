"""What the kit uses of ese_deploy: encoders, sessions, and sessions of fixed shapes with CUDA graphs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.step import Skip
from benchmarks.gpu.texts import token_batch
from ese_deploy.bundle.reader import choose_entry, open_bundle, read_graph
from ese_deploy.engines import load_engine
from ese_deploy.errors import EngineError
from ese_deploy.runtime.encoder import Encoder
from ese_deploy.runtime.loaded import engine_input

__all__ = ["ENGINES", "Placed", "engine", "fixed_session", "open_encoder", "placement", "token_session"]

ENGINES = {"cuda": "onnxruntime-cuda", "cpu": "onnxruntime"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

# For what an engine computes on the CPU.
_THREADS = 4

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Placed:
    """Where the nodes of a graph run.

    Attributes:
        counts: nodes by execution provider.
        on_cpu: operators on the CPU provider, with their number.
    """

    counts: dict[str, int]
    on_cpu: dict[str, int]


def engine(device: str, name: str | None = None) -> Any:
    """The engine for a device, or the one named.

    Raises:
        Skip: it does not run here; the message is the engine's own.
    """
    import torch  # noqa: F401 - it brings CUDA's libraries, which ONNX Runtime then finds

    try:
        return load_engine(name or ENGINES[device])
    except EngineError as error:
        raise Skip(str(error)) from None


def open_encoder(bundle: Path, target: str, device: str, name: str | None = None) -> Encoder:
    """A target of a bundle, from text to vector."""
    return Encoder.open(bundle, target, engine=engine(device, name))


def token_session(bundle: Path, target: str, device: str, name: str | None = None) -> Any:
    """A target of a bundle, from token ids to vectors: ``session.run(inputs)`` and ``session.inputs``."""
    opened = open_bundle(bundle)
    return engine(device, name).load(engine_input(opened, choose_entry(opened, target)), _THREADS)


def placement(session: Any) -> Placed:
    """Where the nodes of a session run; none is known on the CPU's engine."""
    placed = Placed({}, {})
    for node in getattr(session, "placements", ()):
        placed.counts[node.provider] = placed.counts.get(node.provider, 0) + 1
        if node.provider == "CPUExecutionProvider":
            placed.on_cpu[node.operator] = placed.on_cpu.get(node.operator, 0) + 1
    return placed


def fixed_session(bundle: Path, target: str, batch: int, length: int, device: str) -> Callable[[], Vectors]:
    """A target for one shape only, with a CUDA graph: the GPU replays all kernels with one launch.

    The sizes of both axes are set before loading, so that ONNX Runtime folds the computing of shapes. The package
    itself does not use CUDA graphs.

    Returns:
        A function that copies token ids to the device, computes, and copies the vectors back.
    """
    import onnxruntime

    opened = open_bundle(bundle)
    entry = choose_entry(opened, target)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(opened.path))
    for axis, size in (("batch", batch), ("sequence", length)):
        options.add_free_dimension_override_by_name(axis, size)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        from ese_deploy.engines.onnxruntime_cuda import cuda_options

        providers = [("CUDAExecutionProvider", {**cuda_options(0, tf32=False), "enable_cuda_graph": "1"})]
    session = onnxruntime.InferenceSession(read_graph(opened, entry), options, providers=providers, enable_fallback=0)
    inputs = token_batch(batch, length, [value.name for value in session.get_inputs()])
    value = onnxruntime.OrtValue
    binding = session.io_binding()
    held = {name: value.ortvalue_from_numpy(array, device, 0) for name, array in inputs.items()}
    out = value.ortvalue_from_shape_and_type([batch, entry.dim], np.float32, device, 0)
    for name, one in held.items():
        binding.bind_ortvalue_input(name, one)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, out)

    def run() -> Vectors:
        for name, array in inputs.items():
            held[name].update_inplace(array)
        session.run_with_iobinding(binding)
        vectors: Vectors = out.numpy()
        return vectors

    return run
