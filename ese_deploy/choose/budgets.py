"""Reading budgets: 5ms, 40MB, 200/s, 0.97, "80% stsb"."""

import re
from dataclasses import dataclass

from ese_deploy.bundle.metrics import AGREEMENT
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import DEFAULT_CASE, Case

__all__ = [
    "LatencyBudget",
    "QualityBudget",
    "ThroughputBudget",
    "parse_latency",
    "parse_quality",
    "parse_size",
    "parse_throughput",
]

PERCENTILES = (50, 95, 99)

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_RATE = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}


@dataclass(frozen=True)
class LatencyBudget:
    """The longest time from one text to its vector.

    Attributes:
        seconds: the limit.
        percentile: 50, 95 or 99: the share of the runs that must keep it.
        case: what is timed.
    """

    seconds: float
    percentile: int = 95
    case: Case = DEFAULT_CASE


@dataclass(frozen=True)
class ThroughputBudget:
    """The least number of texts per second, in batches of 32 texts.

    Attributes:
        texts_per_second: the limit.
        case: what is timed.
    """

    texts_per_second: float
    case: Case = DEFAULT_CASE


@dataclass(frozen=True)
class QualityBudget:
    """The least quality.

    Attributes:
        value: the limit, from 0 to 1.
        metric: as :func:`ese_deploy.bundle.metrics.find_quality` takes it.
        share: whether the limit is a share of the full model's figure, not the figure itself.
    """

    value: float
    metric: str = AGREEMENT
    share: bool = True


def parse_latency(text: str) -> LatencyBudget:
    """Read ``5ms``, ``5ms p99``, ``20ms p50 128 tokens 1 thread``.

    Without further words it is the 95th percentile of one text of 32 tokens with all threads that the process may use.

    Raises:
        InputError: the unit is missing, or a word is not understood.
    """
    value, rest = _quantity(text, _TIME, "a latency", "5ms or 0.2s")
    percentile = 95
    match = re.search(r"\bp(\d+)\b", rest)
    if match is not None:
        percentile = int(match[1])
        rest = rest.replace(match[0], "", 1)
    if percentile not in PERCENTILES:
        raise InputError(f"latency '{text}' names percentile {percentile}; choose p50, p95 or p99")
    return LatencyBudget(value, percentile, _case(rest, text))


def parse_throughput(text: str) -> ThroughputBudget:
    """Read ``200/s``, ``200/s 128 tokens``, ``200/s 1 thread``.

    Raises:
        InputError: the unit is missing, or a word is not understood.
    """
    value, rest = _quantity(text, _RATE, "a throughput", "200/s")
    return ThroughputBudget(value, _case(rest, text))


def parse_size(text: str, what: str = "a size") -> int:
    """Read ``40MB`` (10^6 bytes), ``40MiB`` (2^20 bytes); bytes.

    Raises:
        InputError: the unit is missing or unknown.
    """
    value, rest = _quantity(text, _BYTES, what, "40MB or 512MiB")
    if rest:
        raise InputError(f"{what} is a number and a unit, got '{text}'; write for example 40MB")
    return round(value)


def parse_quality(text: str) -> QualityBudget:
    """Read ``0.97``, ``97%``, ``0.80 stsb``, ``97% ndcg_at_10@scifact``.

    With ``%`` it is a share of the full model's figure, without it the figure itself. The default metric is agreement
    with the full model, whose share is the figure itself.

    Raises:
        InputError: it is not a number from 0 to 1 or a percentage from 0 to 100.
    """
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(%?)\s*(\w.*?)?\s*", text)
    if match is None:
        raise InputError(f"quality '{text}' is not understood; write for example 0.97, 0.80 stsb or 97% stsb")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value <= 1:
        raise InputError(f"quality '{text}' is above 1; write 0.97 or 97%")
    metric = match[3] or AGREEMENT
    return QualityBudget(value, metric, share=bool(match[2]) or metric == AGREEMENT)


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> tuple[float, str]:
    """A positive number with its unit applied, and the words that follow."""
    match = re.match(rf"\s*{_NUMBER}\s*(/?[a-zA-Zµ]*)", text)
    if match is None:
        raise InputError(f"{what} is a number and a unit, got '{text}'; write for example {example}")
    unit = match[2].replace("µ", "u")
    if unit not in units:
        problem = f"has the unit '{unit}'" if unit else "has no unit"
        raise InputError(f"{what} '{text}' {problem}; units are {', '.join(units)}: write for example {example}")
    value = float(match[1]) * units[unit]
    if value <= 0:
        raise InputError(f"{what} must be above 0, got '{text}'")
    return value, text[match.end() :].strip()


def _case(rest: str, text: str) -> Case:
    words: dict[str, int] = {}
    for number, word in re.findall(r"(\d+)\s*(tokens?|threads?)\b", rest):
        words[word.rstrip("s") + "s"] = int(number)
    left = re.sub(r"\d+\s*(tokens?|threads?)\b|[,\s]", "", rest)
    if left or 0 in words.values():
        raise InputError(f"budget '{text}' is not understood; write for example 5ms p95 32 tokens 1 thread")
    return Case(**words)
