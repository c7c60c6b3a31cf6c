"""``ese-deploy bench``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ese_deploy.cli.console import (
    BundleArgument,
    EnginesOption,
    JsonOption,
    TargetOption,
    TextFieldOption,
    check_file,
    print_json,
    print_table,
    progress_bars,
    split,
)
from ese_deploy.target import parse_range

if TYPE_CHECKING:
    from ese_deploy.bench.results import Group, Results

__all__ = ["EXAMPLES", "OLD_OPTIONS", "bench"]

OLD_OPTIONS = {"targets": "target", "peers": "baselines", "peer": "baseline"}
EXAMPLES = (
    "ese-deploy bench exports/minilm",
    "ese-deploy bench exports/minilm --full --baselines benchmarks/baselines --out full.json",
)


def bench(
    bundle: BundleArgument,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Write the results to this JSON file, or resume the interrupted run in it."),
    ] = Path("bench.json"),
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="Measure everything, which takes several minutes, or the essentials, which takes about one.",
        ),
    ] = False,
    engine: EnginesOption = None,
    target: TargetOption = None,
    threads: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Use these numbers of threads, for example 2,1. Default: every core that this process may use, and "
            "with --full also 1.",
        ),
    ] = "",
    lengths: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Embed texts of these lengths: query, sentence, passage, mixed. Default: all, with mixed in --full "
            "only.",
        ),
    ] = "",
    batch_tokens: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="Compare these token budgets in --full, for example 128,512. Default: 128 to 4096."
        ),
    ] = "",
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Embed the texts of this file: .txt, .jsonl, .tsv or .csv. Default: the sample corpus."
        ),
    ] = None,
    text_field: TextFieldOption = "text",
    baselines: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run the baselines of this folder too, such as benchmarks/baselines."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", metavar="NAME", help="Run this baseline only. Repeat the option for several. Default: all."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace results that are already in the file.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure throughput, latency, memory and start time of the targets of a bundle.

    Targets and baselines take turns until their medians are stable. The machine's own rate of matrix products (peak
    GEMM) is measured in the same rounds.
    """
    from ese_deploy.bench import bench as run

    check_file(out)

    with progress_bars() as progress:
        results = run(
            bundle,
            out,
            full=full,
            targets=split(target),
            engines=engine or (),
            threads=parse_range(threads, "threads") if threads else (),
            lengths=split([lengths]) if lengths else (),
            batch_tokens=parse_range(batch_tokens, "batch-tokens") if batch_tokens else (),
            texts=texts,
            text_field=text_field,
            baselines=baselines,
            baseline=baseline or (),
            force=force,
            progress=progress,
        )
    if json:
        print_json(results)
        return
    for group in results.groups:
        if group.study == "depth":
            _show(group, results)
    print(f"\nWrote {out}. Make a report of it with: ese-deploy report {out} --out {out.with_suffix('.html')}")


def _show(group: "Group", results: "Results") -> None:
    from ese_deploy.bench.results import reference_row
    from ese_deploy.bench.timing import ratio
    from ese_deploy.report.tables import batching

    several = len(results.engines) > 1
    reference = reference_row(group, results)
    latency = group.kind == "latency"
    rows = []
    for row in group.rows:
        times = ratio(row.timing, reference.timing) if reference else None
        rows.append(
            [
                f"{row.name}, {row.engine}" if several and not row.is_baseline else row.name,
                row.size,
                row.dtype,
                batching(row),
                f"{row.timing.percentiles['p50'] * 1e3:.2f}"
                if latency
                else f"{row.timing.rate(results.texts[group.length].texts):.0f}",
                f"{times.value:.2f}" if times else "",
                f"{times.low:.2f}-{times.high:.2f}" if times else "",
                f"{row.timing.rate(row.operations) / 1e9:.0f}",
                ("noisy" if row.timing.noisy else "") if row.counted else "other vectors",
            ]
        )
    unit = "ms, p50 " if latency else "texts/s "
    columns = ["contender", "target", "dtype", "batch", unit, "x full fp32 ", "quartiles ", "GFLOP/s ", ""]
    print_table(columns, rows, f"{group.kind}: {group.length} texts, {group.threads} threads, {group.rounds} rounds")
