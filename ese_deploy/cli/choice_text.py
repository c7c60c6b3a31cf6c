"""The words and the table of ``ese-deploy choose``."""

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from ese_deploy.bundle.metrics import AGREEMENT
from ese_deploy.choose.choice import Budgets, Candidate, Choice, Outcome, limits_of
from ese_deploy.cli.console import megabytes, print_table
from ese_deploy.system.machine import Machine

__all__ = ["loose_side", "print_choice", "quality_name", "reason", "relaxation"]

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


def print_choice(candidates: Sequence[Candidate], choice: Choice, budgets: Budgets, machine: Machine) -> None:
    """Write the candidates, the answer, the reason and what binds to standard output."""
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
    print(f"\nquality: {quality_name(budgets)}; machine: {machine}")
    if choice.best is None:
        return
    print(f"\nbest: {choice.best.name} on {choice.best.engine}. {reason(choice, budgets)}")
    if choice.runner_up is not None:
        print(f"runner-up: {_describe(choice.runner_up, budgets)}")
    for outcome in choice.binding:
        names = " and ".join(_OPTIONS[name] for name in outcome.budgets)
        print(f"binds: {names}; without it the answer would be {_describe(outcome.candidate, budgets)}")
    if not choice.binding and limits_of(budgets):
        print("binds: no budget alone; the answer would be the same without any one of them")


def reason(choice: Choice, budgets: Budgets) -> str:
    """Why the best is the best, in one sentence."""
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


def quality_name(budgets: Budgets) -> str:
    """What the quality figures are."""
    if budgets.quality is None:
        return "agreement with the full model"
    return f"{budgets.quality.metric}{', as a share of the full model' if budgets.quality.share else ''}"


def relaxation(outcome: Outcome, budgets: Budgets, written: Mapping[str, str | None]) -> str:
    """Which budgets to relax, from what to what, and what fits then.

    Args:
        outcome: what is to be relaxed.
        budgets: the budgets.
        written: budgets as they were typed, by name; those of a profile are stated in the usual units.
    """
    parts = [
        f"{_OPTIONS[name]} from {_quoted(written.get(name) or _stated(name, budgets))} "
        f"to {_quoted(loose_side(name, value, budgets))}"
        for name, value in zip(outcome.budgets, outcome.needed, strict=True)
    ]
    return f"relax {' and '.join(parts)}: then {_describe(outcome.candidate, budgets)} fits"


def _stated(name: str, budgets: Budgets) -> str:
    bound = {limit.name: limit.bound for limit in limits_of(budgets)}[name]
    if bound is None:
        names = {"engine": budgets.engines, "dtype": budgets.dtypes, "depth": (budgets.depth,), "dim": (budgets.dim,)}
        return ",".join(map(str, names[name]))
    return _budget(name, lambda unit: f"{bound / unit:.15g}", budgets)


def loose_side(name: str, value: float | str | None, budgets: Budgets) -> str:
    """A budget that the value keeps, rounded to its loose side, as an option would take it.

    Args:
        name: of the budget.
        value: what is to be had.
        budgets: the budgets, which say of which case, percentile or data it is.
    """
    if isinstance(value, str) or value is None or name in ("depth", "dim"):
        return str(value)
    up = name not in ("throughput", "quality")
    return _budget(name, lambda unit: _rounded(value, unit, up), budgets)


def _budget(name: str, number: Callable[[float], str], budgets: Budgets) -> str:
    """A number, written in a unit, as an option would take it."""
    if name == "latency":
        return f"{number(1e-3)}ms{budgets.latency.words if budgets.latency else ''}"
    if name == "throughput":
        return f"{number(1)}/s{budgets.throughput.case.words if budgets.throughput else ''}"
    if name in ("size", "memory"):
        return f"{number(1e6)}MB"
    quality = budgets.quality
    if quality is None or quality.metric == AGREEMENT:
        return number(1)
    return f"{number(0.01)}% {quality.metric}" if quality.share else f"{number(1)} {quality.metric}"


def _rounded(value: float, unit: float, up: bool) -> str:
    """Three digits that, times the unit, are not below the value, or with ``up`` False not above it."""
    context = Context(prec=3, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    number = context.create_decimal_from_float(value / unit)
    if up and float(number) * unit < value:
        number = number.next_plus(context)
    if not up and float(number) * unit > value:
        number = number.next_minus(context)
    return f"{number.normalize():f}"


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)
