"""The bench as one function."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ese_deploy.bench.baselines import read_baselines
from ese_deploy.bench.plan import BATCH_TOKENS, Request, select_entries
from ese_deploy.bench.results import Results, read_results
from ese_deploy.bench.texts import BenchTexts, bench_texts
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.engines import ENGINES, load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.bench.baseline_runs import BaselinePlan

__all__ = ["bench"]

_LOG = logging.getLogger(__name__)


def bench(
    bundle: Bundle | str | Path,
    out: str | Path | None = None,
    *,
    full: bool = False,
    targets: Sequence[str | Target] = (),
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
    lengths: Sequence[str] = (),
    batch_tokens: Sequence[int] = (),
    texts: str | Path | None = None,
    text_field: str = "text",
    baselines: str | Path | None = None,
    baseline: Sequence[str] = (),
    force: bool = False,
    progress: Progress = silent,
) -> Results:
    """Measure throughput, latency, memory and start time of a bundle's targets.

    Contenders take turns until their medians are stable. In the same rounds the machine multiplies matrices (peak
    GEMM), so that each row can be stated as a share of it.

    Args:
        bundle: an open bundle, or its folder.
        out: a JSON file, written after each group of contenders; an interrupted run is resumed. None writes no file.
        full: also measure every dim, several token budgets, mixed texts and a single thread, with more rounds.
        targets: targets to measure, such as ``3x128``; all by default.
        engines: engines to run; by default all that are installed.
        threads: thread counts; by default all available threads, and also 1 in a full bench.
        lengths: ``query``, ``sentence``, ``passage``, ``mixed``; by default all, ``mixed`` only in a full bench.
        batch_tokens: token budgets that a full bench compares.
        texts: a ``.txt`` or ``.jsonl`` file; by default the sample corpus.
        text_field: the field of a JSON line that contains the text.
        baselines: a folder of baselines, such as ``benchmarks/baselines``, to run too.
        baseline: names of the baselines to run; by default all of the folder.
        force: replace complete results, and start again instead of resuming.
        progress: called often.

    Raises:
        InputError: an argument is wrong, or ``out`` contains other results.
        EngineError: an engine is missing or failed.

    Example:
        >>> results = bench("exports/minilm", "bench.json", targets=["3x128", "6x384"])
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    found = bench_texts(Path(texts) if texts else None, text_field)
    chosen, absent = _engines(opened, engines)
    wanted = [one if isinstance(one, Target) else Target.parse(one) for one in targets]
    request = Request(
        effort="full" if full else "quick",
        engines=chosen,
        entries=select_entries(opened, wanted, chosen),
        lengths=_lengths(found, lengths, full),
        threads=_threads(threads, full),
        batch_tokens=_batch_tokens(batch_tokens, full),
    )
    plan = _baseline_plan(opened, baselines, baseline)
    options = {
        "targets": targets,
        "engines": engines,
        "threads": threads,
        "lengths": lengths,
        "batch_tokens": batch_tokens,
        "baseline": baseline,
    }
    restricted = {name: " ".join(map(str, values)) for name, values in options.items() if values}
    # Imported after the arguments were checked: it needs the libraries of the extra.
    from ese_deploy.bench.run import can_resume, new_results, run_bench

    results = fresh = new_results(opened, request, found, absent, restricted)
    path = Path(out) if out is not None else None
    if path is not None and path.exists() and not force:
        results = read_results(path)
        if results.complete:
            raise InputError(f"{path} is complete. Write to another file, or replace it with `force=True`.")
        if not can_resume(results, fresh):
            raise InputError(
                f"{path} is an interrupted run with other inputs or options. Write to another file, or replace it with "
                "`force=True`."
            )
        if results.groups and bool(results.baselines) != (plan is not None):
            begun = "with" if results.baselines else "without"
            raise InputError(
                f"{path} was started {begun} `baselines`. Resume it {begun} them, write to another file, or replace it "
                "with `force=True`."
            )
        _LOG.info("Resuming %s: %d groups are complete.", path, len(results.groups))
    results = run_bench(opened, request, found, results, path, plan, progress)
    for one in results.baselines:
        if one.reason:
            _LOG.warning("Without the baseline %s", one.reason)
    return results


def _engines(bundle: Bundle, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The engines to run, and why others do not run.

    Raises:
        InputError: a requested engine has a suffix.
        EngineError: a requested engine is missing, or none is installed.
    """
    for name in names:
        load_engine(name)
        if name not in ENGINES:
            raise InputError(
                f"Engine '{name}' cannot be measured. Choose one of: {', '.join(ENGINES)}, without a suffix."
            )
    if names:
        return tuple(dict.fromkeys(names)), {}
    absent = {}
    for name in ENGINES:
        try:
            load_engine(name)
        except EngineError as error:
            absent[name] = str(error)
        else:
            if not any(name in entry.engines for entry in bundle.manifest.targets):
                absent[name] = "the bundle contains no target for it"
    if len(absent) == len(ENGINES):
        raise EngineError("; ".join(absent.values()))
    return tuple(name for name in ENGINES if name not in absent), absent


def _lengths(texts: BenchTexts, names: Sequence[str], full: bool) -> tuple[str, ...]:
    for name in names:
        if name not in texts.lengths:
            raise InputError(f"Unknown text length '{name}'. Choose from: {', '.join(texts.lengths)}.")
    return tuple(name for name in texts.lengths if name in names or (not names and (full or name != "mixed")))


def _threads(counts: Sequence[int], full: bool) -> tuple[int, ...]:
    available = available_threads()
    counts = counts or ([available, 1] if full else [available])
    if min(counts) < 1:
        raise InputError(f"`threads` must be at least 1, got {min(counts)}.")
    return tuple(sorted(set(counts), reverse=True))


def _batch_tokens(budgets: Sequence[int], full: bool) -> tuple[int, ...]:
    if budgets and not full:
        raise InputError("`batch_tokens` are compared in a full bench only. Add `full=True`.")
    if budgets and min(budgets) < 1:
        raise InputError(f"`batch_tokens` must be at least 1, got {min(budgets)}.")
    return tuple(dict.fromkeys(budgets)) or BATCH_TOKENS


def _baseline_plan(bundle: Bundle, folder: str | Path | None, names: Sequence[str]) -> "BaselinePlan | None":
    """The baselines to run.

    Raises:
        InputError: there are no such baselines, the bundle lacks the full model, or its checkpoint is not available.
    """
    if folder is None:
        if names:
            raise InputError("`baseline` needs `baselines`, a folder such as benchmarks/baselines.")
        return None
    entries = read_baselines(Path(folder))
    known = {entry.name for entry in entries}
    for name in names:
        if name not in known:
            raise InputError(f"{folder} has no baseline '{name}'. Choose from: {', '.join(sorted(known))}.")
    manifest = bundle.manifest
    full = Target(manifest.depth, manifest.width)
    if manifest.projection != "prefix" or full not in [entry.target for entry in manifest.targets]:
        raise InputError(f"Baselines run the full model, which {bundle.path} does not contain. Export {full} too.")
    from ese_deploy.backbones.bundled import checkpoint_of
    from ese_deploy.bench.baseline_runs import BaselinePlan

    chosen = tuple(entry for entry in entries if not names or entry.name in names)
    return BaselinePlan(Path(folder), chosen, checkpoint_of(bundle).location.path)
