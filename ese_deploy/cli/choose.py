"""``ese-deploy choose``."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ese_deploy.choose import PairChoice, choose, choose_for
from ese_deploy.choose.choice import Candidate, Choice, LimitName, Outcome, Prefer
from ese_deploy.choose.explain import busy_note, explain, format_latency, quality_name, reason, relaxation, warnings
from ese_deploy.choose.scenario import Pair
from ese_deploy.cli.console import (
    BundleArgument,
    JsonOption,
    ProfilesFileOption,
    check_file,
    megabytes,
    print_json,
    print_table,
    progress_bars,
    split,
)
from ese_deploy.engines import ENGINES
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.system.terminal import visible
from ese_deploy.target import DTYPES

__all__ = ["EXAMPLES", "choose_target"]

EXAMPLES = (
    "ese-deploy choose exports/minilm --max-latency 5ms",
    'ese-deploy choose exports/minilm --max-latency "4ms p50" --min-quality "90% stsb" --plot choice.png',
    "ese-deploy choose exports/minilm --for '10M documents, 50 queries/s, 2 cores, 512 MB'",
)

logger = logging.getLogger(__name__)


def choose_target(
    bundle: BundleArgument,
    use: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="USE",
            help="Choose the targets of documents and queries for a use, for example '10M documents, 50 queries/s, "
            "2 cores, 512 MB'. A latency such as '20 ms' can be added.",
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Limit the latency of one text, for example 5ms or '5ms p99 128 tokens 1 thread'. "
            "Default: p95, 32 tokens, all threads.",
        ),
    ] = None,
    min_throughput: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Require this throughput in batches of 32 texts, for example 200/s."),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Limit graph, weights and tokenizer, for example 40MB.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Limit the memory that a process takes, for example 200MB."),
    ] = None,
    min_quality: Annotated[
        str | None,
        typer.Option(
            metavar="QUALITY",
            help="Require this quality: 0.97 is agreement with the full model, '0.80 stsb' the figure on that data, "
            "'97% stsb' at least 97% of what the full model has there.",
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Allow this engine: {', '.join(ENGINES)}. Repeat the option for several."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Allow this dtype: {', '.join(DTYPES)}. Repeat the option for several."),
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Among targets that fit, prefer quality, speed or size.")
    ] = None,
    allow_untrained: Annotated[
        bool,
        typer.Option(
            "--allow-untrained",
            help="Allow exits that nobody trained, targets whose agreement with the full model is below 0.5, and "
            "targets that failed a check when they were exported.",
        ),
    ] = False,
    index_target: Annotated[
        str | None,
        typer.Option(
            "--index-target",
            metavar="DEPTHxDIM[:DTYPE]",
            help="Choose for queries of an index that this target built: only targets of its dim and embedding space.",
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use the budgets of this profile where no option is given.")
    ] = None,
    profiles: ProfilesFileOption = None,
    measurements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Choose for the machine that this exported file of measurements is from."),
    ] = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Print the command for a missing measurement instead of measuring.")
    ] = False,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure also what this machine has measured.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot quality against cost: .png or .svg.")] = None,
    json: JsonOption = False,
) -> None:
    """Choose the best target within budgets, and explain the choice.

    What this machine has not measured yet is measured first and stored.
    """
    others = {"--max-latency": max_latency, "--min-throughput": min_throughput, "--max-size": max_size}
    others |= {"--max-memory": max_memory, "--prefer": prefer, "--index-target": index_target, "--profile": profile}
    if use is not None and (given := [name for name, value in {**others, "--plot": plot}.items() if value is not None]):
        raise InputError(f"--for states its own limits. Leave out {' and '.join(given)}.")
    if measure_again and (no_measure or measurements is not None):
        other = "--no-measure" if no_measure else "--measurements"
        raise InputError(f"--measure-again and {other} exclude each other. Leave one out.")
    if plot is not None:
        check_file(plot, (".png", ".svg"))
        if importlib.util.find_spec("matplotlib") is None:
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    if use is not None:
        with progress_bars() as progress:
            pair = choose_for(
                bundle,
                use,
                min_quality=min_quality,
                engine=_one_engine(split(engine)),
                dtypes=split(dtype),
                allow_untrained=allow_untrained,
                measurements=measurements,
                measure=not no_measure,
                measure_again=measure_again,
                progress=progress,
            )
        _print_pair(pair, str(bundle), json)
        return
    with progress_bars() as progress:
        choice = choose(
            bundle,
            max_latency=max_latency,
            min_throughput=min_throughput,
            max_size=max_size,
            max_memory=max_memory,
            min_quality=min_quality,
            engines=split(engine),
            dtypes=split(dtype),
            prefer=prefer,
            allow_untrained=allow_untrained,
            index_target=index_target,
            profile=profile,
            profiles=profiles,
            measurements=measurements,
            measure=not no_measure,
            measure_again=measure_again,
            progress=progress,
        )
    if plot is not None:
        _draw(plot, choice)
    if json:
        print_json({"bundle": str(bundle), **_document(choice)})
    else:
        _print_table(choice)
    if choice.best is None:
        raise CheckFailedError(
            f"no target of {bundle} fits",
            [
                *(relaxation(choice, outcome, options=True) for outcome in choice.relax),
                *busy_note(choice, options=True),
            ],
        )
    if not json:
        print(visible(f"\n{explain(choice, options=True)}"))


def _one_engine(names: list[str]) -> str | None:
    if len(names) > 1:
        raise InputError(f"--for measures one engine, got {', '.join(names)}. Choose one.")
    return names[0] if names else None


def _print_pair(choice: PairChoice, bundle: str, json: bool) -> None:
    if json:
        best = choice.best
        print_json(
            {
                "bundle": bundle,
                "machine": choice.machine,
                "busy_cores": choice.busy_cores,
                "need": asdict(choice.need),
                "cores": choice.cores,
                "best": best and _pair_facts(best),
                "binding": [{"limit": limit, "without": _pair_facts(pair)} for limit, pair in choice.binding],
                "next_better": choice.better and _pair_facts(choice.better),
                "nearest": choice.nearest and _pair_facts(choice.nearest),
                "explanation": str(choice).splitlines(),
            }
        )
    if choice.best is None:
        raise CheckFailedError(f"no pair of targets of {bundle} fits", [str(choice)])
    if not json:
        print(visible(str(choice)))
        print(visible(f"\nquality: {choice.quality}, the lower of both targets; machine: {choice.machine}"))


def _pair_facts(pair: Pair) -> dict[str, Any]:
    return {
        "index_target": pair.index.name,
        "query_target": pair.query.name,
        "precision": pair.precision,
        "quality": pair.quality,
        "index_bytes": pair.index_bytes,
        "memory_bytes": pair.memory,
        "indexing_seconds": pair.indexing_seconds,
        "query_latency_seconds": pair.latency,
        "load": pair.load,
    }


def _print_table(choice: Choice) -> None:
    budgets = choice.budgets
    columns: list[tuple[str, Callable[[Candidate], str]]] = [
        ("target", lambda one: one.name),
        ("engine", lambda one: one.engine),
        ("quality ", lambda one: "?" if one.quality is None else f"{one.quality:.3f}"),
    ]
    if budgets.latency is not None or budgets.aim is Prefer.SPEED:
        columns.append((f"p{budgets.percentile} ", lambda one: format_latency(one.latency)))
    if budgets.throughput is not None:
        columns.append(("throughput ", lambda one: "?" if one.throughput is None else f"{one.throughput:.0f}/s"))
    columns.append(("size ", lambda one: megabytes(one.size)))
    if budgets.memory is not None:
        columns.append(("memory ", lambda one: "?" if one.memory is None else megabytes(int(one.memory))))
    columns.append(("fits", lambda one: "yes" if one in choice.fitting else f"no, {one.doubt}" if one.doubt else "no"))
    columns.append((f"quality x {choice.cost}", lambda one: "front" if one in choice.front else ""))
    rows = [[cell(one) for _, cell in columns] for one in choice.candidates]
    print_table([name for name, _ in columns], rows)
    print(visible(f"\nquality: {quality_name(budgets)}; machine: {choice.machine}"))


def _document(choice: Choice) -> dict[str, Any]:
    return {
        "machine": choice.machine,
        "busy_cores": choice.busy_cores,
        "best": choice.best and _facts(choice.best),
        "why": reason(choice) or None,
        "warnings": warnings(choice.best) if choice.best else [],
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
        "doubt": one.doubt,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"budgets": dict(zip(outcome.budgets, outcome.needed, strict=True)), "target": outcome.candidate.name}


_AXES: dict[LimitName, tuple[str, Callable[[float], float]]] = {
    LimitName.LATENCY: ("latency of one text, ms", lambda value: value * 1e3),
    LimitName.THROUGHPUT: ("time for each text of a batch, ms", lambda value: 1e3 / value),
    LimitName.SIZE: ("size on disk, MB", lambda value: value / 1e6),
    LimitName.MEMORY: ("memory added, MB", lambda value: value / 1e6),
}


def _draw(path: Path, choice: Choice) -> None:
    from ese_deploy.report import Front, pareto_plot

    label, cost = _AXES[choice.cost]
    values = [(one, getattr(one, choice.cost)) for one in choice.candidates]
    shown = [(one, value) for one, value in values if value is not None and one.quality is not None]
    points = Front(
        names=[one.name for one, _ in shown],
        x=[cost(value) for _, value in shown],
        y=[one.quality or 0.0 for one, _ in shown],
        front=frozenset(one.name for one in choice.front),
        fitting=frozenset(one.name for one in choice.fitting),
        chosen=choice.best.name if choice.best else "",
    )
    title = f"{choice.best.name} is the best target that fits" if choice.best else "No target fits"
    pareto_plot(path, points, title, label, quality_name(choice.budgets))
    logger.info(f"Wrote {path}")
