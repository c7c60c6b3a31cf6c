"""Does the runs one after another, and records each when it is complete."""

import datetime
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality.children import Child, module, run_child, terminable
from benchmarks.quality.plan import Plan, Run, criterion_of, planned, runs_of, seeds_of
from benchmarks.quality.protocol import PROJECTED, Protocol
from benchmarks.quality.records import ACROSS, Figures, Record, read_records, write_json
from benchmarks.quality.texts import DEV_SEARCH, TrainingFiles
from ese_deploy.backbones.source import locate
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import PROJECTIONS_FILE
from ese_deploy.projections.tokens import TOKENS_FILE
from ese_deploy.system.files import replace_folder, staging_folder
from ese_deploy.system.machine import describe_machine, library_versions

__all__ = ["RUNS", "TESTS", "Sweep"]

RUNS, TESTS = "runs", "tests"
_MODELS, _LOGS, _DATA = "models", "logs", "data"
_KEPT_METRICS = (AGREEMENT, STS_METRICS[0], RETRIEVAL_METRICS[0])

Say = Callable[[str], None]


class Sweep:
    """A folder with the runs of a protocol.

    Args:
        protocol: what is compared.
        data: the folder with the data.
        out: output folder: ``runs/`` (records), ``tests/``, ``models/`` of finalists, ``logs/``, ``data/`` (prepared
            training data).
        pause: the sweep pauses while this file exists.
        say: prints a line.
    """

    def __init__(self, protocol: Protocol, data: Path, out: Path, pause: Path | None = None, say: Say = print) -> None:
        self.protocol = protocol
        self.out = out.absolute()
        self.files = TrainingFiles(protocol, data.absolute(), self.out / _DATA)
        self.plan = Plan(protocol, self.files.hash_of)
        self._pause = pause
        self._say = say

    def records(self) -> dict[str, Record]:
        """The records of completed runs."""
        return read_records(self.out / RUNS)

    def run(self, only: str | None, minutes: float | None) -> int:
        """Do the missing runs, in the order of the protocol.

        Args:
            only: the name of a row, to skip the others.
            minutes: start no run after this time.

        Returns:
            The number of runs that were started.
        """
        if only:
            self.protocol.row(only)
        end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        given_up: set[str] = set()
        started = 0
        with self.alone(), terminable():
            while time.monotonic() < end and (run := self._next(only, given_up)):
                started += 1
                self._say(f"{run.label}: started")
                record = self._do(run)
                if record is None:
                    given_up.add(run.key)
                    self._say(f"{run.label}: was killed and will be repeated; see {self._log(run)}")
                    continue
                before = self.records().get(run.key)
                if before and record.minutes is None:
                    times = {"minutes": before.minutes, "cpu_minutes": before.cpu_minutes}
                    record = msgspec.structs.replace(record, **times)
                write_json(self.out / RUNS / f"{run.label}-{run.key}.json", record)
                what = record.failed or f"{criterion_of(self.plan, run, record):.2f}"
                self._say(f"{run.label}: {what} ({record.minutes or 0:.1f} min, {record.cpu_minutes or 0:.1f} of CPU)")
        if only and not started and (base := self.protocol.row(only).of) and not self._has(only):
            raise InputError(f"'{only}' waits for the runs of '{base}'. Run --only '{base}' first.")
        return started

    def test(self) -> int:
        """Evaluate the finalists on the test sets, once each.

        Returns:
            The number of models evaluated now.
        """
        records = self.records()
        done = read_records(self.out / TESTS)
        evaluated = 0
        with self.alone(), terminable():
            # The first seed of every row before the second of any.
            for run in sorted(self.finalists(records), key=lambda run: not self._is_first(run)):
                if run.key in done or run.key not in records or records[run.key].failed:
                    continue
                self._say(f"{run.label}: test")
                sts, retrieval = self.files.tests()
                # Retrieval takes most of the time, so that only the first seed is evaluated on it.
                searched = retrieval if self._is_first(run) and not run.row.cell else []
                figures, code = self._evaluate(run, sts, searched, self.protocol.test_bf16)
                if code:
                    raise InputError(f"{run.label} could not be tested; see {self._log(run)}")
                write_json(self.out / TESTS / f"{run.label}-{run.key}.json", _record(run, figures))
                evaluated += 1
        return evaluated

    def _is_first(self, run: Run) -> bool:
        return run.seed in (None, seeds_of(self.plan, run.row)[0])

    def finalists(self, records: Mapping[str, Record]) -> list[Run]:
        """The reported and tested runs: each finalist's best rate with every seed."""
        rows = [self.protocol.whole(row) for row in self.protocol.rows if row.stage == "finalist"]
        return [run for row in rows for run in runs_of(self.plan, row, records)]

    def _next(self, only: str | None, given_up: set[str]) -> Run | None:
        records = self.records()
        for run in planned(self.plan, records):
            ready = run.source is None or run.source.row.how == "untouched" or run.source.key in records
            done = _is_done(run, records.get(run.key))
            if not done and run.key not in given_up and ready and only in (None, run.row.name):
                return run
        return None

    def _has(self, name: str) -> bool:
        return bool(runs_of(self.plan, self.protocol.whole(self.protocol.row(name)), self.records()))

    def _do(self, run: Run) -> Record | None:
        """Train and evaluate; None if a process was killed from outside."""
        trained: Child | None = None
        if run.row.how in ("train", "matryoshka2d") and not self._model(run).exists():
            trained = run_child(self._training(run), self._log(run), self._pause)
        elif run.row.how in PROJECTED:
            trained = run_child(self._projecting(run), self._log(run), self._pause)
        if trained is not None and trained.code < 0:
            return None
        if trained is not None and trained.code:
            return _record(run, {}, trained, _last_line(self._log(run)))
        if run.row.how in PROJECTED:
            self._store_projections(run)
        figures, code = self._on_dev(run)
        if code < 0:
            return None
        if run.row.stage != "finalist":
            shutil.rmtree(self._model(run), ignore_errors=True)
        return _record(run, figures, trained, _last_line(self._log(run)) if code else "")

    def _on_dev(self, run: Run) -> tuple[Figures, int]:
        """Figures for choices."""
        figures, code = self._evaluate(run, [self.files.dev()], [])
        if code or not run.row.search:
            return figures, code
        searched, code = self._evaluate(run, [], [self.files.dev_search()], self.protocol.test_bf16)
        return {**figures, **searched}, code

    def _training(self, run: Run) -> list[str]:
        model = self._model(run)
        model.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(model.with_name(f"{model.name}.run"), ignore_errors=True)
        flags = dict(run.row.flags)
        common = {
            "model_name_or_path": self.protocol.model,
            "save_dir": model,
            "learning_rate": run.rate,
            "seed": run.seed,
        }
        name = "training.train" if run.row.how == "train" else "benchmarks.quality.matryoshka"
        command = module(name, *(f"--{key}={_as_text(value)}" for key, value in {**flags, **common}.items()))
        for path in (path for name in run.row.data for path in self.files.files(name)):
            command.append(f"--train_name_or_path={path}")
        return [*command, *(f"--loss_setting={key}={_as_text(value)}" for key, value in run.row.loss.items())]

    def _projecting(self, run: Run) -> list[str]:
        protocol = self.protocol
        source = self._model(run.source) if run.source else protocol.model
        texts = self.files.calibration(tuple(run.row.data))
        depths = ",".join(map(str, protocol.depths))
        options = ["--depths", depths, "--dims", str(protocol.dims[-1]), "--projection", run.row.how, "--force"]
        return module("ese_deploy.cli", "export", source, "--out", self._bundle(run), "--calibration", texts, *options)

    def _store_projections(self, run: Run) -> None:
        """Add the fitted projections to the source's checkpoint, so that one pass evaluates all its cells."""
        source = str(self._model(run.source)) if run.source else self.protocol.model
        with staging_folder(self._model(run)) as staging:
            shutil.copytree(locate(source).path, staging / "model")
            for name in (PROJECTIONS_FILE, TOKENS_FILE):
                if (self._bundle(run) / name).exists():
                    shutil.copy(self._bundle(run) / name, staging / "model" / name)
            replace_folder(staging / "model", self._model(run))
        shutil.rmtree(self._bundle(run))

    def _evaluate(self, run: Run, sts: list[Path], retrieval: list[Path], bf16: bool = False) -> tuple[Figures, int]:
        """Figures of the grid, and the exit code of the process that measured them."""
        found = self.out / _LOGS / f"{run.label}-{run.key}.figures.json"
        data = [*(f"--sts={path}" for path in sts), *(f"--retrieval={path}" for path in retrieval)]
        dims, depths = (",".join(map(str, numbers)) for numbers in (self.protocol.dims, self.protocol.depths))
        command = module("training.evaluate", self._model(run), *data, "--out", found)
        command += ["--dims", dims, "--depths", depths, *(["--bf16"] if bf16 else [])]
        child = run_child(command, self._log(run), self._pause)
        return (_figures(found), 0) if child.code == 0 else ({}, child.code)

    def _model(self, run: Run) -> Path:
        if run.row.how == "untouched":
            return Path(self.protocol.model)
        return (self.out / _MODELS / f"{run.label}-{run.key}").absolute()

    def _bundle(self, run: Run) -> Path:
        return self._model(run).with_name(f"{self._model(run).name}.bundle")

    def _log(self, run: Run) -> Path:
        return self.out / _LOGS / f"{run.label}-{run.key}.log"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder: two sweeps would do the same runs."""
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"{self.out} is being worked on by another process; wait for it or stop it") from None
            yield


def _figures(path: Path) -> Figures:
    """The metrics that are kept, out of what an evaluation wrote."""
    figures: Figures = {}
    document = json.loads(path.read_text("utf-8"))
    for pair in document["asymmetric"]:
        name = f"{pair['query']}>{pair['document']}x{pair['dim']}"
        figures.setdefault(f"{ACROSS}@{pair['data']}", {})[name] = pair["score"]["ndcg_at_10"]
    for target in document["targets"]:
        for one in target["quality"]:
            if one["metric"] in _KEPT_METRICS:
                figures.setdefault(f"{one['metric']}@{one['data']}", {})[target["target"]] = one["value"]
    return figures


def _is_done(run: Run, record: Record | None) -> bool:
    """Whether all was measured; a row may have been asked for more since."""
    if record is None or record.failed:
        return record is not None
    return not run.row.search or any(name.endswith(f"@{DEV_SEARCH}") for name in record.figures)


def _record(run: Run, figures: Figures, child: Child | None = None, failed: str = "") -> Record:
    return Record(
        key=run.key,
        label=run.label,
        settings=dict(run.settings),
        figures=figures,
        failed=failed,
        minutes=child.minutes if child else None,
        cpu_minutes=child.cpu_minutes if child else None,
        date=datetime.date.today().isoformat(),
        machine=describe_machine(),
        versions=library_versions(),
    )


def _last_line(log: Path) -> str:
    """What a process that failed said last."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else "failed without a word"


def _as_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
