"""Shared libraries of NVIDIA: which one is missing, and the package that brings it."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PACKAGES", "missing_library"]

# The beginning of a library's name, and what installs it; the first that fits counts.
PACKAGES: Mapping[str, str] = {
    "libcublas": "pip install 'nvidia-cublas==13.*'",
    "libcudart": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcufft": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcurand": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libnvrtc": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcudnn": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libnvinfer": "pip install 'tensorrt-cu13==10.*'",
    "libnvonnxparser": "pip install 'tensorrt-cu13==10.*'",
    "libcuda": "install the NVIDIA driver",
}


def missing_library(path: Path) -> str | None:
    """What keeps a library from being loaded: the library that it needs and that is missing, and how to get it.

    Only for after a failure: a provider of ONNX Runtime that is loaded by anybody else does not work.

    Args:
        path: the library.

    Returns:
        A sentence, or None where the library can be loaded.
    """
    if not path.exists():
        advice = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
        return f"{path.name} is missing; {advice}"
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        text = str(error).strip().partition("\n")[0]
        missing = re.match(r"(\S+?\.so[\w.]*): cannot open shared object file", text)
        if missing is None:
            return text
        name = missing[1]
        advice = next((how for prefix, how in PACKAGES.items() if name.startswith(prefix)), "install it")
        return f"{name} is missing; {advice}"
    return None
