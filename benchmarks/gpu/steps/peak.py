"""Step a: what the machine is, and the most that its GPU does in matrix products and copies."""

import importlib.metadata
import importlib.util
import subprocess

import torch

from benchmarks.gpu.step import Skip, Step, run
from benchmarks.gpu.timing import bandwidth, peak
from ese_deploy.system.machine import describe_machine, library_versions

_DTYPES = {"cuda": ("fp16", "bf16", "int8", "fp32"), "cpu": ("fp32", "int8")}
_PACKAGES = ("sentence-transformers", "onnx", "onnx-ir", "onnxscript", "flash-attn", "triton", "tensorrt", "msgspec")


def measure_peak(step: Step) -> None:
    """Describe the machine and measure its limits."""
    if step.device == "cuda" and not torch.cuda.is_available():
        step.record(case="machine", machine=str(describe_machine()), versions=_versions(), gpu="none")
        raise Skip(f"PyTorch {torch.__version__} sees no GPU; {_driver() or 'nvidia-smi finds no driver'}")
    step.record(case="machine", machine=str(describe_machine()), versions=_versions(), **_gpu(step.device))
    for dtype in _DTYPES[step.device]:
        with step.case(case="matmul", dtype=dtype) as found:
            found["tflops"] = round(peak(step.device, dtype, 4 * step.case_seconds) / 1e12, 4)
    with step.case(case="copy") as found:
        found["gb_per_second"] = round(bandwidth(step.device, 2 * step.case_seconds) / 1e9, 2)


def _gpu(device: str) -> dict[str, object]:
    if device == "cpu":
        return {"gpu": "none"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _versions() -> dict[str, str]:
    found = {**library_versions(), "torch": str(torch.__version__)}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        # The module is decisive: two packages bring it.
        found["onnxruntime"] = f"{onnxruntime.__version__} ({', '.join(onnxruntime.get_available_providers())})"
    return found


if __name__ == "__main__":
    run("peak", measure_peak)
