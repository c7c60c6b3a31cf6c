"""``python -m benchmarks.choose budgets|predictions|busy``: checks of ``ese-deploy choose``."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.choose.bundles import BUNDLES, make_bundle
from benchmarks.choose.busy import busy_runs
from benchmarks.choose.predictions import LATENCY, MEMORY, Prediction, predictions
from ese_deploy.cli.app import main
from ese_deploy.errors import CheckFailedError, InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import describe_machine, library_versions

app = typer.Typer(add_completion=False, help="Check what choose recommends, predicts and says.", no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Make bundles in this folder, or take those that it has.")]
Out = Annotated[Path | None, typer.Option(help="Write the results to this .json file.")]


@app.command()
def budgets(
    work: Work,
    bundle: Annotated[list[str] | None, typer.Option(help=f"Only these of {', '.join(BUNDLES)}.")] = None,
    out: Out = None,
) -> None:
    """Ask for 50 budgets of each of ten bundles, and check each answer."""
    from benchmarks.choose.budgets import answers, measure_roughly

    os.environ["ESE_DEPLOY_CACHE"] = str((work / "cache").resolve())
    rows: list[dict[str, Any]] = []
    for name in _names(bundle):
        found = list(answers(make_bundle(name, work), measure_roughly))
        wrong = [
            {"budget": one.budget, "target": one.target, "problems": one.problems} for one in found if one.problems
        ]
        fits = sum(one.target is not None for one in found)
        warned = sum("Warning:" in one.said for one in found)
        rows.append({"bundle": name, "budgets": len(found), "fit": fits, "with_warning": warned, "wrong": wrong})
        print(
            f"{name}: {len(found)} budgets, {fits} have a target ({warned} with a warning), {len(wrong)} wrong answers"
        )
    _write(out, "budgets", rows)
    if failures := [f"{row['bundle']}: {one}" for row in rows for one in row["wrong"]]:
        raise CheckFailedError(f"{len(failures)} answers are wrong", failures)


@app.command(name="predictions")
def compare(
    work: Work,
    bundle: Annotated[list[str] | None, typer.Option(help="Only these: names in WORK, or folders of bundles.")] = None,
    processes: Annotated[int, typer.Option(help="Use each choice in so many new processes.")] = 3,
    out: Out = None,
) -> None:
    """Compare the predicted latency and memory of each choice with what a new process takes."""
    names = bundle or ["published", "aligned", "int8", "tiny"]
    folders = [make_bundle(name, work) if name in BUNDLES else Path(name) for name in names]
    found: list[Prediction] = []
    print(_row("bundle", "target", "p50, ms", "off", "MB", "off", "busy"))
    for one in predictions(folders, processes):
        found.append(one)
        latency = f"{one.predicted_latency * 1e3:.3f} > {one.latency * 1e3:.3f}"
        memory = f"{one.predicted_memory / 1e6:.1f} > {one.memory / 1e6:.1f}"
        busy = "no" if one.quiet else f"{max(one.busy_while_predicted, one.busy_while_used):.1f} cores"
        off = (f"{one.latency_off:+.1%}", f"{one.memory_off:+.1%}")
        print(_row(one.bundle, one.target, latency, off[0], memory, off[1], busy))
    quiet = [one for one in found if one.quiet]
    fits = sum(abs(one.memory_off) <= MEMORY for one in found)
    close = sum(abs(one.latency_off) <= LATENCY for one in quiet)
    print(f"Memory within {MEMORY:.0%}: {fits} of {len(found)}.")
    print(f"Latency within {LATENCY:.0%}: {close} of {len(quiet)} that were measured on a quiet machine.")
    _write(out, "predictions", [one.facts() for one in found])
    failures = [
        f"{one.bundle} {one.target}: latency {one.latency_off:+.1%}, memory {one.memory_off:+.1%}"
        for one in found
        if not one.holds
    ]
    if failures:
        raise CheckFailedError(f"{len(failures)} of {len(found)} predictions do not hold", failures)


@app.command()
def busy(
    work: Work,
    bundle: Annotated[str, typer.Option(help="A name in WORK, or the folder of a bundle.")] = "tiny",
    runs: Annotated[int, typer.Option(help="How often to choose.")] = 20,
    out: Out = None,
) -> None:
    """Keep one core busy, and check that every choice says so and stores nothing."""
    folder = make_bundle(bundle, work) if bundle in BUNDLES else Path(bundle)
    rows = []
    for said, stored in busy_runs(folder, runs):
        rows.append({"said": said, "stored": stored})
        print(said or "it said nothing")
    _write(out, "busy", rows)
    right = sum(bool(row["said"]) and not row["stored"] for row in rows)
    print(f"{right} of {len(rows)} runs said that the machine was busy, and stored no figure.")
    if right < len(rows):
        raise CheckFailedError(f"{len(rows) - right} runs did not say it, or stored their figures")


def _row(bundle: str, target: str, latency: str, latency_off: str, memory: str, memory_off: str, busy: str) -> str:
    return f"{bundle:12}{target:30}{latency:>18}{latency_off:>8}{memory:>16}{memory_off:>8}  {busy}"


def _names(wanted: list[str] | None) -> list[str]:
    if unknown := [name for name in wanted or [] if name not in BUNDLES]:
        raise InputError(f"Unknown bundle '{unknown[0]}'. Choose from: {', '.join(BUNDLES)}.")
    return wanted or list(BUNDLES)


def _write(path: Path | None, what: str, rows: list[dict[str, Any]]) -> None:
    if path is None:
        return
    date = time.strftime("%Y-%m-%d")
    document = {"what": what, "date": date, "machine": str(describe_machine()), "versions": library_versions()}
    with write_atomic(path) as file:
        file.write(json.dumps({**document, "rows": rows}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], app))
