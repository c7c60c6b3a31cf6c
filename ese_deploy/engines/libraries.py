"""NVIDIA's shared libraries: which one is missing, and the package that contains it."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PACKAGES", "missing_library"]

# How to install a library, by the beginning of its file name. The first match counts.
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
    """Why a library does not load: the missing library that it needs, and how to install it.

    Call this after a failure only: a provider of ONNX Runtime does not work once other code has loaded it.

    Args:
        path: the library.

    Returns:
        A phrase, or None if the library loads.
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
