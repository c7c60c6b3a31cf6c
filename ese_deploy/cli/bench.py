"""``ese-deploy bench``."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.cli.console import (
    JsonOption,
    check_file,
    check_measured_engine,
    print_json,
    print_table,
    progress_bars,
    say,
)
from ese_deploy.cli.tables import extra_error
from ese_deploy.engines import ENGINES, load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.system.threads import available_threads
from ese_deploy.target import Target, parse_range

if TYPE_CHECKING:
    from ese_deploy.bench.baseline_runs import PeerPlan
    from ese_deploy.bench.plan import Request
    from ese_deploy.bench.results import Results
    from ese_deploy.bench.texts import BenchTexts

__all__ = ["bench"]


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option(help="Where results go; a run that was cut off goes on there.")] = Path(
        "bench.json"
    ),
    full: Annotated[bool, typer.Option("--full/--quick", help="For a report, or about a minute.")] = False,
    engine: Annotated[list[str], typer.Option("--engine", help="Without it, every engine installed here.")] = [],  # noqa: B006, typer copies it
    targets: Annotated[str, typer.Option(help="Such as 3x128,6x384; without it, all.")] = "",
    threads: Annotated[str, typer.Option(help="Such as 2,1; without it, all that are given, and in --full 1.")] = "",
    lengths: Annotated[
        str, typer.Option(help="Of query, sentence, passage, mixed; without it, all, but mixed in --full alone.")
    ] = "",
    batch_tokens: Annotated[str, typer.Option(help="Token budgets beside the default, in --full: 128,512.")] = "",
    texts: Annotated[Path | None, typer.Option(help="Your own: .txt or .jsonl; without it, the collection.")] = None,
    text_field: Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")] = "text",
    peers: Annotated[Path | None, typer.Option(help="Run the peers of this folder too: benchmarks/baselines.")] = None,
    peer: Annotated[list[str], typer.Option("--peer", help="Of the peers only this; by name, repeatable.")] = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Replace results that are complete.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure throughput, latency, memory and start of a bundle's targets, beside the machine's own limit."""
    check_file(out)
    with extra_error("bench"):
        from ese_deploy.bench.grid import new_results, run_bench, same_question
        from ese_deploy.bench.results import read_results
        from ese_deploy.bench.texts import bench_texts
    opened = open_bundle(bundle)
    found = bench_texts(texts, text_field)
    engines, absent = _engines(opened, engine)
    request = _request(opened, full, engines, targets, threads, found, lengths, batch_tokens)
    taking_part = _peer_plan(opened, peers, peer)
    restricted = _restricted(
        engine=engine, targets=targets, threads=threads, lengths=lengths, budgets=batch_tokens, peer=peer
    )
    fresh = new_results(opened, request, found, absent, restricted)
    results = fresh
    if out.exists() and not force:
        held = read_results(out)
        if held.complete:
            raise InputError(f"{out} is complete already; name another file, or replace it with --force")
        if not same_question(held, fresh):
            raise InputError(f"{out} is a run of something else that was cut off; name another file, or use --force")
        if held.groups and bool(held.peers) != (taking_part is not None):
            begun = "with" if held.peers else "without"
            raise InputError(f"{out} was begun {begun} --peers; go on {begun} it, name another file, or use --force")
        say(f"going on with {out}: {len(held.groups)} groups are done")
        results = held
    with progress_bars() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the results say how many texts were cut
        results = run_bench(opened, request, found, results, out, taking_part, progress)
    for one in results.peers:
        if one.reason:
            say(f"without {one.reason}")
    if json:
        print_json(results)
        return
    _show(results)
    print(f"\nwrote {out}; make a report of it with: ese-deploy report {out} --out {out.with_suffix('.html')}")


