"""The file of results, to which each piece adds."""

from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.bundle.manifest import Parity
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import Machine

__all__ = ["SCHEMA_VERSION", "Results", "Row", "Verified", "add", "load"]

SCHEMA_VERSION = 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case on one engine.

    Attributes:
        model: the shape.
        target: such as ``12x768:fp16``.
        depth: transformer blocks that run.
        dtype: that computes.
        engine: ``onnxruntime-cuda``, ``tensorrt``, ``pytorch-eager``, ``pytorch-compiled``.
        batch: rows.
        length: tokens of each row.
        texts_per_second: rows divided by the median time of a batch; None where the case failed.
        spread: from the 10th to the 90th percentile of the times, as a share of the median.
        runs: batches timed.
        tflops: arithmetic of the model done each second, in 10^12.
        share_of_ceiling: that divided by what the GPU's own product of matrices reached in the same run.
        error: why the case failed.
    """

    model: str
    target: str
    depth: int
    dtype: str
    engine: str
    batch: int
    length: int
    texts_per_second: float | None = None
    spread: float | None = None
    runs: int = 0
    tflops: float | None = None
    share_of_ceiling: float | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What a later row replaces."""
        return (self.model, self.target, self.engine, self.batch, self.length)


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """How near PyTorch in fp32 a target came on an engine."""

    model: str
    target: str
    parity: Parity
    failures: list[str]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured on one machine.

    Attributes:
        schema_version: 1.
        kind: ``gpu``.
        machine: the machine.
        device: the GPU's name.
        driver: CUDA version that its driver supports.
        versions: of the libraries.
        date: of the last piece.
        ceiling_tflops: for each dtype what the GPU's own product of matrices reached, in the last piece.
        rows: the measurements.
        verified: the comparisons with PyTorch.
        unmeasured: what the pieces had no time for.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str = "gpu"
    machine: Machine
    device: str
    driver: str
    versions: dict[str, str]
    date: str
    ceiling_tflops: dict[str, float]
    rows: list[Row] = []
    verified: list[Verified] = []
    unmeasured: list[str] = []


def load(path: Path) -> Results | None:
    """Read results; None where there are none yet."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.is_file() else None


def add(path: Path, fresh: Results) -> Results:
    """Add a piece to the results of one machine and GPU; rows that were measured anew are replaced, unless that failed.

    Results of another GPU are not mixed in: they are replaced whole.
    """
    held = load(path)
    if held is not None and held.device == fresh.device and held.machine.key == fresh.machine.key:
        rows = {row.key: row for row in held.rows}
        rows |= {row.key: row for row in fresh.rows if row.error is None or row.key not in rows}
        checks: dict[Any, Verified] = {
            (one.model, one.target, one.parity.engine): one for one in (*held.verified, *fresh.verified)
        }
        measured = _names(row.key for row in rows.values() if row.error is None)
        left = [
            line
            for line in dict.fromkeys((*held.unmeasured, *fresh.unmeasured))
            if not any(line == name or line.startswith(f"{name}: ") for name in measured)
        ]
        fresh = msgspec.structs.replace(
            fresh, rows=list(rows.values()), verified=list(checks.values()), unmeasured=left
        )
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(fresh), indent=1) + b"\n")
    return fresh


def _names(rows: Any) -> set[str]:
    """What lines of ``unmeasured`` begin with: of a case, of a target on an engine, of a model on one."""
    return {
        name
        for model, target, engine, batch, length in rows
        for name in (
            f"{model} {target} {engine} {batch}x{length}",
            f"{model} {target} {engine}",
            f"{model} on {engine}",
        )
    }
