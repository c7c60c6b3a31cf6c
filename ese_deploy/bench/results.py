"""The results file of a bench, schema version 2; :mod:`ese_deploy.bench.upgrade` converts files of version 1."""

from pathlib import Path
from typing import Literal

import msgspec

from ese_deploy.bench.timing import Timing
from ese_deploy.bench.upgrade import upgrade
from ese_deploy.bundle.manifest import Quality
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import Machine

__all__ = [
    "SCHEMA_VERSION",
    "Baseline",
    "Cost",
    "Effort",
    "Group",
    "Host",
    "Kind",
    "Peak",
    "Results",
    "Row",
    "Study",
    "TextSet",
    "Trial",
    "check_comparable",
    "read_results",
    "reference_row",
    "write_results",
]

SCHEMA_VERSION = 2

Kind = Literal["throughput", "latency"]
Study = Literal["depth", "dim", "batch_tokens"]
Effort = Literal["quick", "full"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Host(_Strict, frozen=True):
    """The machine, and what of it this run could use.

    Attributes:
        instruction_sets: those that decide the speed of a matrix product, such as ``amx_int8``.
        cores: cores that CPU affinity and the control group's quota allow.
        gpus: names of the GPUs that the driver reports.
    """

    machine: Machine
    instruction_sets: list[str]
    cores: int
    gpus: list[str]


class TextSet(_Strict, frozen=True):
    """The texts of one length.

    Attributes:
        tokens: tokens of all texts, special tokens included.
        median: tokens of the median text.
        longest: tokens of the longest text.
        cut: texts truncated at the model's maximum length.
        sha256: hash of the texts.
    """

    texts: int
    tokens: int
    median: int
    longest: int
    cut: int
    sha256: str


class Row(_Strict, frozen=True, kw_only=True):
    """One contender in a group: a target of the bundle, or a baseline that runs the full model.

    Attributes:
        name: ``ese-deploy``, or the baseline's name.
        engine: the engine; for a baseline the library that computes.
        device: ``cpu``, or the accelerator's name.
        batch: size of a batch: a target's budget in tokens, a baseline's number of texts; None for one text at a time.
        mode: further setting of a baseline, such as OpenVINO's ``throughput``.
        is_default: whether ``batch`` is the engine's default.
        timing: throughput: seconds for all texts once; latency: seconds for one text.
        padding: share of the computed positions that is padding; None where it is not known.
        operations: floating-point or integer operations of one call, padding not counted.
        cosine_min: lowest cosine between a baseline's vector and the bundle's; None for targets, which were verified.
        counted: whether the vectors are close enough to the bundle's for the speed to count.
    """

    kind: Literal["target", "baseline"]
    name: str
    depth: int
    dim: int
    dtype: str
    engine: str
    device: str
    batch: int | None
    timing: Timing
    operations: float
    mode: str = ""
    is_default: bool = False
    padding: float | None = None
    cosine_min: float | None = None
    counted: bool = True

    @property
    def is_baseline(self) -> bool:
        """Whether the contender is a baseline."""
        return self.kind == "baseline"

    @property
    def size(self) -> str:
        """Depth and dim, such as ``3x128``."""
        return f"{self.depth}x{self.dim}"

    @property
    def target(self) -> str:
        """The target as :class:`ese_deploy.target.Target` writes it, such as ``3x128:int8``."""
        return self.size if self.dtype == "fp32" else f"{self.size}:{self.dtype}"

    @property
    def key(self) -> tuple[str, str, str, str, int | None]:
        """Identifies a row in its group; a baseline's best batch size may differ from run to run."""
        return (self.name, self.size, self.engine, self.dtype, None if self.is_baseline else self.batch)


class Peak(_Strict, frozen=True):
    """Peak GEMM: the machine's own rate of matrix products, measured in the same rounds.

    Attributes:
        device: ``cpu``, or the GPU's name.
        kernel: the library whose product was timed.
        shape: m, k, n.
        rates: operations per second, one for each round; empty where it was not measured.
        reason: why it was not measured.
    """

    dtype: str
    device: str
    kernel: str
    shape: list[int]
    rates: list[float]
    reason: str = ""


class Group(_Strict, frozen=True):
    """Contenders that took turns.

    Attributes:
        kind: ``throughput`` of all texts, or ``latency`` of one text.
        study: what varies between the targets.
        seconds: duration of the group.
        other_load: cores that other processes kept busy meanwhile; None where the system does not report it.
    """

    kind: Kind
    study: Study
    length: str
    threads: int
    rows: list[Row]
    peaks: list[Peak]
    rounds: int
    seconds: float
    other_load: float | None

    @property
    def key(self) -> tuple[Kind, Study, str, int]:
        """Identifies the group in its results."""
        return (self.kind, self.study, self.length, self.threads)


class Cost(_Strict, frozen=True):
    """Size, start-up and memory of a target; medians over processes.

    Attributes:
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


class Trial(_Strict, frozen=True):
    """Seconds that a baseline took with one setting, in the search for its best."""

    batch: int
    mode: str
    seconds: float


class Baseline(_Strict, frozen=True):
    """Another library that computes the same vectors from the same weights and texts.

    Attributes:
        engine: the library that computes.
        trials: for each length the settings that were tried.
        reason: why it did not run; empty where it did.
    """

    name: str
    dtype: str
    engine: str
    versions: dict[str, str]
    trials: dict[str, list[Trial]]
    reason: str = ""


class Results(_Strict, frozen=True):
    """Everything that one run of ``ese-deploy bench`` measured.

    Attributes:
        schema_version: 2.
        name: the bundle's folder name.
        model: the checkpoint, as it was given to the export.
        weights_sha256: hash of the checkpoint's weights.
        bundle: hash of the bundle's graphs, weights and tokenizer.
        width: dimensions of the full model's vector.
        engines: engines that ran, with the versions of their libraries.
        absent: engines that did not run, and why.
        started: date and time, UTC.
        restricted: options that left something out.
        stop: the rule that ended the rounds, in words.
        quality: for each target the figures of the manifest.
        baselines: baselines that ran, and those that did not.
        complete: False until everything is measured.
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
    effort: Effort
    restricted: dict[str, str]
    stop: str
    texts_name: str
    texts: dict[str, TextSet]
    quality: dict[str, list[Quality]]
    groups: list[Group]
    costs: list[Cost]
    baselines: list[Baseline]
    complete: bool

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"Results({self.name!r}, {self.effort}, {len(self.groups)} groups{state})"


class _Version(msgspec.Struct):
    schema_version: int


def read_results(path: str | Path) -> Results:
    """Read a results file of schema version 1 or 2.

    Raises:
        InputError: it is missing, broken, or of another schema version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version == 1:
            return msgspec.convert(upgrade(msgspec.json.decode(data)), type=Results)
        if version != SCHEMA_VERSION:
            advice = "Update ese-deploy." if version > SCHEMA_VERSION else "Measure again with: ese-deploy bench"
            raise InputError(
                f"{path} has schema_version {version}; this ese-deploy reads 1 to {SCHEMA_VERSION}. {advice}"
            )
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Create it with: ese-deploy bench") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a results file: {error}. Measure again with: ese-deploy bench") from None


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
            f"Cannot compare {names[0]} with {names[1]}: one is of {first.model} ({first.weights_sha256[:12]}), "
            f"the other of {second.model} ({second.weights_sha256[:12]}). Write a report of each."
        )
    shared = first.texts.keys() & second.texts.keys()
    if not shared or any(first.texts[name].sha256 != second.texts[name].sha256 for name in shared):
        raise InputError(
            f"Cannot compare {names[0]} with {names[1]}: they embedded different texts ({first.texts_name} and "
            f"{second.texts_name}). Write a report of each."
        )


def reference_row(group: Group, results: Results) -> Row | None:
    """The row that others are compared with: the full model in fp32, with the engine's default batch if it ran."""
    full = (results.depth, results.width, "fp32")
    rows = [row for row in group.rows if not row.is_baseline and (row.depth, row.dim, row.dtype) == full]
    return next((row for row in rows if row.is_default), rows[0] if rows else None)
