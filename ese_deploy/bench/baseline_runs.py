"""Baselines in a bench: started once, each timed at its best setting, counted only where its vectors are right."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ese_deploy.bench.baselines import (
    BaselineEntry,
    BaselineError,
    BaselineJob,
    RunningBaseline,
    Setting,
    start_baseline,
)
from ese_deploy.bench.contenders import (
    SINGLES,
    TRIED_TWICE,
    Contender,
    baseline_contender,
    lowest_cosine,
    thin,
    try_settings,
)
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.plan import GroupPlan, Request
from ese_deploy.bench.results import Baseline
from ese_deploy.bench.texts import BenchTexts
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.progress import Progress
from ese_deploy.target import Target

__all__ = ["BaselinePlan", "BaselineTable", "start_baselines"]

_CALIBRATION = 64


@dataclass(frozen=True)
class BaselinePlan:
    """The baselines of a bench."""

    folder: Path
    entries: tuple[BaselineEntry, ...]
    model: Path


@dataclass
class BaselineTable:
    """The baselines that run, and the record of all."""

    running: list[RunningBaseline] = field(default_factory=list)
    listed: list[Baseline] = field(default_factory=list)

    def contenders(
        self, plan: GroupPlan, texts: Sequence[str], full: Encoder, count: OperationCount, progress: Progress
    ) -> list[Contender]:
        """Every baseline that runs, ready for a group."""
        reference = full.encode(list(texts))
        operations = _operations(full, plan, texts, count)
        trials, done = sum(len(one.settings) + TRIED_TWICE for one in self.running), 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(f"settings: {plan.length}", done, trials)

        found = []
        for one in list(self.running):
            try:
                setting = self._best_setting(one, plan, texts, advance)
                cosine = lowest_cosine(one, plan.length, setting, reference)
            except BaselineError as error:
                self.drop(one, str(error))
                continue
            found.append(baseline_contender(one, plan, setting, full, operations, cosine))
        return found

    def without_failed(self, contenders: Sequence[Contender], error: BaselineError) -> list[Contender]:
        """The contenders that remain after a baseline failed while it was timed.

        Raises:
            BaselineError: it names no baseline that runs.
        """
        if error.baseline not in self.running:
            raise error
        failed = error.baseline.entry
        self.drop(error.baseline, str(error))
        return [one for one in contenders if (one.row.name, one.row.dtype) != (failed.name, failed.dtype)]

    def drop(self, baseline: RunningBaseline, reason: str) -> None:
        """Continue without a baseline, and record why."""
        self.running.remove(baseline)
        self.listed = [
            msgspec.structs.replace(one, trials={}, reason=reason) if _is(one, baseline) else one for one in self.listed
        ]

    def _best_setting(
        self, baseline: RunningBaseline, plan: GroupPlan, texts: Sequence[str], advance: Callable[[], None]
    ) -> Setting:
        listed = next(one for one in self.listed if _is(one, baseline))
        if plan.length not in listed.trials:
            listed.trials[plan.length] = try_settings(baseline, plan.length, texts, advance)
        if plan.kind == "latency":
            return baseline.settings[0]
        best = min(listed.trials[plan.length], key=lambda trial: trial.seconds)
        return Setting(best.batch, best.mode)


def start_baselines(
    bundle: Bundle, request: Request, texts: BenchTexts, plan: BaselinePlan, stack: ExitStack, progress: Progress
) -> BaselineTable:
    """Start every baseline; one that does not start is listed with the reason."""
    manifest = bundle.manifest
    full = choose_entry(bundle, Target(manifest.depth, manifest.width))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    every = list(dict.fromkeys(text for length in texts.lengths.values() for text in length))
    job = BaselineJob(
        model=plan.model,
        graph=bundle.path / full.file,
        tokenizer=bundle.path / manifest.tokenizer.file,
        key=manifest.source.weights_sha256,
        width=manifest.width,
        max_seq_length=manifest.max_seq_length,
        threads=request.threads[0],
        calibration=thin(every, _CALIBRATION),
    )
    table = BaselineTable()
    for number, entry in enumerate(plan.entries):
        progress("start baselines", number, len(plan.entries))
        try:
            running = start_baseline(plan.folder, entry, job, scratch)
        except BaselineError as error:
            table.listed.append(Baseline(entry.name, entry.dtype, entry.engine, {}, {}, str(error)))
            continue
        stack.callback(running.stop)
        table.running.append(running)
        table.listed.append(Baseline(entry.name, entry.dtype, entry.engine, running.versions, {}))
    progress("start baselines", len(plan.entries), len(plan.entries))
    return table


def _operations(full: Encoder, plan: GroupPlan, texts: Sequence[str], count: OperationCount) -> float:
    single = plan.kind == "latency"
    timed = thin(texts, SINGLES) if single else texts
    tokenizer = load_tokenizer(full.bundle)
    return count(tokenizer(timed).lengths.tolist()) / (len(timed) if single else 1)


def _is(listed: Baseline, running: RunningBaseline) -> bool:
    return (listed.name, listed.dtype) == (running.entry.name, running.entry.dtype)
