"""``ese-deploy build``."""

from dataclasses import dataclass
from typing import Annotated

import typer

from ese_deploy.bundle.golden import GoldenCheck, check_golden, load_golden
from ese_deploy.bundle.manifest import Parity, TargetEntry
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.cli.console import (
    BundleArgument,
    JsonOption,
    TargetOption,
    megabytes,
    print_json,
    print_table,
    progress_bars,
    split,
)
from ese_deploy.engines import find_engine
from ese_deploy.engines.tensorrt import BuildSettings, TensorRt
from ese_deploy.engines.tensorrt.plans import Plan, save_parity
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.loaded import LoadedTarget, engine_input
from ese_deploy.runtime.streams import Streams
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.target import parse_range

__all__ = ["BuiltPlan", "build"]

EXAMPLES = ("ese-deploy build exports/minilm --target 6x384:fp16",)

_ENGINE = "tensorrt"


@dataclass(frozen=True)
class BuiltPlan:
    """A plan and how it compares with PyTorch.

    Attributes:
        target: short form of the target.
        why: why it was built; empty if the cache had it.
        size: bytes.
        max_abs: largest difference from PyTorch's vectors of the golden texts.
        cosine_min: lowest cosine with them.
        passed: whether both are within the tolerance.
    """

    target: str
    why: str
    size: int
    max_abs: float
    cosine_min: float
    passed: bool


def build(
    bundle: BundleArgument,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="NAME", help="Build for this engine: tensorrt; tensorrt:1 is the second GPU."),
    ] = _ENGINE,
    target: TargetOption = None,
    lengths: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Make an optimization profile up to each of these lengths in tokens, for example 32,128,512. "
            "Default: powers of two up to the longest row of the model.",
        ),
    ] = "",
    batch: Annotated[
        int, typer.Option(metavar="NUMBER", help="Accept batches of at most this many texts.")
    ] = BuildSettings.batch,
    tokens: Annotated[
        int,
        typer.Option(metavar="NUMBER", help="Accept batches of at most this many tokens. More needs more memory."),
    ] = BuildSettings.tokens,
    best_tokens: Annotated[
        int, typer.Option(metavar="NUMBER", help="Choose the kernels for batches of this many tokens.")
    ] = BuildSettings.best_tokens,
    optimization: Annotated[
        int,
        typer.Option(
            metavar="LEVEL",
            help="Use this builder optimization level of TensorRT, 0 to 5. A higher level takes longer.",
            min=0,
            max=5,
        ),
    ] = BuildSettings.optimization,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="Build plans that run on every GPU from Ampere on. They are a little slower."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build plans again that are in the cache.")] = False,
    json: JsonOption = False,
) -> None:
    """Compile TensorRT plans of a bundle for the GPU of this machine.

    The plans go into the cache of this machine. Each is compared with PyTorch's vectors of the golden texts in the
    bundle; a plan outside the tolerance makes the command exit with 1.
    """
    row, arguments = find_engine(engine)
    if row.name != _ENGINE:
        raise InputError(f"Plans are built for the engine tensorrt, got '{engine}'. Write tensorrt or tensorrt:1.")
    if min(batch, tokens, best_tokens) < 1:
        given = f"{batch}, {tokens} and {best_tokens}"
        raise InputError(f"`batch`, `tokens` and `best_tokens` must be at least 1, got {given}.")
    opened = open_bundle(bundle)
    entries = _find_entries(opened, split(target))
    settings = BuildSettings(
        lengths=tuple(parse_range(lengths, "--lengths")) if lengths else (),
        batch=batch,
        tokens=tokens,
        best_tokens=best_tokens,
        hardware_compatible=hardware_compatible,
        optimization=optimization,
    )
    loaded = TensorRt(int(arguments.get("index", 0)), settings)
    built = []
    for entry in entries:
        with progress_bars() as progress:
            plan, why = loaded.plan(engine_input(opened, entry), force, progress)
        built.append(_check(opened, entry, loaded, plan, why))
    if json:
        print_json(built)
    else:
        columns = ["target", "plan ", "built because", "max |diff| ", "lowest cosine ", "result"]
        print_table(columns, [_row(one) for one in built])
    failures = [f"{one.target}: lowest cosine with PyTorch {one.cosine_min:.6f}" for one in built if not one.passed]
    if failures:
        raise CheckFailedError(f"{len(failures)} plans differ from PyTorch. Do not use them.", failures)


def _find_entries(opened: Bundle, targets: list[str]) -> list[TargetEntry]:
    """The targets to build for: those that were named, or all that TensorRT runs."""
    if targets:
        entries = [choose_entry(opened, name) for name in targets]
        for entry in entries:
            if _ENGINE not in entry.engines:
                raise InputError(
                    f"TensorRT builds no plan of {entry.dtype}, the dtype of target {entry.target}. Export it with "
                    "--dtype fp16."
                )
        return entries
    entries = [entry for entry in opened.manifest.targets if _ENGINE in entry.engines]
    if not entries:
        raise InputError(
            f"{opened.path} contains no target that TensorRT runs. Add one: ese-deploy export "
            f"{opened.manifest.source.model} --out {opened.path} --update --dtype fp16"
        )
    return entries


def _check(opened: Bundle, entry: TargetEntry, engine: TensorRt, plan: Plan, why: str) -> BuiltPlan:
    loaded = LoadedTarget(opened, entry, Streams(engine.open(plan)), _ENGINE, space=entry.space)
    encoder = Encoder(opened, load_tokenizer(opened), loaded, log_truncated=False)
    golden = load_golden(opened)
    check = check_golden(encoder, golden)
    save_parity(plan, _parity(check, engine, len(golden.texts)))
    return BuiltPlan(str(entry.target), why, len(plan.data), check.max_abs, check.cosine_min, check.passed)


def _parity(check: GoldenCheck, engine: TensorRt, count: int) -> Parity:
    return Parity(
        engine=engine.name,
        device=engine.device,
        versions=engine.versions,
        max_abs=check.max_abs,
        cosine_min=check.cosine_min,
        n=count,
        passed=check.passed,
    )


def _row(one: BuiltPlan) -> list[str]:
    result = "passed" if one.passed else "FAILED"
    why = one.why or "in the cache"
    return [one.target, megabytes(one.size), why, f"{one.max_abs:.1e}", f"{one.cosine_min:.6f}", result]
