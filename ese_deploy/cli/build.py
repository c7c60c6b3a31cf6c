"""``ese-deploy build``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bundle.golden import GoldenCheck, check_golden, load_golden
from ese_deploy.bundle.manifest import Parity, TargetEntry
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.cli.console import JsonOption, megabytes, print_json, print_table, progress_bars
from ese_deploy.engines.tensorrt import BuildSettings, TensorRt
from ese_deploy.engines.tensorrt.plans import Plan, save_parity
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.loaded import LoadedTarget, engine_input
from ese_deploy.runtime.streams import Streams
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.target import parse_range

__all__ = ["build"]

_ENGINE = "tensorrt"


@dataclass(frozen=True)
class Built:
    """A plan.

    Attributes:
        target: short form of the target.
        why: why it was built; empty where it was there.
        size: its bytes.
        max_abs: largest difference from PyTorch's vectors of the golden texts.
        cosine_min: lowest cosine with them.
        passed: whether they are within the gates.
    """

    target: str
    why: str
    size: int
    max_abs: float
    cosine_min: float
    passed: bool


def build(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    engine: Annotated[str, typer.Option("--engine", help="tensorrt, or tensorrt:1 for the second GPU.")] = _ENGINE,
    target: Annotated[str, typer.Option(help="Such as 3x128:fp16,6x384:int8-fp16; without it all that fit.")] = "",
    lengths: Annotated[str, typer.Option(help="Longest row of each profile, such as 32,128,512.")] = "",
    batch: Annotated[int, typer.Option(help="Most texts of a batch.")] = BuildSettings.batch,
    tokens: Annotated[int, typer.Option(help="Most tokens of a batch.")] = BuildSettings.tokens,
    best_tokens: Annotated[int, typer.Option(help="Tokens of the usual batch.")] = BuildSettings.best_tokens,
    optimization: Annotated[int, typer.Option(help="TensorRT's level, 0 to 5.", min=0, max=5)] = 3,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For other GPUs from Ampere on too, a little slower.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build plans that are there anew.")] = False,
    json: JsonOption = False,
) -> None:
    """Compile plans for this machine's GPU, and compare each with PyTorch's vectors in the bundle."""
    kind, _, number = engine.partition(":")
    if kind != _ENGINE or (number and not number.isdecimal()):
        raise InputError(f"plans are built for the engine tensorrt, or tensorrt:1 for the second GPU, got '{engine}'")
    if min(batch, tokens, best_tokens) < 1:
        given = f"{batch}, {tokens}, {best_tokens}"
        raise InputError(f"--batch, --tokens and --best-tokens must be at least 1, got {given}")
    opened = open_bundle(bundle)
    entries = _entries(opened, target)
    settings = BuildSettings(
        lengths=tuple(parse_range(lengths, "--lengths")) if lengths else (),
        batch=batch,
        tokens=tokens,
        best_tokens=best_tokens,
        hardware_compatible=hardware_compatible,
        optimization=optimization,
    )
    loaded = TensorRt(int(number or 0), settings)
    built = []
    for entry in entries:
        with progress_bars() as progress:
            plan, why = loaded.plan(engine_input(opened, entry), force, progress)
        built.append(_check(opened, entry, loaded, plan, why))
    if json:
        print_json(built)
    else:
        columns = ["target", "plan ", "built since", "max |diff| ", "lowest cosine ", "result"]
        print_table(columns, [_row(one) for one in built])
    failures = [f"{one.target}: lowest cosine with PyTorch {one.cosine_min:.6f}" for one in built if not one.passed]
    if failures:
        raise CheckFailedError(f"{len(failures)} plans do not equal PyTorch; do not use them", failures)


def _entries(opened: Bundle, target: str) -> list[TargetEntry]:
    if target:
        entries = [choose_entry(opened, name) for name in target.split(",")]
        for entry in entries:
            if _ENGINE not in entry.engines:
                raise InputError(
                    f"target {entry.target} is of dtype {entry.dtype}, for which no plan can be built; "
                    "export it with --dtype fp16"
                )
        return entries
    entries = [entry for entry in opened.manifest.targets if _ENGINE in entry.engines]
    if not entries:
        raise InputError(
            f"{opened.path} holds no target for {_ENGINE}; add one: ese-deploy export {opened.manifest.source.model} "
            f"--out {opened.path} --update --dtype fp16"
        )
    return entries


def _check(opened: Bundle, entry: TargetEntry, engine: TensorRt, plan: Plan, why: str) -> Built:
    loaded = LoadedTarget(opened, entry, Streams(engine.open(plan)), _ENGINE)
    encoder = Encoder(opened, load_tokenizer(opened), loaded)
    golden = load_golden(opened)
    check = check_golden(encoder, golden)
    save_parity(plan, _parity(check, engine, len(golden.texts)))
    return Built(str(entry.target), why, len(plan.data), check.max_abs, check.cosine_min, check.passed)


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


def _row(one: Built) -> list[str]:
    result = "passed" if one.passed else "FAILED"
    why = one.why or "there already"
    return [one.target, megabytes(one.size), why, f"{one.max_abs:.1e}", f"{one.cosine_min:.6f}", result]
