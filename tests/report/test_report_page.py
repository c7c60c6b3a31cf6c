"""The HTML report as a person sees it: its answer, what it can hold, and what a browser makes of it."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from helpers.bench_results import depth_rows, make_group, make_results, make_row
from helpers.chromium import open_page

from ese_deploy.bench.results import Results, write_results
from ese_deploy.bundle.manifest import Quality
from ese_deploy.errors import InputError
from ese_deploy.report import report
from ese_deploy.report.answer import answer
from ese_deploy.report.chart import chart

WIDTHS = (390, 768, 1280)
STS = Quality(metric="sts_spearman", data="faq", data_sha256="c" * 64, n=400, value=0.8, share_of_full=1.0)
STEP = {"rate": 50, "requests": 1000, "statuses": {"200": 990, "429": 10}, "texts_per_second": 49.5, "p50_ms": 3.2}
SERVED = {
    "plan": {"model": "tiny", "texts": 1, "words": 16, "seconds": 20},
    "steps": [{**STEP, "p99_ms": 9.1, "late_ms": 14}],
}


def scored(shares: dict[str, float]) -> Results:
    """Results whose targets have these shares of the full model's quality."""
    quality = {
        target: [
            msgspec.structs.replace(
                STS,
                value=0.8 * share,
                share_of_full=share,
                interval=(0.8 * share - 0.02, 0.8 * share + 0.03),
                difference=(0.8 * share - 0.82, 0.8 * share - 0.78),
            )
        ]
        for target, share in shares.items()
    }
    return msgspec.structs.replace(make_results(), quality=quality)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Results of a bench, of an evaluation of the same bundle, and of a load on a server."""
    folder = tmp_path_factory.mktemp("files")
    write_results(folder / "bench.json", scored({"1x384": 0.7, "3x384": 0.96, "3x128": 0.92, "6x384": 1.0}))
    targets = [{"target": name, "quality": [STS]} for name in ("1x384", "6x384")]
    found = {"model": "tiny", "targets": targets, "asymmetric": [], "baselines": [{"name": "BM25", "figures": [STS]}]}
    (folder / "evaluation.json").write_bytes(msgspec.json.encode(found))
    (folder / "served.json").write_text(json.dumps(SERVED))
    return [folder / name for name in ("bench.json", "evaluation.json", "served.json")]


@pytest.fixture(scope="module")
def page(files: list[Path]) -> Path:
    return report(files, files[0].with_name("report.html"))


def test_the_answer_is_the_fastest_target_of_each_budget() -> None:
    found = answer(scored({"1x384": 0.91, "3x384": 0.96, "6x384": 1.0}))
    assert [one.point and one.point.target for one in found.recommendations] == ["6x384", "3x384", "1x384"]
    assert [one.times and round(one.times, 1) for one in found.recommendations] == [None, 1.6, 3.0]
    assert found.load == "Other processes used 0.25 cores while it was measured."
    assert all(point.front for point in found.points)
    poor = answer(scored({"1x384": 0.3, "3x384": 0.5, "6x384": 1.0}))
    assert [one.same for one in poor.recommendations] == [False, True, True]


def test_a_prefix_has_the_latency_of_its_depth_and_says_so() -> None:
    point = next(one for one in answer(scored({"3x128": 0.9, "6x384": 1.0})).points if one.target == "3x128")
    assert point.of == "3x384" and "latency measured at 3x384" in point.words
    assert point.words.startswith("quality 72.0 ±3.0 (90% of full), ")


def test_noise_stands_beside_the_figure_and_what_is_not_seen_is_no_share() -> None:
    rows = [*depth_rows(batch=None), make_row("3x128", seconds=[1.0, 9.0, 1.0, 9.0, 9.0], batch=None)]
    results = make_results([make_group(rows, "latency", "query")])
    figure = msgspec.structs.replace(STS, share_of_full=1.22, difference=(-0.1, 0.3))
    found = answer(msgspec.structs.replace(results, quality={"3x128": [figure], "6x384": [STS]}))
    words = {point.target: point.words for point in found.points}
    assert "ms (noisy) on" in words["3x128"] and "(noisy)" not in words["6x384"]
    assert "no difference from full seen" in words["3x128"] and "122%" not in words["3x128"]


def test_without_latency_or_quality_the_answer_says_what_to_run() -> None:
    assert "ese-deploy bench" in answer(make_results([make_group(depth_rows())])).lacking
    assert "ese-deploy evaluate BUNDLE --save" in answer(msgspec.structs.replace(make_results(), quality={})).lacking
    assert chart(answer(msgspec.structs.replace(make_results(), quality={})), "r0") == ""


def test_every_point_of_the_chart_can_be_selected_and_those_that_are_recommended_are_labelled() -> None:
    found = answer(scored({f"{depth}x{dim}": 0.9 for depth in (1, 3, 6) for dim in range(8, 28, 2)} | {"6x384": 1.0}))
    drawn = chart(found, "r0")
    assert drawn.count('tabindex="0"') == drawn.count("<title>") == len(found.points) == 31
    assert ">6x384</text>" in drawn
    one = chart(replace(found, points=found.points[:1]), "r0")
    assert "nan" not in one and one.count("<title>") == 1


def test_one_report_holds_results_of_bench_evaluate_and_serve(page: Path, files: list[Path], tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    for part in ("Quality on faq", "BM25, no model", "Server under load: tiny", "Comparison with baselines", "Answer"):
        assert part in text
    assert text.index(">Answer</h2>") < text.index(">Evidence</h2>") < text.index(">Quality on faq</h2>")
    alone = report(files[1], tmp_path / "alone.html").read_text("utf-8")
    assert "Report of tiny" in alone and "Quality on faq" in alone
    with pytest.raises(InputError, match=r"evaluation\.json is no result of a bench\. Only an \.html report"):
        report(files, tmp_path / "r.md")
    (tmp_path / "broken.json").write_text('{"plan": {}, "steps": 3}')
    with pytest.raises(InputError, match=r"broken\.json cannot be read as results"):
        report(tmp_path / "broken.json", tmp_path / "r.html")


# For each table, how far right its first number begins; and whether anything is cut.
LAYOUT = """(() => {
  const starts = Array.from(document.querySelectorAll("table"), table => {
    const cell = table.querySelector("tbody td.n");
    return cell ? cell.getBoundingClientRect().left : 0;
  });
  const boxes = Array.from(document.querySelectorAll(".scroll"));
  const cut = boxes.filter(one => one.scrollWidth > one.clientWidth + 1).length;
  return JSON.stringify({starts, cut, wide: document.documentElement.scrollWidth});
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_numbers_of_each_table_are_in_view_and_nothing_is_cut(
    page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    with open_page(page.as_uri(), tmp_path, width, dark) as tab:
        found = json.loads(tab.run(LAYOUT))
        assert len(found["starts"]) >= 8
        assert max(found["starts"]) < width
        assert found["wide"] <= width
        assert found["cut"] == 0
        tab.run("document.querySelector('.point').focus()")
        assert "quality" in tab.run("document.querySelector('.chart output').textContent")


def axe_source() -> str:
    """The script of axe-core, as a package for Playwright contains it; skips the test without it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("needs axe-playwright-python, which contains axe-core")
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_axe_has_no_serious_finding(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    source = axe_source()
    with open_page(page.as_uri(), tmp_path, width, dark) as tab:
        tab.run(source + "; 0")
        found = json.loads(tab.run("axe.run().then(found => JSON.stringify(found.violations))"))
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], node["html"][:160]) for one in serious for node in one["nodes"]] == []
