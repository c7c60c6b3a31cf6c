"""``ese-deploy verify``."""

import logging
from typing import Annotated

import typer

from ese_deploy.cli.console import (
    BundleArgument,
    EngineOption,
    JsonOption,
    PickleOption,
    print_json,
    print_table,
    progress_bars,
)
from ese_deploy.cli.tables import check_rows
from ese_deploy.engines import DEFAULT_ENGINE
from ese_deploy.errors import CheckFailedError
from ese_deploy.verify import verify as verify_bundle

__all__ = ["EXAMPLES", "verify"]

EXAMPLES = (
    "ese-deploy verify exports/minilm",
    "ese-deploy verify exports/minilm --engine openvino --save",
)

logger = logging.getLogger(__name__)


def verify(
    bundle: BundleArgument,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Compare with this checkpoint. Default: the one that the bundle names.",
        ),
    ] = None,
    engine: EngineOption = DEFAULT_ENGINE,
    save: Annotated[bool, typer.Option("--save", help="Write the results into the manifest of the bundle.")] = False,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Check the hash of every file of a bundle, and verify each target against PyTorch."""
    with progress_bars() as progress:
        report = verify_bundle(
            bundle, against=against, engine=engine, save=save, allow_pickle=allow_pickle, progress=progress
        )
    if json:
        print_json(
            [{"target": one.entry.name, "parity": one.parity, "failures": one.failures} for one in report.checks]
        )
    else:
        print_table(*check_rows(report.checks, report.bundle.manifest))
    if save:
        logger.info("Wrote the results of %s targets into %s.", len(report.checks), report.bundle.path)
    if not report.passed:
        raise CheckFailedError(f"{len(report.failures)} checks failed", report.failures)
