from pathlib import Path

import pytest

from ese_deploy.errors import InputError
from ese_deploy.report import Front, heat_map, pareto_plot

CELLS = {(str(depth), str(dim)): depth * dim / 10 for depth in (1, 2, 3) for dim in (8, 16)}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_the_ink_reads_on_a_light_and_on_a_dark_page(page: str) -> None:
    from ese_deploy.report.plots import INK

    high, low = sorted((luminance(INK), luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) > 4


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_the_same_bytes_for_the_same_numbers(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        heat_map(path, CELLS, "title", "depth", "dim")
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert len(first) > 2000


def test_every_cell_of_a_heat_map_says_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    said: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, *a, **k: said.append(s) or text(self, x, y, s, *a, **k))
    heat_map(tmp_path / "a.png", CELLS, "title", "depth", "dim")
    assert said == [f"{value:.1f}" for value in CELLS.values()]


def test_one_cell_and_one_point_can_be_drawn(tmp_path: Path) -> None:
    heat_map(tmp_path / "a.png", {("1", "8"): 0.0}, "title", "depth", "dim")
    pareto_plot(tmp_path / "b.png", Front(["1x8"], [1], [1], frozenset(["1x8"]), frozenset(), ""), "t", "x", "y")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot write the plot .*a\.jpg: choose a \.png or \.svg file"):
        heat_map(tmp_path / "a.jpg", CELLS, "title", "depth", "dim")
    assert list(tmp_path.glob("a*")) == []
