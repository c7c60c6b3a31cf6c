"""The table of engines. A new engine is one file in this folder and one row here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

from ese_deploy.engines.base import Engine
from ese_deploy.errors import EngineError

__all__ = [
    "AUTO_ENGINE",
    "DEFAULT_ENGINE",
    "ENGINES",
    "GPU_ENGINES",
    "OPT_IN_ENGINES",
    "REGISTRY",
    "SHARING_ENGINE",
    "Batch",
    "EngineRow",
    "batch_for",
    "engines_for",
    "find_engine",
    "load_engine",
    "require_dtype",
    "runs_dtype",
]


@dataclass(frozen=True)
class Batch:
    """The size of a batch.

    Attributes:
        size: most rows.
        tokens: most tokens, padding included.
    """

    size: int = 64
    tokens: int = 256


@dataclass(frozen=True)
class EngineRow:
    """What is known of an engine before it is imported.

    Attributes:
        name: what ``--engine`` takes.
        factory: module and class, such as ``ese_deploy.engines.openvino:OpenVino``.
        dtypes: dtypes of the targets that it runs.
        extra: the extra of this package that installs it.
        packages: the distributions that contain its library, with the minimum version. One of them is enough.
        device: the kind of device. A GPU engine takes the number of the GPU behind its name: ``tensorrt:1``.
        batch: the batch unless the user chooses another. On a CPU it is the fastest of those measured over lengths,
            dtypes and thread counts (benchmarks/README.md). A GPU needs larger batches to be busy.
        options: what may stand behind the name on a CPU, as in ``openvino:bf16``.
        opt_in: whether the engine is used only when it is named.
    """

    name: str
    factory: str
    dtypes: tuple[str, ...]
    extra: str
    packages: Mapping[str, str]
    device: Literal["cpu", "gpu"] = "cpu"
    batch: Batch = field(default=Batch())
    options: tuple[str, ...] = ()
    opt_in: bool = True

    @property
    def spellings(self) -> tuple[str, ...]:
        """All forms that ``--engine`` takes, with 1 as an example of a GPU's number."""
        suffixes = ("1",) if self.device == "gpu" else self.options
        return (self.name, *(f"{self.name}:{suffix}" for suffix in suffixes))


_GPU_BATCH = Batch(size=512, tokens=16384)

_ROWS = (
    EngineRow(
        name="onnxruntime",
        factory="ese_deploy.engines.onnxruntime_cpu:OnnxRuntimeCpu",
        dtypes=("fp32", "int8"),
        extra="cpu",
        packages={"onnxruntime": "1.21.1", "onnxruntime-gpu": "1.23"},
        options=("mapped",),
        opt_in=False,
    ),
    EngineRow(
        name="openvino",
        factory="ese_deploy.engines.openvino:OpenVino",
        dtypes=("fp32", "int8"),
        extra="openvino",
        packages={"openvino": "2026.1"},
        batch=Batch(tokens=512),
        options=("bf16",),
    ),
    EngineRow(
        name="onnxruntime-cuda",
        factory="ese_deploy.engines.onnxruntime_cuda:OnnxRuntimeCuda",
        dtypes=("fp32", "fp16", "bf16"),
        extra="gpu",
        packages={"onnxruntime-gpu": "1.23"},
        device="gpu",
        batch=_GPU_BATCH,
    ),
    EngineRow(
        name="tensorrt",
        factory="ese_deploy.engines.tensorrt.engine:TensorRt",
        dtypes=("fp16", "bf16", "int8-fp16"),
        extra="tensorrt",
        packages={
            "tensorrt-cu13": "10.13",
            "tensorrt-cu12": "10.13",
            "tensorrt": "10.13",
            "tensorrt-rtx-cu13-bindings": "1.7",
            "tensorrt-rtx": "1.7",
        },
        device="gpu",
        batch=_GPU_BATCH,
    ),
    EngineRow(
        name="onnxruntime-tensorrt",
        factory="ese_deploy.engines.onnxruntime_tensorrt:OnnxRuntimeTensorRt",
        dtypes=("fp16", "bf16", "int8-fp16"),
        extra="gpu",
        packages={"onnxruntime-gpu": "1.23"},
        device="gpu",
        batch=_GPU_BATCH,
    ),
)

REGISTRY: Mapping[str, EngineRow] = {row.name: row for row in _ROWS}
"""All engines by name, the default one first."""

ENGINES = tuple(REGISTRY)
"""Names of all engines."""

AUTO_ENGINE = "auto"
"""Where an engine is named: the fastest one, see :func:`ese_deploy.runtime.fastest.fastest_engine`."""

DEFAULT_ENGINE = next(row.name for row in _ROWS if not row.opt_in)
"""The engine that runs when none is named."""

SHARING_ENGINE = f"{DEFAULT_ENGINE}:mapped"
"""The default engine, computing on weights that depths and processes share."""

GPU_ENGINES = frozenset(row.name for row in _ROWS if row.device == "gpu")
"""Engines that run on a GPU."""

OPT_IN_ENGINES = frozenset(row.name for row in _ROWS if row.opt_in)
"""Engines that are used only when they are named."""


def batch_for(name: str) -> Batch:
    """The batch of an engine unless the user chooses another."""
    row = REGISTRY.get(name)
    return Batch() if row is None else row.batch


def engines_for(dtype: str) -> list[str]:
    """Engines that run targets of ``dtype``."""
    return [row.name for row in _ROWS if dtype in row.dtypes]


def runs_dtype(name: str, dtype: str) -> bool:
    """Whether an engine runs targets of ``dtype``. True for an engine that is not in the table."""
    row = REGISTRY.get(name)
    return row is None or dtype in row.dtypes


def require_dtype(name: str, target: str, dtype: str) -> None:
    """Check that an engine runs a target's dtype.

    Raises:
        EngineError: it does not.
    """
    if not runs_dtype(name, dtype):
        others = engines_for(dtype)
        instead = f"the engine {' or '.join(others)}, or " if others else ""
        raise EngineError(
            f"Engine '{name}' does not run {dtype}, the dtype of target {target}. Choose {instead}a target of dtype "
            f"{' or '.join(REGISTRY[name].dtypes)}."
        )


def find_engine(name: str) -> tuple[EngineRow, dict[str, int | bool]]:
    """Look an engine up without importing it.

    Args:
        name: a name, with a GPU's number or an option behind it where the engine takes one.

    Returns:
        The row of the table, and the arguments for the engine's class.

    Raises:
        EngineError: there is no such engine, number or option.
    """
    kind, colon, suffix = name.partition(":")
    row = REGISTRY.get(kind)
    if row is None:
        raise EngineError(f"Unknown engine '{name}'. Choose one of: {', '.join(ENGINES)}.")
    if not colon:
        return row, {}
    if row.device == "gpu" and suffix.isdecimal():
        return row, {"index": int(suffix)}
    if suffix in row.options:
        return row, {suffix: True}
    raise EngineError(f"Unknown engine '{name}'. Write {' or '.join(row.spellings)}.")


def load_engine(name: str) -> Engine:
    """Load an engine by name.

    Args:
        name: one of :data:`ENGINES`. A GPU engine takes a GPU's number, as in ``onnxruntime-cuda:1``; OpenVINO takes
            ``openvino:bf16``, which computes in bf16 what is not int8, and ONNX Runtime ``onnxruntime:mapped``, which
            computes on mapped weights.

    Raises:
        EngineError: there is no such engine, no such device, or its library is missing or broken.
    """
    row, arguments = find_engine(name)
    module, _, attribute = row.factory.partition(":")
    engine: Engine = getattr(import_module(module), attribute)(**arguments)
    return engine
