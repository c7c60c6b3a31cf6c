"""``ese-deploy verify``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.cli.console import EngineOption, JsonOption, PickleOption, print_json, print_table, progress_bars, say
from ese_deploy.cli.tables import check_rows
from ese_deploy.errors import CheckFailedError
from ese_deploy.verify import verify as verify_bundle

__all__ = ["verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    against: Annotated[
        str | None, typer.Option(help="The checkpoint; without it, the one that the bundle names.")
    ] = None,
    engine: EngineOption = "onnxruntime",
    save: Annotated[bool, typer.Option("--save", help="Write the figures into the bundle's manifest.")] = False,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Check the hash of every file of a bundle, and compare every target with PyTorch."""
    with progress_bars() as progress:
        report = verify_bundle(
            bundle, against=against, engine=engine, save=save, allow_pickle=allow_pickle, progress=progress
        )
    if json:
        print_json(
            [
                {"target": check.entry.name, "parity": check.parity, "failures": check.failures}
                for check in report.checks
            ]
        )
    else:
        print_table(*check_rows(report.checks, report.bundle.manifest))
    if save:
        say(f"Saved the parity of {len(report.checks)} targets on {report.engine} in {report.bundle.path}")
    if not report.passed:
        raise CheckFailedError(f"{len(report.failures)} checks failed", report.failures)
