"""What a bench found: the file it writes, and what may be said of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ese_deploy.bench.rounds import uncertainty
from ese_deploy.bundle.manifest import Quality
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import Machine

__all__ = [
    "NOISY",
    "OWN",
    "SCHEMA_VERSION",
    "Cost",
    "Group",
    "Host",
    "Limit",
    "Peer",
    "Ratio",
    "Results",
    "Row",
    "TextSet",
    "check_comparable",
    "median_rate",
    "ratio",
    "read_results",
    "reference_row",
    "write_results",
]

SCHEMA_VERSION = 1
OWN = "ese-deploy"
# A median less certain than this is marked: two runs may then differ by a tenth without anything having changed.
NOISY = 0.05


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Host(_Strict, frozen=True):
    """The machine, and what of it this run was given.

    Attributes:
        machine: the machine.
        instruction_sets: those that decide the speed of a matrix product, such as ``amx_int8``.
        cores: cores that affinity and the control group's quota leave to the process.
        gpus: names of the GPUs that the driver reports.
    """

    machine: Machine
    instruction_sets: list[str]
    cores: int
    gpus: list[str]


class TextSet(_Strict, frozen=True):
    """The texts of one length.

    Attributes:
        texts: how many.
        tokens: tokens of all, special tokens included.
        median: tokens of the median text.
        longest: tokens of the longest text.
        cut: how many were cut at the model's longest input.
        sha256: hash of the texts.
    """

    texts: int
    tokens: int
    median: int
    longest: int
    cut: int
    sha256: str


class Row(_Strict, frozen=True):
    """One thing timed in a group.

    Attributes:
        who: ``ese-deploy``, or the peer's name.
        target: the target; peers run the full model.
        engine: the engine; for a peer the library that computes.
        device: ``cpu``, or the accelerator's name.
        dtype: the dtype that computes.
        setting: how texts were batched.
        seconds: one for each round: throughput: seconds for all texts once; latency: median seconds for a text.
        percentiles: latency: p50, p95, p99 in seconds over the calls of all rounds.
        calls: passes over the texts, or single texts, that were timed.
        padding: share of the computed positions that is padding; None where it is not known.
        operations: floating-point or integer operations that ``seconds`` stands for, padding not counted.
        cosine_min: lowest cosine between a vector and the reference's; None for the targets, which were verified.
        counted: whether the vectors are near enough to the reference for the speed to count.
    """

    who: str
    target: str
    engine: str
    device: str
    dtype: str
    setting: str
    seconds: list[float]
    percentiles: dict[str, float]
    calls: int
    padding: float | None
    operations: float
    cosine_min: float | None = None
    counted: bool = True

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What names a row in its group; a peer's best batch size may differ from run to run."""
        return (self.who, self.target, self.engine, self.dtype, self.setting if self.who == OWN else "")

    @property
    def noisy(self) -> bool:
        """Whether the median is less certain than 5%."""
        return uncertainty(self.seconds) > NOISY


class Limit(_Strict, frozen=True):
    """The machine's own rate of matrix products, measured in the same rounds.

    Attributes:
        dtype: the dtype of the factors.
        device: ``cpu``, or the GPU's name.
        kernel: whose product.
        shape: m, k, n.
        rates: operations a second, one for each round; empty where it was not measured.
        reason: why it was not measured.
    """

    dtype: str
    device: str
    kernel: str
    shape: list[int]
    rates: list[float]
    reason: str = ""


