"""Run all steps of the GPU kit, each in a process of its own: bash benchmarks/gpu/kit.sh OUT.

Needs only the standard library here, so that whatever a machine lacks becomes the reason of a step that was skipped.
"""

import argparse
import ctypes
import datetime
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchmarks.gpu.records import FAILED, SKIPPED, TIMED_OUT, append, read, states
from benchmarks.gpu.shapes import shapes
from benchmarks.gpu.unpack import COMMON, TRAINING, unpack

__all__ = ["STEPS", "StepPlan", "main", "run_step"]

_ROOT = Path(__file__).resolve().parents[2]
# Between asking a step to start no further case and ending its process.
_GRACE = 10.0
_TINY_SECONDS = 300.0
_MANY_CORES = 8
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class StepPlan:
    """A step of the kit.

    Attributes:
        name: of its module in ``benchmarks/gpu/steps``.
        seconds: after which its process is ended.
        trains: whether it is given the packages for training.
    """

    name: str
    seconds: float
    trains: bool = False


# In order of worth; together 8 minutes.
STEPS = (
    StepPlan("peak", 45),
    StepPlan("correctness", 90),
    StepPlan("throughput", 135),
    StepPlan("compiled", 45),
    StepPlan("large", 60),
    StepPlan("latency", 30),
    StepPlan("memory", 20),
    StepPlan("tensorrt", 15),
    StepPlan("server", 5),
    StepPlan("training", 35, trains=True),
)


def main(arguments: Sequence[str]) -> int:
    """Run the kit; 0 if every step is ok or was skipped with a reason."""
    options = _options(arguments)
    # Leave through the cleanup of temporary folders also when a time limit of the caller ends the kit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options.out.mkdir(parents=True, exist_ok=True)
    results, log = options.out / "results.jsonl", options.out / "log.txt"
    chosen = [step for step in STEPS if not options.only or step.name in options.only]
    run = {"device": options.device, "tiny": options.tiny, "date": datetime.date.today().isoformat()}
    append(results, {"kind": "run", **run, "python": platform.python_version()})
    with tempfile.TemporaryDirectory(prefix="ese-gpu-kit-") as temporary:
        work = (options.work or Path(temporary) / "work").resolve()
        work.mkdir(parents=True, exist_ok=True)
        packages = Path(temporary) / "packages"
        environment = _environment(options.kit, packages, options.device, results)
        if options.tiny:
            # Threads cost more than they bring where a product takes microseconds.
            environment["OMP_NUM_THREADS"] = "1"
        flags = ["--device", options.device, *(["--tiny"] if options.tiny else [])]
        end = time.monotonic() + options.seconds
        with log.open("ab") as output, _exports(work, options.tiny, environment, output):
            saved = 0.0
            for step in chosen:
                own = _TINY_SECONDS if options.tiny else step.seconds
                limit, start = min(own + saved, end - time.monotonic()), time.monotonic()
                paths = [environment["PYTHONPATH"], *([str(packages / TRAINING)] if step.trains else [])]
                variables = {**environment, "PYTHONPATH": os.pathsep.join(paths)}
                run_step(step, limit, results, [str(results), str(work), *flags], variables, output)
                # A step may use what earlier ones left over; later ones keep their own time.
                saved = max(0.0, own + saved - (time.monotonic() - start))
    found = states(read(results))
    bad = [name for name, state in found.items() if state["state"] in (FAILED, TIMED_OUT)]
    print(f"{results}: {len(found) - len(bad)} of {len(found)} steps are ok or skipped with a reason", flush=True)
    return 1 if bad else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kit.sh", description="Measures ese-deploy on this machine's GPU.")
    parser.add_argument("out", type=Path, help="folder for results.jsonl and log.txt; a further run appends to them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run without a GPU")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few cases, to try the kit")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], help="repeatable")
    parser.add_argument("--seconds", type=float, default=480, help="for all steps together (default: 480)")
    parser.add_argument("--kit", type=Path, default=_ROOT / "benchmarks" / "gpu" / ".kit", help="made by prepare.sh")
    parser.add_argument("--work", type=Path, help="keep models and bundles here (default: a temporary folder)")
    return parser.parse_args(arguments)


def _environment(kit: Path, packages: Path, device: str, results: Path) -> dict[str, str]:
    """The environment of all steps, with the packages of the kit that this machine lacks."""
    notes = unpack(kit, packages, gpu=device == "cuda")
    for note in notes:
        append(results, {"kind": "case", "step": "unpack", "note": note})
        print(f"unpack: {note}", flush=True)
    return {
        **os.environ,
        "PYTHONPATH": _paths("PYTHONPATH", [packages / COMMON, _ROOT]),
        # ONNX Runtime looks for CUDA beside its own package, and here that lies elsewhere.
        "LD_LIBRARY_PATH": _paths("LD_LIBRARY_PATH", _cuda_folders()),
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONUNBUFFERED": "1",
    }


def _paths(variable: str, folders: Sequence[Path]) -> str:
    """Folders before those that the environment variable names."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(variable)])])


def _cuda_folders() -> list[Path]:
    """Folders of CUDA's libraries that pip installed with PyTorch."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    return [folder for root in roots for folder in sorted(root.glob("*/lib"))]


@contextmanager
def _exports(work: Path, tiny: bool, environment: dict[str, str], output: BinaryIO) -> Iterator[None]:
    """Make the models in the background: one process for each where there are cores for that, else one for all."""
    names = [name for name in shapes(tiny) if not (work / f"{name}.json").is_file()]
    cores = os.cpu_count() or 1
    groups = [[name] for name in names] if cores >= _MANY_CORES else [names] if names else []
    quiet = {**environment, "OMP_NUM_THREADS": str(max(1, cores // _MANY_CORES))}
    flags = ["--tiny"] if tiny else []
    program = [sys.executable, "-m", "benchmarks.gpu.models", str(work)]
    running = [_start([*program, *group, *flags], quiet, output) for group in groups]
    try:
        yield
    finally:
        for process in running:
            _end(process)


def run_step(
    step: StepPlan, limit: float, results: Path, arguments: list[str], environment: dict[str, str], output: BinaryIO
) -> None:
    """Run one step in a process of its own, and end that process after ``limit`` seconds."""

    def close(state: str, reason: str, seconds: float = 0.0) -> None:
        append(results, {"kind": "step", "step": step.name, "state": state, "reason": reason, "seconds": seconds})

    if limit < _GRACE / 2:
        close(SKIPPED, "no time was left")
    else:
        start, earlier, written = time.monotonic(), len(read(results)), output.tell()
        soft = str(max(1.0, limit - _GRACE))
        command = [sys.executable, "-m", f"benchmarks.gpu.steps.{step.name}", *arguments, "--seconds", soft]
        process = _start(command, environment, output)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        seconds = round(time.monotonic() - start, 1)
        if step.name not in states(read(results)[earlier:]):
            if code is None:
                close(TIMED_OUT, f"after {limit:.0f} s", seconds)
            else:
                said = _last_line(Path(output.name), written)
                close(FAILED, f"the process ended with {_cause(code)}{': ' if said else ''}{said}", seconds)
    found = states(read(results))[step.name]
    reason = f": {found['reason']}" if found["reason"] else ""
    print(f"{step.name} ({found['seconds']} s): {found['state']}{reason}", flush=True)


def _start(command: list[str], environment: dict[str, str], output: BinaryIO) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Let the kernel end this process when the kit dies, so that nothing keeps a GPU busy (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path, start: int) -> str:
    """The last line that was written after ``start``."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
