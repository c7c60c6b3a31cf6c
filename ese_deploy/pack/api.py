"""Packing a target, and checking what was written with the golden texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from ese_deploy.bundle.golden import load_golden
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.pack.job import Layout, PackJob
from ese_deploy.system.files import expand, replace_folder, staging_folder
from ese_deploy.target import Target

__all__ = ["LAYOUTS", "Packed", "pack"]

# The module and the name of each layout; a module is imported when its layout is used.
_MODULES = {
    "ese": ("ese_layout", "ESE"),
    "onnx": ("onnx_layouts", "ONNX"),
    "onnx-external": ("onnx_layouts", "ONNX_EXTERNAL"),
    "fastembed": ("onnx_layouts", "FASTEMBED"),
    "transformers.js": ("onnx_layouts", "TRANSFORMERS_JS"),
    "openvino": ("openvino_layout", "OPENVINO"),
    "sentence-transformers": ("sentence_transformers_layout", "SENTENCE_TRANSFORMERS"),
    "tei": ("onnx_layouts", "TEI"),
    "triton": ("onnx_layouts", "TRITON"),
}

LAYOUTS = tuple(_MODULES)
"""Names of the layouts."""


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        out: the folder.
        layout: name of the layout.
        targets: the targets in it.
        bytes: size of all files.
        max_abs: largest difference of a component from the golden vectors, which PyTorch computed.
    """

    out: Path
    layout: str
    targets: tuple[str, ...]
    bytes: int
    max_abs: float


def pack(
    bundle: str | Path | Bundle, targets: str | Target | Sequence[str | Target], out: str | Path, *, layout: str
) -> Packed:
    """Write one target of a bundle in the repository layout of another tool.

    The folder contains only the weights that the target reads. It is checked with the golden texts before it gets its
    name: a difference beyond the tolerance of the dtype leaves nothing behind.

    Args:
        bundle: the folder of the bundle, or an open bundle.
        targets: the target, such as ``"3x128"``; the layout ``ese`` takes several.
        out: the folder to write; it must not exist or be empty.
        layout: one of :data:`LAYOUTS`.

    Raises:
        InputError: an argument is wrong, or the tool cannot run the target.
        BundleError: the bundle is missing or damaged.
        CheckFailedError: vectors of the written files differ from the golden vectors.

    Example:
        >>> pack("exports/minilm", "3x128", "packed/minilm", layout="fastembed")
        Packed(out=PosixPath('packed/minilm'), layout='fastembed', targets=('3x128',), bytes=75300000, max_abs=1.2e-07)
    """
    if layout not in _MODULES:
        raise InputError(f"Unknown layout '{layout}'. Choose one of: {', '.join(LAYOUTS)}.")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    wanted = [targets] if isinstance(targets, (str, Target)) else list(targets)
    entries = tuple(choose_entry(opened, target) for target in wanted)
    if not entries:
        raise InputError("Name a target to pack with `targets`, for example 3x128.")
    if len({entry.name for entry in entries}) < len(entries):
        raise InputError("A target is named twice. Name each target once.")
    folder = expand(out).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder. Choose another folder with `out`.")
    module, name = _MODULES[layout]
    found: Layout = getattr(import_module(f"ese_deploy.pack.{module}"), name)
    if len(entries) > 1 and not found.several:
        raise InputError(f"Layout '{layout}' holds one target, got {len(entries)}. Pack each into its own folder.")
    job = PackJob(opened, entries, load_golden(opened), folder.name)
    found.check(job)
    with staging_folder(folder) as staging:
        found.write(job, staging)
        max_abs = _check(job, found, staging)
        size = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        if folder.is_dir():
            folder.rmdir()
        replace_folder(staging, folder)
    return Packed(folder, layout, tuple(str(entry.target) for entry in entries), size, max_abs)


def _check(job: PackJob, layout: Layout, folder: Path) -> float:
    """The largest difference from the golden vectors.

    Raises:
        CheckFailedError: it is above the tolerance of a target's dtype.
    """
    failures = []
    largest = 0.0
    for name, vectors in layout.embed(job, folder).items():
        entry = next(entry for entry in job.entries if entry.name == name)
        expected = np.asarray(job.golden.vectors[name], np.float32)
        difference = float(np.nan_to_num(np.abs(vectors - expected), nan=np.inf).max())
        largest = max(largest, difference)
        tolerance = TOLERANCES[entry.dtype].golden
        if difference > tolerance:
            failures.append(f"{entry.target}: differs by {difference:.1e}, more than {tolerance:.0e}")
    if failures:
        raise CheckFailedError(f"Layout {layout.name} does not give the vectors of the bundle.", failures)
    return largest
