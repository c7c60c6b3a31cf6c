"""What each step of the kit is given, and how it reports. A step is a program: python -m benchmarks.gpu.steps.NAME."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.records import FAILED, OK, SKIPPED, Record, append, cases, read
from benchmarks.gpu.shapes import Shape, shapes

__all__ = ["Skip", "Step", "run"]


class Skip(Exception):  # noqa: N818 - it is no error
    """A step or a case cannot run here; the message says why."""


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: of the step.
        results: the file of results.
        work: where models and bundles lie.
        device: ``cuda`` or ``cpu``.
        tiny: a dry run with small shapes.
        end: ``time.monotonic()`` at which the last case must have started.
        errors: of the cases that failed.
        skipped: reasons of the cases that were skipped.
    """

    name: str
    results: Path
    work: Path
    device: str
    tiny: bool
    end: float
    errors: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def late(self) -> bool:
        """Whether no further case should start."""
        return time.monotonic() > self.end

    @property
    def shapes(self) -> dict[str, Shape]:
        """The models of this run by name."""
        return shapes(self.tiny)

    @property
    def case_seconds(self) -> float:
        """How long one case repeats its call."""
        return 0.001 if self.tiny else 0.3

    def record(self, **fields: object) -> None:
        """Append one case to the results, and print it."""
        append(self.results, {"kind": "case", "step": self.name, **fields})
        print("  " + ", ".join(f"{name}={value}" for name, value in fields.items()), flush=True)

    @contextmanager
    def case(self, **fields: object) -> Iterator[Record]:
        """Measure one case: what the block puts into the dictionary is recorded, and so is the reason if it fails."""
        found: Record = {}
        try:
            yield found
        except Skip as skip:
            found["skipped"] = str(skip)
            self.skipped.append(str(skip))
        except Exception as error:
            traceback.print_exc()
            found["error"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            self.errors.append(found["error"])
        self.record(**fields, **found)

    def earlier(self, step: str) -> list[Record]:
        """Cases of an earlier step."""
        return cases(read(self.results), step)


def run(name: str, work: Callable[[Step], None]) -> None:
    """Run a step as a program; its last record says how it ended."""
    parser = argparse.ArgumentParser(description=work.__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    start, earlier = time.monotonic(), len(read(options.results))
    step = Step(name, options.results, options.work, options.device, options.tiny, start + options.seconds)
    state, reason = OK, ""
    try:
        _require_device(step)
        work(step)
    except Skip as skip:
        state, reason = SKIPPED, str(skip)
    except Exception as error:
        traceback.print_exc()
        state, reason = FAILED, f"{type(error).__name__}: {error}".partition("\n")[0]
    seconds = round(time.monotonic() - start, 1)
    if state == OK and step.errors:
        state, reason = FAILED, f"{len(step.errors)} cases failed, the first with {step.errors[0]}"
    elif state == OK and step.skipped:
        measured = any("skipped" not in one for one in cases(read(step.results)[earlier:], name))
        state = OK if measured else SKIPPED
        reason = f"{len(step.skipped)} cases were skipped, the first since {step.skipped[0]}"
    elif state == OK and step.late:
        reason = "cases were left out: no time"
    append(step.results, {"kind": "step", "step": name, "state": state, "reason": reason, "seconds": seconds})
    sys.exit(1 if state == FAILED else 0)


def _require_device(step: Step) -> None:
    """Skip a step for a GPU where there is none; the step ``peak`` says more about the machine."""
    if step.device == "cuda" and step.name != "peak":
        import torch

        if not torch.cuda.is_available():
            raise Skip("PyTorch sees no GPU")
