"""The machine's own rate of matrix products: what no model on it can pass."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ese_deploy.bench.results import Limit
from ese_deploy.engines import EngineInput
from ese_deploy.engines.onnxruntime_cpu import OnnxRuntimeCpu
from ese_deploy.errors import EngineError

__all__ = ["Ceiling", "find_ceilings", "instruction_sets"]

# Square, and as a transformer's feed-forward block multiplies; the fastest stands for the machine.
_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (512, 1024, 4096))
_GPU_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192))
_TURN = 0.15
_FLAGS = {
    "fp32": ("avx2", "avx512f", "asimd"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


@dataclass(frozen=True)
class Ceiling:
    """A matrix product ready to be timed.

    Attributes:
        limit: what it is, still without rates.
        multiply: multiplies once.
    """

    limit: Limit
    multiply: Callable[[], object]

    @property
    def operations(self) -> int:
        """Operations of one product."""
        m, k, n = self.limit.shape
        return 2 * m * k * n

    def turn(self) -> list[float]:
        """Multiply for a moment; seconds of one product."""
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < _TURN or not count:
            self.multiply()
            count += 1
        return [elapsed / count]


def instruction_sets(root: Path = Path("/")) -> list[str]:
    """The processor's instruction sets that decide the speed of a matrix product, as far as the system names them.

    Args:
        root: where ``proc`` is found.
    """
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            held = set(flags.split())
            return [flag for group in _FLAGS.values() for flag in group if flag in held]
    return []


def find_ceilings(threads: int) -> tuple[list[Ceiling], list[Limit]]:
    """Make the products of this machine ready, each at its fastest shape.

    fp32 and int8 are ONNX Runtime's kernels, in a graph of one node. bf16 and GPUs need PyTorch, since ONNX Runtime
    has no product in bf16 on x86.

    Args:
        threads: threads of a product on the CPU.

    Returns:
        What can be timed, and what cannot, with the reason.
    """
    held = set(instruction_sets())
    found: list[Ceiling] = []
    missing: list[Limit] = []
    for dtype in ("fp32", "int8"):
        if dtype == "int8" and not held.intersection(_FLAGS["int8"]):
            missing.append(_absent("int8", "cpu", "the processor names no instructions for it"))
            continue
        try:
            found.append(_fastest([_onnx_product(dtype, shape, threads) for shape in _SHAPES]))
        except EngineError as error:
            missing.append(_absent(dtype, "cpu", str(error)))
    torch = _torch()
    if not held.intersection(_FLAGS["bf16"]):
        missing.append(_absent("bf16", "cpu", "the processor names no instructions for it"))
    elif torch is None:
        missing.append(_absent("bf16", "cpu", "it needs PyTorch here; pip install torch"))
    else:
        found.append(_fastest([_torch_product(torch, "bf16", shape, "cpu", threads) for shape in _SHAPES]))
    if torch is not None and torch.cuda.is_available():
        found += [
            _fastest([_torch_product(torch, dtype, shape, "cuda", threads) for shape in _GPU_SHAPES])
            for dtype in ("fp32", "fp16", "bf16")
        ]
    return found, missing


def _absent(dtype: str, device: str, reason: str) -> Limit:
    return Limit(dtype, device, "", [], [], reason)


def _fastest(candidates: list[Ceiling]) -> Ceiling:
    for one in candidates:
        one.multiply()
    return max(candidates, key=lambda one: one.operations / min(one.turn()[0] for _ in range(2)))


def _onnx_product(dtype: str, shape: tuple[int, int, int], threads: int) -> Ceiling:
    m, k, n = shape
    random = np.random.default_rng(0)
    if dtype == "fp32":
        operator, kinds = "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT)
        left: Any = random.standard_normal((m, k), np.float32)
        right: Any = random.standard_normal((k, n), np.float32)
    else:
        # Unsigned by signed: what every vector unit for int8 takes.
        operator, kinds = "MatMulInteger", (TensorProto.UINT8, TensorProto.INT32)
        left = random.integers(0, 256, (m, k), np.uint8)
        right = random.integers(-64, 64, (k, n), np.int8)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds[0], [m, k])],
        [helper.make_tensor_value_info("c", kinds[1], [m, n])],
        [numpy_helper.from_array(right, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    engine = OnnxRuntimeCpu()
    path = Path("product.onnx").absolute()  # no file: the graph holds its weights
    source = EngineInput(model.SerializeToString(), path, path.with_suffix(".data"), "", 0, dtype, ("a",))
    session = engine.load(source, threads)
    kernel = f"ONNX Runtime {engine.versions['onnxruntime']} {operator}"
    return Ceiling(Limit(dtype, "cpu", kernel, list(shape), []), lambda: session.run({"a": left}))


def _torch_product(torch: Any, dtype: str, shape: tuple[int, int, int], device: str, threads: int) -> Ceiling:
    m, k, n = shape
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    left, right = (torch.randn(size, device=device).to(kind) for size in ((m, k), (k, n)))

    def multiply() -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return Ceiling(Limit(dtype, name, f"PyTorch {torch.__version__} matmul", list(shape), []), multiply)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch
