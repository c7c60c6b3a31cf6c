"""``ese-deploy report``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.cli.console import JsonOption, print_json
from ese_deploy.errors import InputError

__all__ = ["EXAMPLES", "report"]

EXAMPLES = (
    "ese-deploy report bench.json --out report.html",
    "ese-deploy report bench.json evaluation.json --out report.html",
    "ese-deploy report before.json after.json --out compare.html",
)


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Files that ese-deploy bench wrote. Several are compared side by side. An .html report also "
            "shows files of ese-deploy evaluate --out and of the load generator in benchmarks/serve.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Write an .html or .md report. With .png or .svg, write the plots alone into a folder of that name.",
        ),
    ],
    note: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show the text of this file at the top of the report.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a report of results: one HTML file, Markdown with plots, or the plots alone."""
    from ese_deploy.report import report as write

    written = write(results, out, note=_read_note(note) if note else "")
    if json:
        print_json({"report": str(written), "results": [str(path) for path in results]})
        return
    print(f"Wrote {written}")


def _read_note(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
