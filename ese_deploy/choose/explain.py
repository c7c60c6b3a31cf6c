"""A choice in words. Every measured value is printed with a fixed number of digits."""

from ese_deploy.choose.candidates import AGREEMENT_FLOOR, agreement_of
from ese_deploy.choose.choice import Budgets, Candidate, Choice, Doubt, LimitName, Outcome, Prefer, limits_of

__all__ = ["busy_note", "describe", "explain", "format_latency", "quality_name", "reason", "relaxation", "warnings"]

_AIMS = {Prefer.QUALITY: "the best quality", Prefer.SPEED: "the highest speed", Prefer.SIZE: "the smallest size"}
_ARGUMENTS = {
    LimitName.LATENCY: "max_latency",
    LimitName.THROUGHPUT: "min_throughput",
    LimitName.SIZE: "max_size",
    LimitName.MEMORY: "max_memory",
    LimitName.QUALITY: "min_quality",
    LimitName.ENGINE: "engine",
    LimitName.DTYPE: "dtype",
    LimitName.DEPTH: "depth",
    LimitName.DIM: "dim",
    LimitName.TRAINED: "allow_untrained",
}


def explain(choice: Choice, options: bool = False) -> str:
    """The answer, why it is the answer, and which budgets bind; or which budgets to relax.

    Args:
        choice: the choice.
        options: name budgets as options of the command line (``--max-latency``), not as arguments.
    """
    if choice.best is None:
        relaxed = (relaxation(choice, outcome, options) for outcome in choice.relax)
        return "\n".join(["No target fits.", *relaxed, *busy_note(choice, options)])
    lines = [f"Best: {choice.best.name} on {choice.best.engine}. {reason(choice)}"]
    lines += [f"Warning: {line}." for line in warnings(choice.best)]
    if choice.runner_up is not None:
        lines.append(f"Runner-up: {describe(choice.runner_up, choice.budgets)}")
    lines += [_binding(outcome, choice.budgets, options) for outcome in choice.binding]
    if not choice.binding and any(limit.name is not LimitName.TRAINED for limit in limits_of(choice.budgets)):
        lines.append("Binding: no single budget. Without any one of them the answer is the same.")
    lines += [*_next_better(choice, options), _not_measured(choice)]
    return "\n".join([*lines, *busy_note(choice, options)])


def _next_better(choice: Choice, options: bool) -> list[str]:
    """What the target with the next better quality would cost; empty where the best is the best of all."""
    best = choice.best
    if best is None or best.quality is None:
        return []
    better = [
        one for one in choice.candidates if one.quality is not None and one.quality > best.quality and not one.doubt
    ]
    if not better:
        return ["Next better: none. No target of this bundle has a higher quality."]
    limits = limits_of(choice.budgets)
    nearest = min(better, key=lambda one: (sum(limit.excess(one) for limit in limits), one.quality, one.size, one.name))
    broken = [_ARGUMENTS[limit.name] for limit in limits if limit.excess(nearest) > 0]
    named = " and ".join(f"--{name.replace('_', '-')}" if options else name for name in broken)
    why = f", which is beyond {named}" if broken else ""
    return [f"Next better: {describe(nearest, choice.budgets)}{why}"]


def _not_measured(choice: Choice) -> str:
    """What the answer does not rest on."""
    needed = choice.budgets.needs
    lacking = [kind for kind in ("latency", "throughput", "memory") if kind not in needed]
    lacking += [] if choice.budgets.quality else ["quality on labelled data of yours"]
    return f"Not measured for this answer: {', '.join(lacking) or 'nothing that was asked for'}."


def busy_note(choice: Choice, options: bool = False) -> list[str]:
    """What it means that the machine was busy while it was measured; empty on a quiet one."""
    if not choice.busy_cores:
        return []
    again = "--measure-again" if options else "measure_again=True"
    return [
        f"Busy: others used {choice.busy_cores:.1f} cores while the targets were measured. Times are too long and were "
        f"not stored. Repeat this with {again} on a quiet machine."
    ]


def _binding(outcome: Outcome, budgets: Budgets, options: bool) -> str:
    then = describe(outcome.candidate, budgets)
    if outcome.budgets == (LimitName.TRAINED,):
        why = _DOUBTS[Doubt(str(outcome.needed[0]))]
        return f"Left out: {then}, because it {why}. {_names(outcome, options)} allows it."
    return f"Binding: {_names(outcome, options)}. Without it the answer is {then}"


_DOUBTS = {
    Doubt.UNTRAINED: "has an untrained exit",
    Doubt.LOW_AGREEMENT: "has low agreement with the full model",
    Doubt.FAILED_CHECK: "failed a check when it was exported",
}


def warnings(one: Candidate) -> list[str]:
    """What speaks against a target although the budgets allow it; empty for most."""
    found = []
    if one.doubt in (Doubt.UNTRAINED, Doubt.FAILED_CHECK):
        found.append(f"{one.name} {_DOUBTS[one.doubt]}")
    agreement = agreement_of(one.entry)
    if agreement is not None and agreement < AGREEMENT_FLOOR:
        found.append(f"{one.name} has an agreement of {agreement:.2f} with the full model, below {AGREEMENT_FLOOR}")
    return found


def reason(choice: Choice) -> str:
    """Why the best is the best, in one sentence; nothing fits: an empty string."""
    if choice.best is None:
        return ""
    aim = _AIMS[choice.budgets.aim]
    return f"It has {aim} of the {len(choice.fitting)} that fit: {describe(choice.best, choice.budgets)}"


def relaxation(choice: Choice, outcome: Outcome, options: bool = False) -> str:
    """Which budgets to relax, and the measured values of the target that fits then."""
    if outcome.budgets == (LimitName.TRAINED,):
        then = describe(outcome.candidate, choice.budgets)
        return f"With {_names(outcome, options)}, {then} fits, which {_DOUBTS[Doubt(str(outcome.needed[0]))]}"
    return f"Relax {_names(outcome, options)}: then {describe(outcome.candidate, choice.budgets)} fits"


def describe(one: Candidate, budgets: Budgets) -> str:
    """A candidate with its values."""
    facts = [f"quality {'?' if one.quality is None else f'{one.quality:.3f}'}", f"{one.size / 1e6:.1f} MB"]
    if one.latency is not None:
        facts.append(f"p{budgets.percentile} {format_latency(one.latency)}")
    if one.throughput is not None and budgets.throughput is not None:
        facts.append(f"{one.throughput:.0f}/s")
    if one.memory is not None and budgets.memory is not None:
        facts.append(f"{one.memory / 1e6:.1f} MB of memory")
    return f"{one.name} ({', '.join(facts)})"


def format_latency(seconds: float | None) -> str:
    """A latency in ms, or a question mark."""
    return "?" if seconds is None else f"{seconds * 1e3:.2f} ms"


def quality_name(budgets: Budgets) -> str:
    """What the quality figures are."""
    if budgets.quality is None:
        return "agreement with the full model"
    return f"{budgets.quality.metric}{', as a share of what the full model has there' if budgets.quality.share else ''}"


def _names(outcome: Outcome, options: bool) -> str:
    names = [_ARGUMENTS[name] for name in outcome.budgets]
    return " and ".join(f"--{name.replace('_', '-')}" if options else name for name in names)