def _engines(bundle: Bundle, names: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The engines that are to run, and why others do not.

    Raises:
        InputError: one that was named has a suffix.
        EngineError: one that was named is missing, or none is installed.
    """
    if names:
        for name in names:
            check_measured_engine(name)
        return tuple(dict.fromkeys(names)), {}
    here, absent = [], {}
    for name in ENGINES:
        try:
            load_engine(name)
        except EngineError as error:
            absent[name] = str(error)
            continue
        if any(name in entry.engines for entry in bundle.manifest.targets):
            here.append(name)
        else:
            absent[name] = "the bundle holds no target for it"
    if not here:
        raise EngineError("; ".join(absent.values()))
    return tuple(here), absent


def _request(
    bundle: Bundle,
    full: bool,
    engines: tuple[str, ...],
    targets: str,
    threads: str,
    texts: "BenchTexts",
    lengths: str,
    budgets: str,
) -> "Request":
    from ese_deploy.bench.plan import BUDGETS, Request, select_entries

    wanted = [Target.parse(item) for item in targets.split(",")] if targets else []
    quick = [name for name in texts.lengths if name != "mixed"]
    names = [item.strip() for item in lengths.split(",")] if lengths else list(texts.lengths) if full else quick
    for name in names:
        if name not in texts.lengths:
            raise InputError(f"there are no texts of the length '{name}'; choose of {', '.join(texts.lengths)}")
    given = available_threads()
    counts = parse_range(threads, "threads") if threads else [given, 1] if full else [given]
    if min(counts) < 1:
        raise InputError(f"threads must be at least 1, got {min(counts)}")
    if budgets and not full:
        raise InputError("--batch-tokens compares budgets in a full bench only; add --full")
    tokens = parse_range(budgets, "batch-tokens") if budgets else list(BUDGETS)
    if min(tokens) < 1:
        raise InputError(f"batch-tokens must be at least 1, got {min(tokens)}")
    return Request(
        effort="full" if full else "quick",
        engines=engines,
        entries=select_entries(bundle, wanted, engines),
        lengths=tuple(name for name in texts.lengths if name in names),
        threads=tuple(sorted(set(counts), reverse=True)),
        budgets=tuple(dict.fromkeys(tokens)),
    )


def _peer_plan(bundle: Bundle, folder: Path | None, names: list[str]) -> "PeerPlan | None":
    """Who else runs.

    Raises:
        InputError: there are no such peers, the bundle lacks the full model, or its checkpoint is not here.
    """
    from ese_deploy.bench.baseline_runs import PeerPlan
    from ese_deploy.bench.baselines import read_peers

    if folder is None:
        if names:
            raise InputError("--peer needs --peers FOLDER, such as benchmarks/baselines")
        return None
    entries = read_peers(folder)
    known = {entry.name for entry in entries}
    for name in names:
        if name not in known:
            raise InputError(f"{folder} has no peer '{name}'; it has {', '.join(sorted(known))}")
    manifest = bundle.manifest
    full = Target(manifest.depth, manifest.width)
    if manifest.projection != "prefix" or full not in [entry.target for entry in bundle.manifest.targets]:
        raise InputError(f"peers run the full model, which {bundle.path} lacks; export {full} too")
    with extra_error("export"):
        from ese_deploy.backbones.bundled import checkpoint_of
    checkpoint = checkpoint_of(bundle)
    chosen = tuple(entry for entry in entries if not names or entry.name in names)
    return PeerPlan(folder, chosen, checkpoint.location.path)


def _restricted(**options: object) -> str:
    return ", ".join(f"{name} {_words(value)}" for name, value in options.items() if value)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _show(results: "Results") -> None:
    """Print the rows of every group that varies the depth."""
    from ese_deploy.bench.results import OWN, median_rate, ratio, reference_row

    several = len(results.engines) > 1

    for group in results.groups:
        if group.study != "depth":
            continue
        reference = reference_row(group, results)
        single = group.kind == "latency"
        texts = results.texts[group.length]
        rows = []
        for row in group.rows:
            times = ratio(row, reference) if reference else None
            rate = f"{row.percentiles['p50'] * 1e3:.2f}" if single else f"{median_rate(texts.texts, row.seconds):.0f}"
            rows.append(
                [
                    f"{row.who}, {row.engine}" if several and row.who == OWN else row.who,
                    row.target,
                    row.dtype,
                    row.setting,
                    rate,
                    f"{times.value:.2f}" if times else "",
                    f"{times.low:.2f}-{times.high:.2f}" if times else "",
                    f"{median_rate(row.operations, row.seconds) / 1e9:.0f}",
                    ("noisy" if row.noisy else "") if row.counted else "other vectors",
                ]
            )
        unit = "ms, p50 " if single else "texts/s "
        columns = ["who", "target", "dtype", "batches", unit, "x full fp32 ", "spread ", "GFLOP/s ", ""]
        title = f"{group.kind}: {group.length}, {group.threads} threads, {group.rounds} rounds"
        print_table(columns, rows, title)
