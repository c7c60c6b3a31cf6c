"""``ese-deploy report``."""

from pathlib import Path
from typing import Annotated

import typer

from ese_deploy.cli.console import JsonOption, print_json
from ese_deploy.cli.tables import extra_error
from ese_deploy.errors import InputError

__all__ = ["report"]

_KINDS = (".html", ".md", ".png", ".svg")


def report(
    results: Annotated[list[Path], typer.Argument(help="What ese-deploy bench wrote; several side by side.")],
    out: Annotated[Path, typer.Option(help="An .html or .md file; .png or .svg: the plots alone, into its folder.")],
    note: Annotated[Path | None, typer.Option(help="A text file that the report opens with.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a report of what a bench measured: one HTML file, or Markdown with pictures."""
    with extra_error("bench"):
        from ese_deploy.bench.results import check_comparable, read_results
        from ese_deploy.report.html import write_html
        from ese_deploy.report.markdown import write_markdown, write_plots
    if out.suffix not in _KINDS:
        raise InputError(f"{out} is not one of {', '.join(_KINDS)}, which a report can be")
    found = [read_results(path) for path in results]
    for path, one in zip(results[1:], found[1:], strict=True):
        check_comparable(found[0], one, (str(results[0]), str(path)))
    for path, one in zip(results, found, strict=True):
        if not one.groups:
            raise InputError(f"{path} holds no group that is done; let the bench go on: ese-deploy bench")
    names = _names(results)
    text = _read_note(note) if note else ""
    if out.suffix == ".html":
        write_html(out, found, names, text)
    elif out.suffix == ".md":
        write_markdown(out, found, names, text)
    elif len(found) > 1:
        raise InputError("plots are of one results file; name one, or write .html or .md")
    else:
        write_plots(out.with_suffix(""), found[0], out.suffix.removeprefix("."))
        out = out.with_suffix("")
    if json:
        print_json({"report": str(out), "results": names})
        return
    print(f"wrote {out}")


def _names(paths: list[Path]) -> list[str]:
    """The files' stems, or their paths where stems repeat."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read_note(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
