"""``ese-deploy choose``."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.choose.budgets import Case, parse_latency, parse_quality, parse_size, parse_throughput
from ese_deploy.choose.candidates import find_candidates, missing_measurements
from ese_deploy.choose.choice import Budgets, Candidate, Choice, Outcome, Prefer, choose_among
from ese_deploy.choose.measurements import (
    Measurements,
    check_owner,
    load_measurements,
    merge_measurements,
    read_measurements,
    store_measurements,
)
from ese_deploy.choose.profiles import find_profile, profile_budgets, read_profiles
from ese_deploy.cli.choice_text import print_choice, quality_name, reason, relaxation
from ese_deploy.cli.console import JsonOption, check_file, print_json, progress_bars, say
from ese_deploy.engines import ENGINES
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.system.machine import describe_machine
from ese_deploy.target import DTYPES

__all__ = ["choose_target"]


@dataclass(frozen=True)
class _Known:
    """Measurements, and whether they are this machine's."""

    held: Measurements
    here: bool


def choose_target(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    max_latency: Annotated[
        str | None, typer.Option(help="Such as 5ms, or '5ms p99 128 tokens 1 thread'; p95 of 32 tokens if not said.")
    ] = None,
    min_throughput: Annotated[str | None, typer.Option(help="Such as 200/s; batches of 32 texts of 32 tokens.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Such as 40MB: graph, weights read, tokenizer.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Such as 200MB: what it adds to a process.")] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="Such as 0.97 (agreement), '0.80 stsb', '97% stsb' (of the full model).")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engines allowed, such as onnxruntime.")] = "",
    dtype: Annotated[str, typer.Option(help="Dtypes allowed, such as fp32,int8.")] = "",
    prefer: Annotated[str | None, typer.Option(help="Be best at quality, speed or size.")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile whose budgets count where no option is given.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="A .toml file with profiles of your own.")] = None,
    measurements: Annotated[
        Path | None, typer.Option(help="Choose for the machine that this exported file comes from.")
    ] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Never measure; say the command instead.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw quality against cost: .png or .svg.")] = None,
    json: JsonOption = False,
) -> None:
    """Find the best target within your budgets, and say why."""
    if plot is not None:
        check_file(plot, (".png", ".svg"))
    opened = open_bundle(bundle)
    budgets = _budgets(opened, profile, profiles)
    budgets = replace(
        budgets,
        latency=parse_latency(max_latency) if max_latency else budgets.latency,
        throughput=parse_throughput(min_throughput) if min_throughput else budgets.throughput,
        size=parse_size(max_size) if max_size else budgets.size,
        memory=parse_size(max_memory, "a memory") if max_memory else budgets.memory,
        quality=parse_quality(min_quality) if min_quality else budgets.quality,
        engines=_names("--engine", engine, ENGINES) or budgets.engines,
        dtypes=_names("--dtype", dtype, tuple(DTYPES)) or budgets.dtypes,
        prefer=_prefer(prefer) or budgets.prefer,
    )
    known = _known(opened, measurements)
    candidates = find_candidates(opened.manifest, budgets, known.held, known.here)
    missing = missing_measurements(candidates, budgets)
    if missing and (no_measure or not known.here):
        raise InputError(_how_to_measure(bundle, missing, known.here))
    if missing:
        known = _Known(_measure(opened, missing), here=True)
        candidates = find_candidates(opened.manifest, budgets, known.held)
        still = missing_measurements(candidates, budgets)
        if unknown := [kind for kind, (_, without) in still.items() if len(without) == len(candidates)]:
            raise InputError(
                f"this system does not tell the {' and '.join(unknown)} of a target; leave that budget out, or choose "
                "with --measurements FILE of another machine"
            )
    choice = choose_among(candidates, budgets)
    if plot is not None:
        _draw(plot, candidates, choice, budgets)
    if json:
        print_json(_document(bundle, budgets, choice, known))
    else:
        print_choice(candidates, choice, budgets, known.held.machine)
    if choice.best is None:
        written = {
            "latency": max_latency,
            "throughput": min_throughput,
            "size": max_size,
            "memory": max_memory,
            "quality": min_quality,
        }
        advice = [relaxation(outcome, budgets, written) for outcome in choice.relax]
        raise CheckFailedError(f"no target of {bundle} fits", advice)


