"""The report as one HTML file: no network requests, light and dark."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from ese_deploy.bench.results import Results
from ese_deploy.report.answer import Answer, answer
from ese_deploy.report.bench_plots import PLOTS, draw
from ese_deploy.report.chart import chart
from ese_deploy.report.files import EvaluationFile, ServeFile, evaluation_tables, serve_table, with_quality
from ese_deploy.report.findings import (
    Headline,
    agreement_lines,
    headlines,
    losses,
    measured_on,
    noise_line,
    not_measured,
)
from ese_deploy.report.plots import INK
from ese_deploy.report.tables import Table, result_tables, side_by_side
from ese_deploy.system.files import write_atomic

__all__ = ["write_html"]

_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class _Picture:
    key: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class _Part:
    """One results file in the page."""

    key: str
    name: str
    results: Results
    headlines: list[Headline]
    losses: list[str]
    noise: str
    pictures: list[_Picture]
    tables: list[Table]
    answer: Answer
    chart: Markup
    measured: list[tuple[str, str]]
    missing: list[str]


def write_html(
    path: Path,
    results: Sequence[Results],
    names: Sequence[str],
    note: str = "",
    evaluations: Sequence[EvaluationFile] = (),
    served: Sequence[ServeFile] = (),
) -> None:
    """Write the report.

    Args:
        path: an ``.html`` file.
        results: the results; several are compared side by side.
        names: a name for each.
        note: text at the top of the report; an empty line separates paragraphs.
        evaluations: results of ``evaluate``; their figures replace those of the bundle of the same name.
        served: results of loads on a server.

    Raises:
        InputError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    several = len(results) > 1
    results = [with_quality(one, evaluations) for one in results]
    models = [*(one.name for one in results), *(one.model for one in evaluations)]
    others = [table for place, one in enumerate(evaluations) for table in evaluation_tables(one, f"evaluation-{place}")]
    others += [serve_table(one, f"server-{place}") for place, one in enumerate(served)]
    page = environment.get_template(_TEMPLATE).render(
        parts=[_part(position, one, name) for position, (one, name) in enumerate(zip(results, names, strict=True))],
        together=side_by_side(results, names) if several else None,
        agreement=agreement_lines(results, names) if several else [],
        title=", ".join(dict.fromkeys(models)) or "a server",
        others=others,
        note=[paragraph.strip() for paragraph in note.split("\n\n") if paragraph.strip()],
    )
    with write_atomic(path) as file:
        file.write(page.encode())


def _part(position: int, results: Results, name: str) -> _Part:
    found = answer(results)
    return _Part(
        key=f"r{position}",
        name=name,
        results=results,
        headlines=headlines(results),
        losses=losses(results),
        noise=noise_line(results),
        pictures=_pictures(f"r{position}", results),
        tables=result_tables(results),
        answer=found,
        chart=chart(found, f"r{position}"),
        measured=measured_on(results),
        missing=not_measured(results),
    )


def _pictures(prefix: str, results: Results) -> list[_Picture]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for plot in PLOTS:
            path = Path(folder) / f"{plot.key}.svg"
            if draw(path, plot, results, text="none"):
                svg = _inline(path.read_text("utf-8"), f"{prefix}-{plot.key}", plot.title)
                found.append(_Picture(plot.key, plot.title, plot.caption, svg))
    return found


def _inline(svg: str, prefix: str, title: str) -> Markup:
    """An SVG as part of a page: unique ids, the page's text colour, as wide as its container."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="|href="|url\()#', rf"\1#{prefix}-", svg)
    svg = svg.replace(INK, "var(--soft)")
    label = f'role="img" aria-label="{escape(title)}"'
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"<svg\1\2", svg, count=1)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"<svg\1\2", svg, count=1)
    # matplotlib wrote it and escapes text.
    return Markup(svg.replace("<svg", f"<svg {label}", 1))
