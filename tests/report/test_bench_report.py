import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest
from helpers.bench_results import depth_rows, make_group, make_results, make_row

from ese_deploy.bench.results import write_results
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.report import report
from ese_deploy.report.analysis import agreement, baseline_ratios, depth_lines, main_quality, share_of_peak
from ese_deploy.report.findings import agreement_lines, headlines, losses, noise_line, not_measured
from ese_deploy.report.html import write_html
from ese_deploy.report.markdown import write_markdown
from ese_deploy.report.tables import result_tables, side_by_side

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Capture = pytest.CaptureFixture[str]

# Appended to a copy of the page: what the browser made of it, where --dump-dom shows it.
PROBE = """<script>
const boxes = Array.from(document.querySelectorAll("figure svg"), svg => {
  const box = svg.getBoundingClientRect();
  const shapes = Array.from(svg.querySelectorAll("path, use, text")).filter(one => {
    const own = one.getBoundingClientRect();
    return own.width + own.height > 0 && getComputedStyle(one).visibility === "visible";
  });
  return [Math.round(box.width), Math.round(box.height), shapes.length];
});
const page = document.documentElement;
const hidden = Array.from(document.querySelectorAll("td.n")).filter(cell => {
  const box = cell.getBoundingClientRect(), shown = cell.closest(".scroll").getBoundingClientRect();
  return cell.textContent && (box.width === 0 || box.right > shown.right + 1);
}).length;
const probe = {boxes, hidden, wide: page.scrollWidth > page.clientWidth, ink: getComputedStyle(document.body).color};
document.body.setAttribute("data-probe", JSON.stringify(probe));
</script>"""
# A browser's window has a least width; a frame has none.
NARROWEST = 500
FRAME = """<!doctype html><body><iframe id="frame" style="width: {width}px; height: 900px; border: 0" srcdoc="{page}">
</iframe><script>
frame.onload = () => document.body.setAttribute("data-probe", frame.contentDocument.body.dataset.probe);
</script></body>"""
CLICK = """<script>document.querySelector('table[data-key="r0-depth"] th:nth-child(4) button').click();</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two results files."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(path, [make_results(), make_results(speed=1.3)], ["first", "second"], "Why <it> is so.")
    return path


def test_a_ratio_to_a_baseline_counts_only_right_vectors() -> None:
    ratios = baseline_ratios(make_results())
    found = {(one.group.length, one.group.kind, one.baseline.name): one.ratio.value for one in ratios}
    assert found["mixed", "throughput", "sentence-transformers"] == pytest.approx(2.5)
    assert found["query", "latency", "OpenVINO"] == pytest.approx(0.8)
    assert {name for _, _, name in found} == {"sentence-transformers", "OpenVINO"}


def test_losses_stand_beside_wins() -> None:
    said = losses(make_results())
    assert len(said) == 4
    assert said[0] == (
        "OpenVINO fp32 is faster on throughput of query texts: ese-deploy's fp32 runs at 0.80 × (0.80 to 0.80) of its "
        "speed"
    )
    wins = make_results([make_group([*depth_rows(), make_row(name="PyTorch", seconds=[2.0] * 5, cosine=1.0)])])
    assert losses(wins) == []
    figures = [head.figure for head in headlines(make_results())]
    assert figures[:3] == ["12.0/s", "0.80 ×", "2.50 ×"]


def test_a_baseline_of_fewer_bits_is_compared_with_ours_of_as_few() -> None:
    int8 = [make_row(seconds=[time] * 5, dtype="int8") for time in (0.5, 0.4)]
    others = [make_row(name="OpenVINO", seconds=[0.6] * 5, dtype=dtype, cosine=0.99) for dtype in ("int8", "bf16")]
    found = baseline_ratios(make_results([make_group([*depth_rows(), *int8, *others])]))
    assert [(one.own.dtype, round(one.ratio.value, 2)) for one in found] == [("int8", 1.5), ("fp32", 0.6)]


def test_time_over_depth_is_held_against_the_line_through_its_ends() -> None:
    lines = depth_lines(make_results())
    assert len(lines) == 4
    assert lines[0].slope == pytest.approx(0.8 / 6)
    assert lines[0].start == pytest.approx(0.2)
    assert lines[0].deviations == {3: pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("labelled", "metric"), [(("1x384",), "agreement"), (("1x384", "3x384", "6x384"), "sts_spearman")]
)
def test_targets_are_set_side_by_side_by_a_figure_that_all_have(labelled: tuple[str, ...], metric: str) -> None:
    results = make_results()
    (agreed,) = results.quality["6x384"]
    scored = msgspec.structs.replace(agreed, metric="sts_spearman", data="stsb_test", data_sha256="c" * 64, value=0.8)
    quality = {target: [agreed, scored] if target in labelled else [agreed] for target in results.quality}
    mixed = msgspec.structs.replace(results, quality=quality)
    assert {target: figure.metric for target, figure in main_quality(mixed).items()} == dict.fromkeys(quality, metric)
    costs = next(table for table in result_tables(mixed) if table.key == "costs")
    assert costs.note.endswith(f"Quality: {metric}.")
    assert {row[7].text for row in costs.rows} == {"0.500" if metric == "agreement" else "0.800"}


def test_the_shallowest_depth_is_held_against_the_full_model_round_by_round() -> None:
    # The machine slows down for some rounds: the ratio is 1.5 in the median round, and 6 of the medians.
    rows = [make_row("4x384", [1.0, 1.0, 4.0, 4.0, 1.0]), make_row("6x384", [1.5, 1.5, 6.0, 6.0, 6.0])]
    last = headlines(make_results([make_group(rows)]))[-1]
    assert (last.figure, last.what) == ("1.5 ×", "the full model's throughput at depth 4")
    assert last.detail == "the full model has 1.5 × the layers"


def test_the_share_of_peak_gemm_is_of_the_same_dtype() -> None:
    group = make_group([make_row(), make_row(dtype="bf16"), make_row(dtype="int8")])
    assert [share_of_peak(row, group) for row in group.rows] == [pytest.approx(0.6), None, None]


def test_runs_agree_where_ratios_do_even_if_one_machine_was_slower_that_day() -> None:
    first, slower = make_results(), make_results(speed=1.3)
    same = agreement(first, slower)
    assert (same.ratios, same.outside) == (16, {})
    assert agreement_lines([first, slower], ["a", "b"]) == ["a and b agree within 10% on 16 of 16 ratios"]
    rows = [*depth_rows(), make_row(name="PyTorch", seconds=[1.0, 9.0, 1.0, 9.0, 9.0], cosine=1.0)]
    noisy = make_results([make_group(rows)])
    calm = make_results([make_group([*depth_rows(), make_row(name="PyTorch", seconds=[2.0] * 5, cosine=1.0)])])
    apart = agreement(noisy, calm)
    assert (apart.ratios, len(apart.outside), apart.noisy) == (3, 1, 1)
    assert "of the other 1, 1 are marked as noisy" in agreement_lines([noisy, calm], ["a", "b"])[0]


def test_runs_of_different_machines_need_not_agree() -> None:
    first = make_results()
    host = msgspec.structs.replace(first.host, machine=msgspec.structs.replace(first.host.machine, cpu="other"))
    other = msgspec.structs.replace(first, host=host)
    assert agreement_lines([first, other], ["a", "b"]) == ["a and b ran on different machines; their ratios can differ"]


def test_what_was_not_measured_is_said() -> None:
    results = msgspec.structs.replace(make_results(), complete=False, restricted={"targets": "1x8"})
    said = "\n".join(not_measured(results))
    for part in (
        "This run was interrupted",
        "engine openvino: OpenVINO is not installed",
        "baseline fastembed fp32 is not installed; run: make baselines",
        "peak GEMM of bf16 on cpu: the processor lists no instructions",
        "GPUs: the driver reports none",
        "what these options exclude: targets 1x8",
    ):
        assert part in said


def test_noise_is_said_at_the_top(tmp_path: Path) -> None:
    assert noise_line(make_results()) == ""
    noisy = make_row(seconds=[1.0, 9.0, 1.0, 9.0, 9.0])
    assert noise_line(make_results([make_group([*depth_rows(), noisy])])).startswith("1 of 4 rows are noisy: ")


def test_the_python_function_takes_strings(tmp_path: Path) -> None:
    write_results(tmp_path / "a.json", make_results())
    assert report(str(tmp_path / "a.json"), str(tmp_path / "r.md")) == tmp_path / "r.md"
    assert (tmp_path / "r.md").read_text("utf-8").startswith("# Throughput: tiny\n")
    with pytest.raises(InputError, match="Cannot write a report"):
        report([tmp_path / "a.json"], tmp_path / "r.txt")


def test_tables_mark_losses_noise_and_wrong_vectors() -> None:
    tables = {table.key: table for table in result_tables(make_results())}
    ratios = {row[0].text: row[7].mark for row in tables["baselines"].rows}
    assert ratios == {"sentence-transformers": "win", "OpenVINO": "loss"}
    remarks = {row[0].text: row[-1].text for row in tables["throughput"].rows}
    assert remarks["wrong"] == "other vectors (cosine 0.300), does not count"
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows), table.key


def test_several_runs_stand_side_by_side() -> None:
    table = side_by_side([make_results(), make_results(speed=2)], ["a", "b"])
    wanted = {"ese-deploy, onnxruntime", "6x384", "mixed"}
    full = next(row for row in table.rows if wanted <= {cell.text for cell in row[:6]})
    assert [cell.text for cell in full[6:]] == ["12.0", "1.00", "6.00", "1.00"]


@pytest.mark.parametrize("name", ["r", "my report (2)"])
def test_markdown_names_its_pictures_and_holds_every_table(tmp_path: Path, name: str) -> None:
    write_markdown(tmp_path / f"{name}.md", [make_results()], ["first"], "Why it is so.")
    text = (tmp_path / f"{name}.md").read_text("utf-8")
    assert "Why it is so." in text
    pictures = [unquote(link) for link in re.findall(r"!\[.*\]\(([^() ]*)\)", text)]
    assert len(pictures) == 6
    assert all((tmp_path / picture).stat().st_size > 5000 for picture in pictures)
    for heading in (
        *("Where a baseline is faster", "Comparison with baselines", "Throughput", "Measured on", "Not measured"),
    ):
        assert f"## {heading}\n" in text


def test_the_page_asks_for_nothing_and_escapes_what_it_shows(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "Why &lt;it&gt; is so." in text
    assert "a &lt;processor&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text.replace("http://www.w3.org/1999/xlink", ""))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"', text):
        assert target in ids


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_in_a_browser_without_a_word_and_without_the_network(
    page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    dom, console, urls = browse(page, tmp_path, PROBE, width=width, dark=dark)
    assert console == []
    assert urls == []
    probe = json.loads(re.findall(r'data-probe="([^"]*)"', dom)[-1].replace("&quot;", '"'))
    assert len(probe["boxes"]) == 12
    for wide, high, shapes in probe["boxes"]:
        assert wide >= 250, "a plot is narrower than a phone shows"
        assert high >= 150
        assert shapes > 20
    assert not probe["wide"], "the page scrolls sideways"
    assert probe["hidden"] == 0, "numbers are hidden sideways"
    assert probe["ink"] == ("rgb(230, 233, 237)" if dark else "rgb(28, 32, 38)")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_a_page_that_did_ask_or_complain_would_be_caught(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><body><img src='http://127.0.0.1:9/x.png'><script>oops()</script></body>")
    _, console, urls = browse(page, tmp_path, "")
    assert urls == ["http://127.0.0.1:9/x.png"]
    assert any("oops is not defined" in line for line in console)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_tables_sort_by_a_click_and_by_the_address(page: Path, tmp_path: Path) -> None:
    dom, console, _ = browse(
        page, tmp_path, CLICK, fragment="#sort=r0-throughput:6:ascending,r1-throughput:6:descending"
    )
    assert console == []
    for key, rising in (("r0-throughput", True), ("r1-throughput", False)):
        rates = [float(row[6].replace(",", "")) for row in rows_of(dom, key)]
        assert len(rates) == 18
        assert rates == sorted(rates, reverse=not rising)
        assert len(set(rates)) > 3
    assert [row[3] for row in rows_of(dom, "r0-depth")] == ["mixed", "query", "query", "sentence"]
    assert dom.count('aria-sort="ascending"') == 2


@pytest.mark.slow
def test_the_report_command_writes_what_its_file_name_says(tmp_path: Path, capsys: Capture) -> None:
    write_results(tmp_path / "a.json", make_results())
    write_results(tmp_path / "b.json", make_results(speed=1.1))
    (tmp_path / "note.txt").write_text("a word of mine")
    both = ["report", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main([*both, "--out", str(tmp_path / "r.html"), "--note", str(tmp_path / "note.txt")]) == 0
    assert "a word of mine" in (tmp_path / "r.html").read_text("utf-8")
    assert main([*both, "--out", str(tmp_path / "r.md"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["results"] == both[1:]
    assert main([*both[:2], "--out", str(tmp_path / "plots.svg")]) == 0
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 6


@pytest.mark.parametrize(
    ("change", "out", "message"),
    [
        ({"schema_version": 7}, "r.html", "b.json has schema_version 7; this ese-deploy reads 1 to 2. Update"),
        ({"weights_sha256": "f" * 64}, "r.html", "b.json: one is of tiny"),
        ({"texts": {}}, "r.html", "b.json: they embedded different texts"),
        ({"groups": []}, "r.html", "b.json contains no complete group"),
        ({}, "r.pdf", "r.pdf. Choose a file of one of these types: .html, .md, .png, .svg."),
        ({}, "r.png", "Plots show one results file"),
        ({}, "nowhere/r.html", "Cannot write"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(
    tmp_path: Path, capsys: Capture, change: dict, out: str, message: str
) -> None:
    write_results(tmp_path / "a.json", make_results())
    write_results(tmp_path / "b.json", msgspec.structs.replace(make_results(), **change))
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["report", *files, "--out", str(tmp_path / out)]) == 2
    printed, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert printed == ""
    assert not (tmp_path / out).exists()


def browse(
    page: Path, folder: Path, extra: str, *, width: int = 1280, dark: bool = False, fragment: str = ""
) -> tuple[str, list[str], list[str]]:
    """Open a copy of a page in a browser of its own; what it holds, said on the console, and asked of the network."""
    copy, log = folder / "page.html", folder / "net.json"
    text = page.read_text("utf-8").replace("</body>", extra + "</body>")
    if width < NARROWEST:
        text = FRAME.format(width=width, page=html.escape(text))
    copy.write_text(text, "utf-8")
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", f"--log-net-log={log}"),
        *(
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            "--dump-dom",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ),
        copy.as_uri() + fragment,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser asks for things of its own, which have no origin; what a page asks for has one.
    asked = [event.get("params", {}) for event in json.loads(log.read_text("utf-8"))["events"]]
    own = [one["url"] for one in asked if "url" in one and one.get("initiator", "not an origin") != "not an origin"]
    return done.stdout, console, sorted({url for url in own if not url.startswith(("file:", "data:"))})


def rows_of(dom: str, key: str) -> list[list[str]]:
    """Texts of a table's cells, in the order that the browser holds them."""
    table = re.search(rf'<table data-key="{key}"[^>]*>.*?<tbody[^>]*>(.*?)</tbody>', dom, re.DOTALL)[1]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)]
