"""The report as one function."""

from collections.abc import Sequence
from pathlib import Path

from ese_deploy.bench.results import check_comparable, read_results
from ese_deploy.errors import InputError
from ese_deploy.report.files import EvaluationFile, ServeFile, read_other

__all__ = ["report"]

_KINDS = (".html", ".md", ".png", ".svg")


def report(results: str | Path | Sequence[str | Path], out: str | Path, *, note: str = "") -> Path:
    """Make a report of results: one HTML file, Markdown with plots, or the plots alone.

    Args:
        results: a file of :func:`ese_deploy.bench.bench`, or several of the same model and texts to compare; in HTML
            also files of ``ese-deploy evaluate --out`` and of a load on a server.
        out: an ``.html`` or ``.md`` file; ``.png`` or ``.svg`` writes the plots into a folder of that name.
        note: text at the top of the report; an empty line separates paragraphs.

    Returns:
        The file, or the folder of plots.

    Raises:
        InputError: a file is missing, is not a results file, cannot be compared with the others, or cannot be written.

    Example:
        >>> report("bench.json", "report.html")
    """
    paths = [Path(one) for one in ([results] if isinstance(results, str | Path) else results)]
    out = Path(out)
    if out.suffix not in _KINDS:
        raise InputError(f"Cannot write a report to {out}. Choose a file of one of these types: {', '.join(_KINDS)}.")
    if not out.parent.is_dir():
        raise InputError(f"Cannot write {out}: the folder {out.parent} does not exist.")
    others = {path: other for path in paths if (other := read_other(path)) is not None}
    if others and out.suffix != ".html":
        raise InputError(f"{next(iter(others))} is no result of a bench. Only an .html report shows it: name one.")
    paths = [path for path in paths if path not in others]
    found = [read_results(path) for path in paths]
    for path, one in zip(paths[1:], found[1:], strict=True):
        check_comparable(found[0], one, (str(paths[0]), str(path)))
    for path, one in zip(paths, found, strict=True):
        if not one.groups:
            raise InputError(f"{path} contains no complete group. Resume the run with: ese-deploy bench")
    names = _names(paths)
    if out.suffix == ".html":
        from ese_deploy.report.html import write_html

        evaluations = [one for one in others.values() if isinstance(one, EvaluationFile)]
        served = [one for one in others.values() if isinstance(one, ServeFile)]
        write_html(out, found, names, note, evaluations, served)
        return out
    from ese_deploy.report.markdown import write_markdown, write_plots

    if out.suffix == ".md":
        write_markdown(out, found, names, note)
        return out
    if len(found) > 1:
        raise InputError("Plots show one results file. Choose one, or write an .html or .md report.")
    write_plots(out.with_suffix(""), found[0], out.suffix.removeprefix("."))
    return out.with_suffix("")


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' stems, or their paths where stems repeat."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