class Group(_Strict, frozen=True):
    """Rows that took turns.

    Attributes:
        kind: ``throughput`` of all texts, or ``latency`` of one text.
        study: what is varied: ``depth``, ``width`` or ``budget``.
        length: which texts.
        threads: threads of each row.
        rows: what was timed.
        limits: what the machine could do.
        rounds: how many.
        seconds: how long the group took.
        others: cores that other processes kept busy meanwhile; None where the system does not say.
    """

    kind: Literal["throughput", "latency"]
    study: Literal["depth", "width", "budget"]
    length: str
    threads: int
    rows: list[Row]
    limits: list[Limit]
    rounds: int
    seconds: float
    others: float | None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names a group in its results."""
        return (self.kind, self.study, self.length, self.threads)


class Cost(_Strict, frozen=True):
    """What a target costs besides time per text, medians over processes of their own.

    Attributes:
        target: the target.
        engine: the engine.
        bytes: graph, the weights that it reads, and tokenizer.
        load_seconds: opening the encoder in a process that has imported everything.
        cold_seconds: from starting the process to the first vector.
        growth_bytes: growth of anonymous memory (RssAnon) by loading and a first text; None where not reported.
        peak_bytes: highest growth while a batch of 32 texts is embedded; None where not reported.
        runs: processes started for each figure.
    """

    target: str
    engine: str
    bytes: int
    load_seconds: float
    cold_seconds: float
    growth_bytes: int | None
    peak_bytes: int | None
    runs: int


class Peer(_Strict, frozen=True):
    """Another way from the same weights and texts to vectors.

    Attributes:
        name: its name.
        dtype: the dtype that computes.
        engine: what computes.
        versions: versions of its libraries.
        sweep: for each length the seconds that one pass took at each setting.
        reason: why it did not take part; empty where it did.
    """

    name: str
    dtype: str
    engine: str
    versions: dict[str, str]
    sweep: dict[str, dict[str, float]]
    reason: str = ""


class Results(_Strict, frozen=True):
    """All that one run of a bench found.

    Attributes:
        schema_version: 1.
        name: the bundle's folder name.
        model: the checkpoint as its exporter named it.
        weights_sha256: hash of the checkpoint's weights.
        bundle: hash of what runs in the bundle.
        depth: blocks of the full model.
        width: dimensions of the full model's vector.
        host: where it ran.
        versions: of libraries here.
        engines: engines that ran, with the versions of their libraries.
        absent: engines that did not run, and why.
        started: date and time, UTC.
        effort: ``quick`` or ``full``.
        restricted: the options that left something out, as they were given.
        stop: what ended the rounds, in words.
        texts_name: which texts.
        texts: by length.
        quality: for each target its figures from the manifest.
        groups: what was timed.
        costs: memory, size, load and start.
        peers: who else ran, or why not.
        complete: False until the last group is done.
    """

    schema_version: int
    name: str
    model: str
    weights_sha256: str
    bundle: str
    depth: int
    width: int
    host: Host
    versions: dict[str, str]
    engines: dict[str, dict[str, str]]
    absent: dict[str, str]
    started: str
    effort: str
    restricted: str
    stop: str
    texts_name: str
    texts: dict[str, TextSet]
    quality: dict[str, list[Quality]]
    groups: list[Group]
    costs: list[Cost]
    peers: list[Peer]
    complete: bool


class _Version(msgspec.Struct):
    schema_version: int


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one row is as another.

    Attributes:
        value: the median over rounds.
        low: the lower quartile.
        high: the upper quartile.
        noisy: whether the median is less certain than 5%.
    """

    value: float
    low: float
    high: float
    noisy: bool


def read_results(path: Path) -> Results:
    """Read what :func:`write_results` wrote.

    Raises:
        InputError: it is missing, broken, or of another schema version.
    """
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            advice = "update ese-deploy" if version > SCHEMA_VERSION else "measure again with: ese-deploy bench"
            raise InputError(f"{path} has schema_version {version}, this ese-deploy reads {SCHEMA_VERSION}; {advice}")
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; make it with: ese-deploy bench") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} holds no results of a bench: {error}; measure again with: ese-deploy bench") from None


def write_results(path: Path, results: Results) -> None:
    """Write results as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def check_comparable(first: Results, second: Results, names: tuple[str, str]) -> None:
    """Check that two results are of the same weights and texts.

    Raises:
        InputError: they are not.
    """
    if first.weights_sha256 != second.weights_sha256:
        raise InputError(
            f"{names[0]} and {names[1]} cannot be compared: one is of {first.model} ({first.weights_sha256[:12]}), "
            f"the other of {second.model} ({second.weights_sha256[:12]}); report each alone"
        )
    shared = first.texts.keys() & second.texts.keys()
    if not shared or any(first.texts[name].sha256 != second.texts[name].sha256 for name in shared):
        raise InputError(
            f"{names[0]} and {names[1]} cannot be compared: they embedded other texts ({first.texts_name} and "
            f"{second.texts_name}); report each alone"
        )


def reference_row(group: Group, results: Results) -> Row | None:
    """The row that others are measured by: the full model in fp32 as it runs without settings."""
    full = f"{results.depth}x{results.width}"
    rows = [row for row in group.rows if (row.who, row.target, row.dtype) == (OWN, full, "fp32")]
    return next((row for row in rows if row.setting.endswith("(default)")), rows[0] if rows else None)


def ratio(fast: Row, slow: Row) -> Ratio:
    """How many times as fast ``fast`` is as ``slow``, round by round, so that a drift of both cancels."""
    values = [b / a for a, b in zip(fast.seconds, slow.seconds, strict=False)]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(middle, low, high, uncertainty(values) > NOISY)


def median_rate(amount: float, seconds: Sequence[float]) -> float:
    """``amount`` a second, at the median of the rounds."""
    return amount / statistics.median(seconds)
