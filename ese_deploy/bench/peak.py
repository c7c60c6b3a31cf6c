"""Peak GEMM: the machine's own rate of matrix products, which no model on it can exceed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ese_deploy.bench.results import Peak
from ese_deploy.bench.timing import repeat, time_alone
from ese_deploy.engines import EngineInput
from ese_deploy.engines.onnxruntime_cpu import OnnxRuntimeCpu
from ese_deploy.errors import EngineError

__all__ = ["MatrixProduct", "find_products", "instruction_sets", "torch_peak"]

Shape = tuple[int, int, int]

# Square, and as a transformer's feed-forward layer multiplies; the fastest counts.
_SHAPES: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048), (512, 1024, 4096))
_GPU_SHAPES: tuple[Shape, ...] = ((4096, 4096, 4096), (8192, 8192, 8192))
_TURN = 0.15
_FLAGS = {
    "fp32": ("avx2", "avx512f", "asimd"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


@dataclass(frozen=True)
class MatrixProduct:
    """A matrix product, ready to take turns.

    Attributes:
        peak: what it is, without rates.
        multiply: multiplies, and returns when the result is there.
        products: products of one call; on a GPU several, so that the wait for the last one does not count.
    """

    peak: Peak
    multiply: Callable[[], object]
    products: int = 1

    @property
    def operations(self) -> int:
        """Operations of one call."""
        m, k, n = self.peak.shape
        return 2 * m * k * n * self.products

    def turn(self) -> list[float]:
        """Multiply for 0.15 s; seconds of each call."""
        return repeat(self.multiply, _TURN)


def instruction_sets(root: Path = Path("/")) -> list[str]:
    """The processor's instruction sets that decide the speed of a matrix product, where the system names them.

    Args:
        root: the folder that contains ``proc``.
    """
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(flags.split())
            return [flag for group in _FLAGS.values() for flag in group if flag in present]
    return []


def find_products(threads: int) -> tuple[list[MatrixProduct], list[Peak]]:
    """Prepare this machine's matrix products, each at its fastest shape.

    fp32 and int8 use the kernels of ONNX Runtime, in a graph of one node. bf16 and GPUs need PyTorch, since ONNX
    Runtime has no product in bf16 on x86.

    Args:
        threads: threads of a product on the CPU.

    Returns:
        The products that can be timed, and those that cannot, with the reason.
    """
    present = set(instruction_sets())
    found: list[MatrixProduct] = []
    missing: list[Peak] = []
    for dtype in ("fp32", "int8"):
        if dtype == "int8" and not present.intersection(_FLAGS["int8"]):
            missing.append(_absent("int8", "the processor lists no instructions for it"))
            continue
        try:
            found.append(_fastest([_onnx_product(dtype, shape, threads) for shape in _SHAPES]))
        except EngineError as error:
            missing.append(_absent(dtype, str(error)))
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    if not present.intersection(_FLAGS["bf16"]):
        missing.append(_absent("bf16", "the processor lists no instructions for it"))
    elif torch is None:
        missing.append(_absent("bf16", "it needs PyTorch; pip install torch"))
    else:
        found.append(_fastest([_torch_product("bf16", shape, "cpu", threads) for shape in _SHAPES]))
    if torch is not None and torch.cuda.is_available():
        found += [
            _fastest([_torch_product(dtype, shape, "cuda") for shape in _GPU_SHAPES])
            for dtype in ("fp32", "fp16", "bf16")
        ]
    return found, missing


def torch_peak(dtype: str, device: str, seconds: float, sizes: Sequence[int] = (4096, 8192)) -> float:
    """Operations per second of PyTorch's product of square matrices, the best of several sizes.

    Args:
        dtype: ``fp32``, ``fp16``, ``bf16``, or ``int8`` with sums in 32 bits.
        device: ``cuda`` or ``cpu``.
        seconds: how long to measure each size.
        sizes: rows and columns of the matrices.
    """
    best = 0.0
    for size in sizes:
        product = _torch_product(dtype, (size, size, size), device)
        best = max(best, product.operations / min(time_alone(product.multiply, seconds).seconds))
    return best


def _absent(dtype: str, reason: str) -> Peak:
    return Peak(dtype, "cpu", "", [], [], reason)


def _fastest(candidates: list[MatrixProduct]) -> MatrixProduct:
    for one in candidates:
        one.multiply()
    return max(candidates, key=lambda one: one.operations / min(one.turn()))


def _onnx_product(dtype: str, shape: Shape, threads: int) -> MatrixProduct:
    m, k, n = shape
    random = np.random.default_rng(0)
    if dtype == "fp32":
        operator, kinds = "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT)
        left: Any = random.standard_normal((m, k), np.float32)
        right: Any = random.standard_normal((k, n), np.float32)
    else:
        # Unsigned by signed is what every vector unit for int8 supports.
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
    path = Path("product.onnx").absolute()  # not a file: the graph contains its weights
    source = EngineInput(model.SerializeToString(), path, path.with_suffix(".data"), "", 0, dtype, ("a",))
    session = engine.load(source, threads)
    kernel = f"ONNX Runtime {engine.versions['onnxruntime']} {operator}"
    return MatrixProduct(Peak(dtype, "cpu", kernel, list(shape), []), lambda: session.run({"a": left}))


def _torch_product(dtype: str, shape: Shape, device: str, threads: int | None = None) -> MatrixProduct:
    import torch

    m, k, n = shape
    products = 10 if device == "cuda" else 1
    if dtype == "int8":
        left = torch.randint(-127, 128, (m, k), device=device, dtype=torch.int8)
        right = torch.randint(-127, 128, (n, k), device=device, dtype=torch.int8).t()  # column-major, as GPUs need it
    else:
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        left, right = (torch.randn(size, device=device, dtype=kind) for size in ((m, k), (k, n)))
        out = torch.empty((m, n), device=device, dtype=kind)

    def multiply() -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        for _ in range(products):
            if dtype == "int8":
                torch._int_mm(left, right)
            else:
                torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = Peak(dtype, name, f"PyTorch {torch.__version__} matmul", list(shape), [])
    return MatrixProduct(peak, multiply, products)
