"""``ese-deploy plan-job``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.bulk.plan import JobPlan, PlannedSize, plan_job
from ese_deploy.cli.console import BundleArgument, JsonOption, ThreadsOption, print_json, print_table
from ese_deploy.engines import DEFAULT_ENGINE, ENGINES
from ese_deploy.errors import InputError

__all__ = ["plan"]

EXAMPLES = (
    "ese-deploy plan-job exports/minilm --target 3x128 --sample texts.jsonl",
    "ese-deploy plan-job exports/minilm --target 3x128 --texts 500M --cores 64 --price-per-core-hour 0.04",
)
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def plan(
    bundle: BundleArgument,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="DEPTHxDIM[:DTYPE]",
            help="Plan for this target, for example 3x128. Default: the deepest and widest fp32 target.",
        ),
    ] = None,
    texts: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Plan for these numbers of texts, for example 500k,20M.")
    ] = "1M,100M,10000M",
    cores: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Use this many cores. Default: those of this machine.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measure on the first 20,000 texts of this file. Default: the sample corpus."
        ),
    ] = None,
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="Read the text of a row of the sample from this field.")
    ] = "text",
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Measure on this engine: {', '.join(ENGINES)}. Default: {DEFAULT_ENGINE}."),
    ] = None,
    threads: ThreadsOption = None,
    price: Annotated[
        float | None,
        typer.Option("--price-per-core-hour", metavar="AMOUNT", help="Add the cost at this price."),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="NUMBER", help="Measure for this many seconds.")] = 10.0,
    json: JsonOption = False,
) -> None:
    """Plan a bulk job: core hours, time and storage, from a measurement on this machine."""
    found = plan_job(
        bundle,
        target,
        texts=[_number(item) for item in texts.split(",")],
        cores=cores,
        sample=sample,
        text_field=text_field,
        engine=engine,
        threads=threads,
        price_per_core_hour=price,
        seconds=seconds,
    )
    if json:
        print_json(found)
    else:
        _print(found)


def _number(text: str) -> int:
    item = text.strip()
    unit = item[-1:] if item[-1:] in _UNITS else ""
    try:
        return round(float(item.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise InputError(f"--texts '{text}' is not a number. Write for example 500k, 20M or 2G.") from None


def _print(plan: JobPlan) -> None:
    storage = [f"{name} " for name in _storage(plan.sizes[0])]
    columns = ["texts ", "core hours ", f"hours on {plan.cores} cores ", *storage]
    if plan.price_per_core_hour is not None:
        columns.append("cost ")
    print_table(columns, [_row(size) for size in plan.sizes])
    rate = f"{plan.texts_per_second:,.0f} texts/s of {plan.tokens_per_text:.0f} tokens on {plan.threads} threads"
    print(f"\ntarget {plan.target}: {rate}, {plan.machine}")
    for line in plan.assumptions:
        print(f"- {line}")


def _row(size: PlannedSize) -> list[str]:
    cost = [] if size.cost is None else [f"{size.cost:,.2f}"]
    return [f"{size.texts:,}", f"{size.core_hours:,.1f}", f"{size.hours:,.1f}", *_storage(size).values(), *cost]


def _storage(size: PlannedSize) -> dict[str, str]:
    return {name: f"{value / 1e9:,.1f} GB" for name, value in size.storage_bytes.items()}
