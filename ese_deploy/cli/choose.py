"""``ese-deploy choose``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from ese_deploy.budgets import parse_latency, parse_quality, parse_size, parse_throughput
from ese_deploy.bundle import Bundle, open_bundle
from ese_deploy.candidates import find_candidates, missing_measurements
from ese_deploy.choice import Budgets, Candidate, Choice, Outcome, Prefer, choose, limits_of
from ese_deploy.cli.console import JsonOption, megabytes, print_json, print_table, progress_bars, say
from ese_deploy.errors import GateError, InputError
from ese_deploy.machine import describe_machine
from ese_deploy.measurements import (
    Measurements,
    check_owner,
    load_measurements,
    read_measurements,
    store_measurements,
)
from ese_deploy.profiles import find_profile, profile_budgets, read_profiles

__all__ = ["choose_target"]

_OPTIONS = {
    "latency": "--max-latency",
    "throughput": "--min-throughput",
    "size": "--max-size",
    "memory": "--max-memory",
    "quality": "--min-quality",
    "engine": "--engine",
    "dtype": "--dtype",
    "depth": "depth",
    "dim": "dim",
}


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
    opened = open_bundle(bundle)
    budgets = _budgets(opened, profile, profiles)
    budgets = replace(
        budgets,
        latency=parse_latency(max_latency) if max_latency else budgets.latency,
        throughput=parse_throughput(min_throughput) if min_throughput else budgets.throughput,
        size=parse_size(max_size) if max_size else budgets.size,
        memory=parse_size(max_memory, "a memory") if max_memory else budgets.memory,
        quality=parse_quality(min_quality) if min_quality else budgets.quality,
        engines=_list(engine) or budgets.engines,
        dtypes=_list(dtype) or budgets.dtypes,
        prefer=_prefer(prefer) or budgets.prefer,
    )
    known = _known(opened, measurements)
    candidates = find_candidates(opened.manifest, budgets, known.held, known.here)
    missing = missing_measurements(candidates, budgets)
    if missing and (no_measure or not known.here):
        raise InputError(_how_to_measure(bundle, budgets, missing, known.here))
    if missing:
        known = _Known(_measure(opened, missing), here=True)
        candidates = find_candidates(opened.manifest, budgets, known.held)
    choice = choose(candidates, budgets)
    if plot is not None:
        _draw(plot, candidates, choice, budgets)
    if json:
        print_json(_document(bundle, budgets, choice, known))
    else:
        _print(candidates, choice, budgets, known)
    if choice.best is None:
        raise GateError(f"no target of {bundle} fits", [_relax_line(outcome, budgets) for outcome in choice.relax])


def _budgets(opened: Bundle, profile: str | None, profiles: Path | None) -> Budgets:
    if profile is None:
        return Budgets()
    found = find_profile(read_profiles(profiles), profile)
    if found.target is not None:
        raise InputError(f"profile {profile} names the target {found.target}; there is nothing to choose")
    return profile_budgets(found, opened.manifest.depth, opened.manifest.width)


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


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


def _how_to_measure(bundle: Path, budgets: Budgets, missing: Any, here: bool) -> str:
    kinds = " and ".join(missing)
    targets = len({one.name for _, group in missing.values() for one in group})
    where = "this machine" if here else "the machine of the file"
    cases = ", ".join(f"{kind} at {case}" for kind, (case, _) in missing.items())
    return (
        f"{where} has no {kinds} of {targets} targets ({cases}); measure there with: "
        f"ese-deploy measurements make {bundle} {' '.join(_case_options(missing))}"
    )


def _case_options(missing: Any) -> list[str]:
    found = []
    for kind, (case, _) in missing.items():
        found.append(f"--{kind}")
        if case.tokens != 32:
            found.append(f"--tokens {case.tokens}")
        if case.threads:
            found.append(f"--threads {case.threads}")
    return found


def _measure(opened: Bundle, missing: Any) -> Measurements:
    from ese_deploy.bench import measure

    held = load_measurements(opened)
    say("measuring what this machine has not measured yet; the figures are kept for the next time")
    with progress_bars() as progress:
        for kind, (case, group) in missing.items():
            for engine in sorted({one.engine for one in group}):
                entries = [one.entry for one in group if one.engine == engine]
                held = store_measurements(opened, measure(opened, entries, kind, case, engine, progress=progress))
    return held


def _document(bundle: Path, budgets: Budgets, choice: Choice, known: _Known) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "machine": known.held.machine,
        "best": choice.best and _facts(choice.best),
        "why": _why(choice, budgets) if choice.best else None,
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


def _print(candidates: Sequence[Candidate], choice: Choice, budgets: Budgets, known: _Known) -> None:
    front = {candidate.name for candidate in choice.front}
    fitting = {candidate.name for candidate in choice.fitting}
    rows = [
        [
            one.name,
            one.engine,
            _number(one.quality, "{:.3f}"),
            *([] if budgets.latency is None and budgets.aim != "speed" else [_ms(one.latency)]),
            *([] if budgets.throughput is None else [_number(one.throughput, "{:.0f}/s")]),
            megabytes(one.size),
            *([] if budgets.memory is None else ["?" if one.memory is None else megabytes(int(one.memory))]),
            "yes" if one.name in fitting else "no",
            "front" if one.name in front else "",
        ]
        for one in candidates
    ]
    percentile = budgets.latency.percentile if budgets.latency else 95
    columns = [
        "target",
        "engine",
        "quality ",
        *([] if budgets.latency is None and budgets.aim != "speed" else [f"p{percentile} "]),
        *([] if budgets.throughput is None else ["throughput "]),
        "size ",
        *([] if budgets.memory is None else ["memory "]),
        "fits",
        f"quality x {choice.cost}",
    ]
    print_table(columns, rows)
    print(f"\nquality: {_quality_name(budgets)}; machine: {known.held.machine}")
    if choice.best is None:
        return
    print(f"\nbest: {choice.best.name} on {choice.best.engine}. {_why(choice, budgets)}")
    if choice.runner_up is not None:
        print(f"runner-up: {_describe(choice.runner_up, budgets)}")
    for outcome in choice.binding:
        names = " and ".join(_OPTIONS[name] for name in outcome.budgets)
        print(f"binds: {names}; without it the answer would be {_describe(outcome.candidate, budgets)}")
    if not choice.binding and limits_of(budgets):
        print("binds: no budget alone; the answer would be the same without any one of them")


def _why(choice: Choice, budgets: Budgets) -> str:
    aims = {"quality": "the best quality", "speed": "the fastest", "size": "the smallest"}
    best = choice.best
    assert best is not None
    return f"It has {aims[budgets.aim]} of {len(choice.fitting)} that fit: {_describe(best, budgets)}"


def _describe(one: Candidate, budgets: Budgets) -> str:
    facts = [f"quality {_number(one.quality, '{:.3f}')}", megabytes(one.size)]
    if one.latency is not None:
        facts.append(f"p{budgets.latency.percentile if budgets.latency else 95} {_ms(one.latency)}")
    if one.throughput is not None and budgets.throughput is not None:
        facts.append(f"{one.throughput:.0f}/s")
    if one.memory is not None and budgets.memory is not None:
        facts.append(f"{megabytes(int(one.memory))} of memory")
    return f"{one.name} ({', '.join(facts)})"


def _quality_name(budgets: Budgets) -> str:
    if budgets.quality is None:
        return "agreement with the full model"
    return f"{budgets.quality.metric}{', as a share of the full model' if budgets.quality.share else ''}"


def _relax_line(outcome: Outcome, budgets: Budgets) -> str:
    parts = [
        f"{_OPTIONS[name]} from {_stated(name, budgets)} to {_needed(name, value)}"
        for name, value in zip(outcome.budgets, outcome.needed, strict=True)
    ]
    return f"relax {' and '.join(parts)}: then {_describe(outcome.candidate, budgets)} fits"


def _stated(name: str, budgets: Budgets) -> str:
    bounds = {limit.name: limit.bound for limit in limits_of(budgets)}
    if bounds[name] is None:
        names = {"engine": budgets.engines, "dtype": budgets.dtypes, "depth": (budgets.depth,), "dim": (budgets.dim,)}
        return ",".join(map(str, names[name]))
    return _needed(name, bounds[name])


def _needed(name: str, value: float | str | None) -> str:
    """A budget that the value keeps, rounded to its loose side, as an option would take it."""
    if isinstance(value, str) or value is None:
        return str(value)
    if name == "latency":
        return f"{-(-value * 1e5 // 1) / 100:g}ms"
    if name == "throughput":
        return f"{value // 1:.0f}/s"
    if name in ("size", "memory"):
        return f"{-(-value // 1e5) / 10:g}MB"
    if name == "quality":
        return f"{value * 1000 // 1 / 1000:g}"
    return f"{value:g}"


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)


def _draw(path: Path, candidates: Sequence[Candidate], choice: Choice, budgets: Budgets) -> None:
    from ese_deploy.report import Front, pareto_plot

    scale, label = {
        "latency": (1e3, "latency of one text, ms"),
        "throughput": (1.0, "texts a second (more is better)"),
        "size": (1e-6, "size on disk, MB"),
        "memory": (1e-6, "memory added, MB"),
    }[choice.cost]
    shown = [one for one in candidates if getattr(one, choice.cost) is not None and one.quality is not None]
    points = Front(
        names=[one.name for one in shown],
        x=[getattr(one, choice.cost) * scale for one in shown],
        y=[one.quality or 0.0 for one in shown],
        front=frozenset(one.name for one in choice.front),
        fitting=frozenset(one.name for one in choice.fitting),
        chosen=choice.best.name if choice.best else "",
    )
    title = f"{choice.best.name} is the answer" if choice.best else "no target fits"
    pareto_plot(path, points, title, label, _quality_name(budgets))
    say(f"wrote {path}")