def _budgets(opened: Bundle, profile: str | None, profiles: Path | None) -> Budgets:
    if profile is None:
        if profiles is not None:
            raise InputError("--profiles names a file; say with --profile NAME which of its profiles counts")
        return Budgets()
    found = find_profile(read_profiles(profiles), profile)
    if found.target is not None:
        raise InputError(f"profile {profile} names the target {found.target}; there is nothing to choose")
    return profile_budgets(found, opened.manifest.depth, opened.manifest.width)


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _names(option: str, text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    named = _list(text)
    for name in named:
        if name not in allowed:
            raise InputError(f"{option} is of {', '.join(allowed)}, got '{name}'")
    return named


def _prefer(text: str | None) -> Prefer | None:
    if text is None or text in get_args(Prefer):
        return cast("Prefer | None", text)
    raise InputError(f"--prefer is quality, speed or size, got '{text}'")


def _known(opened: Bundle, file: Path | None) -> _Known:
    if file is None:
        return _Known(load_measurements(opened), here=True)
    held = read_measurements(file)
    check_owner(held, opened, file)
    return _Known(held, here=held.machine.key == describe_machine().key)


def _how_to_measure(bundle: Path, missing: Any, here: bool) -> str:
    kinds = " and ".join(missing)
    targets = len({one.name for _, group in missing.values() for one in group})
    where = "this machine" if here else "the machine of the file"
    cases = ", ".join(f"{kind} at {case}" for kind, (case, _) in missing.items())
    commands = [
        " ".join(["ese-deploy measurements make", shlex.quote(str(bundle)), f"--{kind}", *_case_options(case, engine)])
        for kind, (case, group) in missing.items()
        for engine in sorted({one.engine for one in group})
    ]
    return f"{where} has no {kinds} of {targets} targets ({cases}); measure there with: {' && '.join(commands)}"


def _case_options(case: Case, engine: str) -> list[str]:
    found = []
    if case.tokens != Case().tokens:
        found.append(f"--tokens {case.tokens}")
    if case.threads:
        found.append(f"--threads {case.threads}")
    if engine != "onnxruntime":
        found.append(f"--engine {engine}")
    return found


def _measure(opened: Bundle, missing: Any) -> Measurements:
    from ese_deploy.bench import measure

    held, unkept = load_measurements(opened), ""
    say("measuring what this machine has not measured yet; the figures are kept for the next time")
    with progress_bars() as progress:
        for kind, (case, group) in missing.items():
            for engine in sorted({one.engine for one in group}):
                entries = [one.entry for one in group if one.engine == engine]
                fresh = measure(opened, entries, kind, case, engine, progress=progress)
                held = merge_measurements(held, fresh)
                try:
                    store_measurements(opened, fresh)
                except InputError as error:
                    unkept = str(error)
    if unkept:
        say(f"warning: the figures count for this answer and are not kept: {unkept}")
    return held


def _document(bundle: Path, budgets: Budgets, choice: Choice, known: _Known) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "machine": known.held.machine,
        "best": choice.best and _facts(choice.best),
        "why": reason(choice, budgets) if choice.best else None,
        "runner_up": choice.runner_up and _facts(choice.runner_up),
        "binding": [_outcome(outcome) for outcome in choice.binding],
        "relax": [_outcome(outcome) for outcome in choice.relax],
        "cost": choice.cost,
        "pareto_front": [_facts(candidate) for candidate in choice.front],
        "fitting": [candidate.name for candidate in choice.fitting],
    }


def _facts(one: Candidate) -> dict[str, Any]:
    return {
        "target": one.name,
        "engine": one.engine,
        "quality": one.quality,
        "latency_seconds": one.latency,
        "texts_per_second": one.throughput,
        "size_bytes": one.size,
        "memory_bytes": one.memory,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"budgets": dict(zip(outcome.budgets, outcome.needed, strict=True)), "target": outcome.candidate.name}


def _draw(path: Path, candidates: Sequence[Candidate], choice: Choice, budgets: Budgets) -> None:
    from ese_deploy.report import Front, pareto_plot

    axes: dict[str, tuple[str, Callable[[float], float]]] = {
        "latency": ("latency of one text, ms", lambda value: value * 1e3),
        "throughput": ("time for each text of a batch, ms", lambda value: 1e3 / value),
        "size": ("size on disk, MB", lambda value: value / 1e6),
        "memory": ("memory added, MB", lambda value: value / 1e6),
    }
    label, cost = axes[choice.cost]
    shown = [one for one in candidates if getattr(one, choice.cost) is not None and one.quality is not None]
    points = Front(
        names=[one.name for one in shown],
        x=[cost(getattr(one, choice.cost)) for one in shown],
        y=[one.quality or 0.0 for one in shown],
        front=frozenset(one.name for one in choice.front),
        fitting=frozenset(one.name for one in choice.fitting),
        chosen=choice.best.name if choice.best else "",
    )
    title = f"{choice.best.name} is the answer" if choice.best else "no target fits"
    pareto_plot(path, points, title, label, quality_name(budgets))
    say(f"wrote {path}")
