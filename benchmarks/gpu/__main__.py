"""Measure targets on a GPU beside PyTorch, in pieces that each fit into a time limit.

    python -m benchmarks.gpu --out results.json                       # everything, as far as the time goes
    python -m benchmarks.gpu --out results.json --only bert-base      # one model
    python -m benchmarks.gpu --out results.json --only bert-base/tensorrt
    python -m benchmarks.gpu --device cpu --only tiny                 # to try it without a GPU

Needs torch, transformers, onnx, onnx-ir, onnxscript, tokenizers, scipy, msgspec and onnxruntime-gpu; TensorRT where it
is installed. Run it from a checkout; ese-deploy itself need not be installed.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch  # before onnxruntime, which then takes CUDA's libraries from it

from benchmarks.gpu.cases import BATCHES, LENGTHS, SHAPES, Case, Shape, cases, flops
from benchmarks.gpu.models import checkpoint_of, depths_of, export_shape
from benchmarks.gpu.results import Results, Row, Verified, add
from benchmarks.gpu.runners import ENGINES, Runner, ours, pytorch
from benchmarks.gpu.timing import ceiling, measure
from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.engines import Engine, load_engine, runs_dtype
from ese_deploy.engines.cuda import find_gpu
from ese_deploy.errors import EngineError, EseDeployError
from ese_deploy.system.machine import describe_machine, library_versions
from ese_deploy.target import Target
from ese_deploy.verify import Reference, check_target
from ese_deploy.verify.texts import verification_texts

# The products of a target of int8-fp16 are of int8.
_TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int8-fp16": torch.int8}
_OURS = {"cuda": ("fp16", "bf16", "int8-fp16"), "cpu": ("fp32",)}
_PEERS = {"cuda": ("bf16", "fp16"), "cpu": ("fp32",)}


@dataclass
class Piece:
    """One run of the program: what it is to do, when it must end, what it has found."""

    device: str
    seconds: float
    end: float
    ceilings: dict[str, float]
    rows: list[Row]
    verified: list[Verified]
    unmeasured: list[str]

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.end


def main(arguments: list[str]) -> int:
    """Measure, print and write what was found; 1 where a target does not equal PyTorch."""
    options = _options(arguments)
    try:
        gpu = None if options.device == "cpu" else find_gpu()
        plan = list(_plan(options.only, options.device))
    except EseDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dtypes = dict.fromkeys((*_OURS[options.device], *_PEERS[options.device]))
    print("measuring the ceiling", flush=True)
    ceilings = {name: ceiling(options.device, _TORCH[name], options.case_seconds) for name in dtypes}
    print("  " + ", ".join(f"{name} {value / 1e12:.1f} TFLOP/s" for name, value in ceilings.items()), flush=True)
    end = time.monotonic() + options.seconds
    piece = Piece(options.device, options.case_seconds, end, ceilings, [], [], [])
    grid = cases(options.batches, options.lengths)
    for shape, names in plan:
        checkpoint = checkpoint_of(shape, options.work)
        engines = _load(piece, shape, [name for name in names if not name.startswith("pytorch")])
        bundle = export_shape(shape, checkpoint, dtypes_of(engines, options.device), options.work) if engines else None
        for name in names:
            if name.startswith("pytorch"):
                _measure_pytorch(piece, name, shape, checkpoint, grid)
            elif bundle is not None and name in engines:
                _measure_ours(piece, name, engines[name], shape, checkpoint, bundle, grid)
    results = Results(
        machine=describe_machine(),
        device=gpu.name if gpu else "cpu",
        driver=gpu.driver if gpu else "",
        versions={**library_versions(), "torch": str(torch.__version__)},
        date=datetime.date.today().isoformat(),
        ceiling_tflops={name: round(value / 1e12, 4) for name, value in ceilings.items()},
        rows=piece.rows,
        verified=piece.verified,
        unmeasured=piece.unmeasured,
    )
    if options.out is not None:
        results = add(options.out, results)
        print(f"wrote {options.out}: {len(results.rows)} rows")
    if piece.unmeasured:
        print(f"no time was left for {len(piece.unmeasured)} cases; run them with --only")
    failures = [f"{one.model} {one.target}: {line}" for one in piece.verified for line in one.failures]
    print("\n".join(failures) or "all targets that were compared equal PyTorch")
    return 1 if failures else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    numbers = lambda text: tuple(int(item) for item in text.split(","))  # noqa: E731
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="minilm,bert-base,bert-large", help="models, or MODEL/ENGINE; comma between")
    parser.add_argument("--out", type=Path, help="a .json file, to which each piece adds")
    parser.add_argument("--work", type=Path, default=Path("exports/gpu"), help="where models and bundles are made")
    parser.add_argument("--batches", type=numbers, default=BATCHES)
    parser.add_argument("--lengths", type=numbers, default=LENGTHS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=480, help="when to begin no further case")
    parser.add_argument("--case-seconds", type=float, default=1.0, help="for each case, warm-up not counted")
    return parser.parse_args(arguments)


def _plan(only: str, device: str) -> Iterator[tuple[Shape, list[str]]]:
    """Models with the engines to measure them on."""
    known = ENGINES if device == "cuda" else ("onnxruntime", "pytorch-eager")
    for item in only.split(","):
        model, _, engine = item.partition("/")
        if model not in SHAPES or (engine and engine not in known):
            raise EngineError(
                f"--only takes MODEL or MODEL/ENGINE, got '{item}'; models are {', '.join(SHAPES)}, "
                f"engines on {device} are {', '.join(known)}"
            )
        yield SHAPES[model], [engine] if engine else list(known)


def dtypes_of(engines: Iterable[str], device: str) -> list[str]:
    """Dtypes of ours that one of the engines computes in."""
    return [dtype for dtype in _OURS[device] if any(runs_dtype(name, dtype) for name in engines)]


def _load(piece: Piece, shape: Shape, names: list[str]) -> dict[str, Engine]:
    """The engines that this machine has."""
    found = {}
    for name in names:
        try:
            found[name] = _engine(name, piece.device)
        except EngineError as error:
            print(f"{shape.name} on {name}\n  not measured: {error}")
            piece.unmeasured.append(f"{shape.name} on {name}: {error}")
    return found


def _measure_pytorch(piece: Piece, name: str, shape: Shape, checkpoint: Checkpoint, grid: list[Case]) -> None:
    print(f"{shape.name} on {name}", flush=True)
    for dtype in _PEERS[piece.device]:
        for depth in reversed(depths_of(shape)):
            folder, compiled = str(checkpoint.backbone_path), name == "pytorch-compiled"
            target = Target(depth, shape.hidden)
            if piece.over:
                piece.unmeasured += [_name(shape, f"{target}:{dtype}", name, case) for case in grid]
                continue
            runner = pytorch(folder, shape, depth, _TORCH[dtype], compiled, piece.device)
            _measure_cases(piece, runner, name, shape, depth, dtype, grid)


def _measure_ours(
    piece: Piece, name: str, engine: Engine, shape: Shape, checkpoint: Checkpoint, bundle: Bundle, grid: list[Case]
) -> None:
    print(f"{shape.name} on {name}", flush=True)
    for dtype in dtypes_of([name], piece.device):
        for depth in reversed(depths_of(shape)):
            target = Target(depth, shape.hidden, dtype)
            if piece.over:
                piece.unmeasured += [_name(shape, str(target), name, case) for case in grid]
                continue
            try:
                runner = ours(engine, bundle, target)
                _verify(piece, engine, shape, checkpoint, bundle, target)
            except EngineError as error:
                print(f"  {target} failed: {error}")
                piece.unmeasured.append(f"{shape.name} {target} {name}: {error}")
                continue
            _measure_cases(piece, runner, name, shape, depth, dtype, grid)


def _engine(name: str, device: str) -> Engine:
    if device == "cpu":
        from benchmarks.gpu.cpu import BoundCpu

        return BoundCpu()
    if name == "tensorrt":
        from ese_deploy.engines.tensorrt import BuildSettings, TensorRt

        return TensorRt(settings=BuildSettings(lengths=LENGTHS, tokens=max(BATCHES) * max(LENGTHS)))
    return load_engine(name)


def _verify(piece: Piece, engine: Engine, shape: Shape, checkpoint: Checkpoint, bundle: Bundle, target: Target) -> None:
    reference = Reference(checkpoint, target.depth)
    texts = verification_texts(reference.count_tokens, checkpoint.max_seq_length)
    expected = reference.cut(reference.pool(texts), target.dim)
    check = check_target(bundle, choose_entry(bundle, target), engine, texts, expected)
    piece.verified.append(
        Verified(model=shape.name, target=str(target), parity=check.parity, failures=list(check.failures))
    )
    print(f"  {target}: lowest cosine with PyTorch {check.parity.cosine_min:.6f}", flush=True)


def _measure_cases(
    piece: Piece, runner: Runner, engine: str, shape: Shape, depth: int, dtype: str, grid: list[Case]
) -> None:
    label = f"{depth}x{shape.hidden}" + ("" if dtype == "fp32" else f":{dtype}")
    for case in grid:
        if piece.over:
            piece.unmeasured.append(_name(shape, label, engine, case))
            continue
        row = Row(
            model=shape.name,
            target=label,
            depth=depth,
            dtype=dtype,
            engine=engine,
            batch=case.batch,
            length=case.length,
        )
        piece.rows.append(_measure_case(row, runner, case, shape, piece))


def _measure_case(row: Row, runner: Runner, case: Case, shape: Shape, piece: Piece) -> Row:
    import msgspec

    try:
        timing = measure(runner(case), piece.seconds)
    except (EngineError, RuntimeError) as error:  # torch says RuntimeError where memory ends
        reason = str(error).strip().partition("\n")[0]
        print(f"  {row.target} {case.batch} x {case.length}: {reason}", flush=True)
        return msgspec.structs.replace(row, error=reason)
    rate = case.batch / timing.median
    achieved = rate * flops(shape, row.depth, case.length)
    share = achieved / piece.ceilings[row.dtype]
    print(f"  {row.target} {case.batch} x {case.length}: {rate:,.0f}/s, {share:.1%} of the ceiling", flush=True)
    return msgspec.structs.replace(
        row,
        texts_per_second=round(rate, 2),
        spread=round(timing.spread, 4),
        runs=timing.runs,
        tflops=round(achieved / 1e12, 4),
        share_of_ceiling=round(share, 4),
    )


def _name(shape: Shape, target: str, engine: str, case: Case) -> str:
    return f"{shape.name} {target} {engine} {case.batch}x{case.length}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
