"""The report as Markdown, with plots as PNG files in a folder beside it."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ese_deploy.bench.results import Results
from ese_deploy.report.bench_plots import PLOTS, draw
from ese_deploy.report.findings import agreement_lines, headlines, losses, measured_on, noise_line, not_measured
from ese_deploy.report.tables import Table, result_tables, side_by_side
from ese_deploy.system.files import explain_os_error, write_atomic

__all__ = ["write_markdown", "write_plots"]


def write_markdown(path: Path, results: Sequence[Results], names: Sequence[str], note: str = "") -> None:
    """Write the report; plots go into a folder beside it, named like it.

    Args:
        path: a ``.md`` file.
        results: the results; several are compared side by side.
        names: a name for each.
        note: text at the top of the report.

    Raises:
        InputError: a file cannot be written.
    """
    lines = [f"# Throughput: {', '.join(dict.fromkeys(one.name for one in results))}", ""]
    if note:
        lines += [note.strip(), ""]
    if len(results) > 1:
        lines += _bullets(agreement_lines(results, names))
        lines += _table(side_by_side(results, names))
    for position, (one, name) in enumerate(zip(results, names, strict=True)):
        folder = path.with_suffix("") if position == 0 else path.with_name(f"{path.stem}-{position + 1}")
        if len(results) > 1:
            lines += [f"# {name}", ""]
        lines += _bullets([f"**{head.figure}** {head.what} ({head.detail})" for head in headlines(one)])
        lost, noise = losses(one), noise_line(one)
        lines += [noise, ""] if noise else []
        lines += ["## Where a baseline is faster", "", *_bullets(lost)] if lost else []
        for key, title, caption in write_plots(folder, one):
            lines += [f"![{title}]({quote(folder.name)}/{key}.png)", "", f"*{title}. {caption}*", ""]
        for table in result_tables(one):
            lines += _table(table)
        lines += ["## Measured on", "", *_bullets([f"{key}: {value}" for key, value in measured_on(one)])]
        lines += ["## Not measured", "", *_bullets(not_measured(one))]
    with write_atomic(path) as file:
        file.write(("\n".join(lines).rstrip() + "\n").encode())


def write_plots(folder: Path, results: Results, kind: str = "png") -> list[tuple[str, str, str]]:
    """Draw every plot that the results contain data for.

    Returns:
        Name, title and caption of each that was drawn.

    Raises:
        InputError: a file cannot be written.
    """
    with explain_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = []
    for plot in PLOTS:
        path = folder / f"{plot.key}.{kind}"
        if draw(path, plot, results):
            found.append((plot.key, plot.title, plot.caption))
        else:
            path.unlink()
    return found


def _bullets(lines: Sequence[str]) -> list[str]:
    return [*(f"- {line}" for line in lines), ""] if lines else []


def _table(table: Table) -> list[str]:
    head = "| " + " | ".join(column.title for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|"
    rows = ["| " + " | ".join(_escape(cell.text) for cell in row) + " |" for row in table.rows]
    return [f"## {table.title}", "", table.note, "", head, rule, *rows, ""]


def _escape(text: str) -> str:
    return text.replace("|", "\\|") or " "
