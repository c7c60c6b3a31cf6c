"""Writes the results file, the tables of a page, and the plots."""

import re
from pathlib import Path

from benchmarks.quality.records import write_json
from benchmarks.quality.results import Results, RowResult, collect
from benchmarks.quality.sweep import Sweep
from benchmarks.quality.tables import TABLES, cells_of, mean_of_sts, on_dev
from ese_deploy.errors import InputError
from ese_deploy.report import heat_map
from ese_deploy.system.files import write_atomic
from ese_deploy.texts.reader import stem_of

__all__ = ["fill_page", "write_tables"]

_BASE = "espresso"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Grid = dict[tuple[str, str], float]


def write_tables(sweep: Sweep, results: Path, docs: Path, images: Path) -> None:
    """Collect the records, write the results, fill the tables of the page, and draw the heat maps.

    Raises:
        InputError: the page names an unknown table.
    """
    found = collect(sweep)
    write_json(results, found)
    if docs.is_file():
        page = fill_page(docs.read_text("utf-8"), found)
        with write_atomic(docs) as file:
            file.write(page.encode())
    _draw(found, images)


def fill_page(page: str, results: Results) -> str:
    """Put tables between the marks ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
        InputError: the page names an unknown table.
    """

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in TABLES:
            raise InputError(f"The page names an unknown table '{name}'. Choose one of: {', '.join(TABLES)}.")
        return f"{begin}\n{TABLES[name](results)}\n\n{end}"

    return _BLOCK.sub(fill, page)


def _draw(results: Results, images: Path) -> None:
    """A heat map for each finalist with a full grid, and the gain of espresso over the best other variant."""
    rows = [row for row in results.rows if row.row.stage == "finalist" and not results.protocol.whole(row.row).cell]
    runs = [run for row in rows for run in row.runs]
    tested = bool(runs) and all(run.test for run in runs)
    grids = {row.row.name: grid for row in rows if (grid := _grid(results, row, tested))}
    if not grids:
        return
    images.mkdir(parents=True, exist_ok=True)
    sets = "the test sets" if tested else stem_of(Path(results.protocol.data.dev))
    for name, grid in grids.items():
        title = f"{name}: Spearman x 100, mean of {sets}" if tested else f"{name}: Spearman x 100 on {sets}"
        heat_map(images / f"quality_{name.replace(' ', '_').replace(',', '')}.png", grid, title, "depth", "dimensions")
    kin = {_BASE}
    for row in rows:  # a row follows the row that it changes
        if row.row.of in kin:
            kin.add(row.row.name)
    others = [grid for name, grid in grids.items() if name not in kin]
    if _BASE in grids and others:
        gain = {cell: value - max(grid[cell] for grid in others) for cell, value in grids[_BASE].items()}
        heat_map(images / "quality_gain.png", gain, f"{_BASE} minus the best of the others", "depth", "dimensions")


def _grid(results: Results, row: RowResult, tested: bool) -> Grid:
    cells = cells_of(results, row, mean_of_sts(results) if tested else on_dev(results))
    depths, dims = results.protocol.depths, results.protocol.dims
    return {
        (str(depth), str(dim)): cells[f"{depth}x{dim}"][0]
        for depth in depths
        for dim in dims
        if f"{depth}x{dim}" in cells
    }
