"""The comparison of training variants: the order of runs, resuming, and tables."""

import json
import math
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from helpers.tiny import make_checkpoint

from benchmarks.quality.__main__ import main
from benchmarks.quality.children import Child, run_child
from benchmarks.quality.page import fill_page
from benchmarks.quality.plan import Plan, dev_name, planned, rates_wanted, runs_of
from benchmarks.quality.protocol import Protocol, read_protocol
from benchmarks.quality.records import Record, write_json
from benchmarks.quality.results import Results, collect
from benchmarks.quality.sweep import Sweep
from benchmarks.quality.texts import TrainingFiles
from ese_deploy.errors import InputError
from ese_deploy.system.machine import describe_machine
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus()]

SMALL = """
model = "{model}"
depths = [1, 2, 3]
dims = [16, 32]
named = ["1x16", "3x32"]

[seeds]
finalist = [1, 2]
ablation = [1]
idea = [1]

[data]
dev = "dev.tsv"
test_sts = ["test.tsv"]
test_retrieval = []
left_out = ["not this"]

[data.train]
triplets = ["triplets.tsv"]
texts = ["texts.jsonl"]

[flags]
max_steps = 2
batch_size = 8
maxlen = 16
warmup_steps = 0
workers = 0
save_strategy = "no"

[[rows]]
name = "untouched"
stage = "finalist"
how = "untouched"

[[rows]]
name = "espresso"
stage = "finalist"
data = ["triplets"]
rates = [1e-4, 2e-4]
loss = {{ hold_w = 0.5 }}

[[rows]]
name = "alone"
stage = "finalist"
cell = "1x16"
data = ["triplets"]
rates = [2e-4]

[[rows]]
name = "without hold"
stage = "ablation"
of = "espresso"
loss = {{ hold_w = 0.0 }}

[[rows]]
name = "labels and texts"
stage = "idea"
of = "espresso"
data = ["triplets", "texts"]
"""


def protocol_of(folder: Path, text: str = SMALL, model: str = "nowhere") -> Protocol:
    path = folder / "protocol.toml"
    path.write_text(text.format(model=model), "utf-8")
    return read_protocol(path)


def record(run: Any, value: float, data: str = "dev") -> Record:
    """What a run would be written down as."""
    cells = {f"{depth}x{dim}": value for depth in (1, 2, 3) for dim in (16, 32)}
    return Record(
        key=run.key,
        label=run.label,
        settings=dict(run.settings),
        figures={f"sts_spearman@{data}": cells} if math.isfinite(value) else {},
        date="2026-01-01",
        machine=describe_machine(),
        versions={},
    )


def walk(plan: Plan, value: Any) -> list[str]:
    """The labels of all runs in the order in which a sweep would do them."""
    records: dict[str, Record] = {}
    order = []
    while run := next((run for run in planned(plan, records) if run.key not in records), None):
        order.append(run.label)
        records[run.key] = record(run, value(run), dev_name(plan.protocol))
    return order


def test_rates_come_first_then_seeds_then_ablation(tmp_path: Path) -> None:
    plan = Plan(protocol_of(tmp_path), lambda name: name)
    best = {1e-4: 0.5, 2e-4: 0.7, 4e-4: 0.6}
    order = walk(plan, lambda run: best.get(run.rate, 0.1))
    tuned = ["espresso.1e-04.seed1", "espresso.2e-04.seed1", "espresso.4e-04.seed1"]
    assert order[:3] == tuned, "the best rate was the highest, so that the next one is tried"
    assert order[3] == "alone.2e-04.seed1", "a single rate is not tuned"
    rest = ["untouched", "espresso.2e-04.seed2", "alone.2e-04.seed2"]
    assert order[4:] == [*rest, "without-hold.2e-04.seed1", "labels-and-texts.2e-04.seed1"]


def test_rates_are_extended_until_the_best_is_between_others() -> None:
    assert rates_wanted([1, 2], {}) == [1, 2]
    assert rates_wanted([1, 2], {1: 5.0, 2: 4.0}) == [1, 2, 0.5]
    assert rates_wanted([1, 2], {1: 5.0, 2: 4.0, 0.5: 3.0}) == [1, 2, 0.5]
    falling = {2.0**-n: float(n) for n in range(20)}
    assert len(rates_wanted([1, 2], {2: -1.0, **falling})) == 7, "an end is put to that"
    assert rates_wanted([1, 2], {1: -math.inf, 2: -math.inf}) == [1, 2]


def test_rows_without_a_rate_wait_and_failed_rows_are_skipped(tmp_path: Path) -> None:
    plan = Plan(protocol_of(tmp_path), lambda name: name)
    order = walk(plan, lambda run: -math.inf if run.row.name == "espresso" else 0.5)
    assert not [label for label in order if label.startswith(("without", "labels"))]
    assert [label for label in order if label.startswith("alone") and label.endswith("seed2")]


def test_key_of_a_run_depends_on_its_settings_only(tmp_path: Path) -> None:
    def key(text: str, hash_of: Any = lambda name: name) -> str:
        return next(iter(planned(Plan(protocol_of(tmp_path, text), hash_of), {}))).key

    first = key(SMALL)
    assert key(SMALL.replace('name = "espresso"\nstage', 'name = "espresso"\nwhy = "x"\nstage')) == first
    assert key(SMALL.replace("max_steps = 2", "max_steps = 3")) != first
    assert key(SMALL.replace("hold_w = 0.5", "hold_w = 0.6")) != first
    assert key(SMALL, lambda name: name + "changed") != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("maxlen = 16", "", None),
        ('cell = "1x16"', "cells = 1", "unknown field `cells`"),
        ('of = "espresso"', 'of = "later"', "which is not an earlier row"),
        ('data = ["triplets", "texts"]', 'data = ["pears"]', "'pears'. Choose from: triplets, texts"),
        ('name = "alone"', 'name = "espresso"', "two rows 'espresso'"),
    ],
)
def test_bad_protocol_is_an_error(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    assert old in SMALL
    if message is None:
        protocol_of(tmp_path, SMALL.replace(old, new))
        return
    with pytest.raises(InputError, match=message):
        protocol_of(tmp_path, SMALL.replace(old, new))


def test_protocol_never_trains_on_development_or_test_data() -> None:
    protocol = read_protocol()
    used = {name for row in protocol.rows for name in protocol.whole(row).data}
    files = {file for name in used for file in protocol.data.train[name]}
    assert files and not [file for file in files if file.startswith("sts/")]
    assert "stsb-train" in protocol.data.left_out
    assert protocol.data.dev not in protocol.data.test_sts
    order = walk(Plan(protocol, lambda name: name), lambda run: 0.5)
    assert len(set(order)) == len(order) >= len(protocol.rows)
    finalists = [protocol.whole(row) for row in protocol.rows if row.stage == "finalist"]
    same = [row.flags for row in finalists if row.data == ["triplets"]]
    for name, value in protocol.flags.items():
        assert all(flags[name] == value for flags in same), f"finalists differ in {name}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a model."""
    folder = tmp_path_factory.mktemp("quality")
    data = folder / "data"
    data.mkdir()
    thirds = list(zip(TEXTS[:64], TEXTS[64:128], TEXTS[128:192], strict=True))
    lines = ["anchor\tentailment\tcontradiction\tsource", *("\t".join((*row, "kept")) for row in thirds)]
    lines.append("a\tb\tc\tnot this")
    (data / "triplets.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    texts = [{"id": str(i), "source": "kept", "text": text} for i, text in enumerate(TEXTS[192:320])]
    (data / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), "utf-8")
    pairs = [f"{a}\t{b}\t{i % 6}" for i, (a, b) in enumerate(zip(TEXTS[:40], TEXTS[40:80], strict=True))]
    for name in ("dev", "test"):
        (data / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]) + "\n", "utf-8")
    make_checkpoint(folder / "model")
    return folder


def test_plain_sets_have_a_row_for_each_text_without_excluded_sources(place: Path) -> None:
    text = SMALL.replace("[data.train]", 'plain = ["sentences"]\n\n[data.train]\nsentences = ["triplets.tsv"]')
    files = TrainingFiles(protocol_of(place, text), place / "data", place / "plain")
    (path,) = files.files("sentences")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert sorted(row["text"] for row in rows) == sorted(TEXTS[:192]) and {*rows[0]} == {"text"}
    assert files.calibration(("sentences",)).read_text("utf-8").splitlines() == [row["text"] for row in rows]


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a sweep run in this process, where PyTorch is imported already. Other tests start processes."""

    def run_here(command: Sequence[str], log: Path, pause: Path | None) -> Child:
        assert list(command[:2]) == [sys.executable, "-m"]
        log.parent.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as patch, log.open("a", encoding="utf-8") as output:
            patch.setattr(sys, "argv", list(command[2:]))
            with redirect_stdout(output), redirect_stderr(output):
                try:
                    runpy.run_module(command[2], run_name="__main__", alter_sys=True)
                except SystemExit as end:
                    return Child(int(end.code or 0), 0.1, 0.1)
        return Child(0, 0.1, 0.1)

    monkeypatch.setattr("benchmarks.quality.sweep.run_child", run_here)


def campaign(place: Path, *arguments: str) -> int:
    protocol_of(place, model=str(place / "model"))
    common = ["--data", str(place / "data"), "--out", str(place / "out"), "--protocol", str(place / "protocol.toml")]
    written = ["--results", str(place / "results.json"), "--docs", str(place / "page.md"), "--images", str(place)]
    return main([*arguments, *common, *written])


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_recorded_row_is_not_repeated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(place, "run", "--only", "without hold") == 2
    assert "waits for the runs of 'espresso'" in capsys.readouterr().err
    assert campaign(place, "run", "--only", "untouched") == 0
    assert campaign(place, "run", "--only", "espresso", "--minutes", "0") == 0
    assert capsys.readouterr().out.endswith("0 runs\n")
    (file,) = (place / "out/runs").glob("*.json")
    found = msgspec.json.decode(file.read_bytes(), type=Record)
    assert set(found.figures["sts_spearman@dev"]) == {f"{d}x{k}" for d in (1, 2, 3) for k in (16, 32)}
    before = file.stat().st_mtime_ns
    assert campaign(place, "run", "--only", "untouched") == 0
    assert file.stat().st_mtime_ns == before
    (place / "page.md").write_text("<!-- table: dev -->\nold\n<!-- end -->\nkept\n", "utf-8")
    assert campaign(place, "table") == 0
    page = (place / "page.md").read_text("utf-8")
    assert "| untouched | 1 |" in page and "old" not in page and page.endswith("kept\n")
    assert (place / "quality_untouched.png").is_file()
    results = msgspec.json.decode((place / "results.json").read_bytes(), type=Results)
    assert [row.row.name for row in results.rows] == ["untouched"]
    assert str(place / "out") not in (place / "results.json").read_text("utf-8")


@pytest.mark.slow
def test_training_uses_the_options_of_the_row_and_excludes_sources(place: Path) -> None:
    protocol = protocol_of(place, SMALL.replace("finalist = [1, 2]", "finalist = [2]"), str(place / "model"))
    sweep = Sweep(protocol, place / "data", place / "trained")
    assert sweep.run("alone", None) == 1
    (row,) = collect(sweep).rows
    (run,) = row.runs
    assert (row.rate, run.seed, run.failed) == (2e-4, 2, "") and run.minutes is not None
    prepared = (place / "trained/data/triplets-1.jsonl").read_text("utf-8")
    assert len(prepared.splitlines()) == 64 and "not this" not in prepared
    (written,) = (place / "trained/models").glob("alone.*.seed2-*/ese.json")  # beside it lies the folder of the run
    settings = json.loads(written.read_text("utf-8"))["settings"]
    assert (settings["seed"], settings["training"]["max_steps"]) == (2, 2)
    assert sweep.test() == 1
    assert sweep.test() == 0, "test sets are looked at once"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_fitted_projections_are_evaluated_as_a_checkpoint(place: Path) -> None:
    row = """
[[rows]]
name = "aligned"
stage = "finalist"
how = "aligned"
of = "untouched"
data = ["triplets", "texts"]
"""
    folder = place / "data/search"
    folder.mkdir(exist_ok=True)
    for name, texts in (("corpus", TEXTS[:12]), ("queries", TEXTS[20:24])):
        rows = [{"id": f"{name}{number}", "text": text} for number, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = "".join(f"queries{number}\tcorpus{number}\t1\n" for number in range(4))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")
    text = (SMALL + row).replace("test_retrieval = []", 'test_retrieval = ["search"]').replace("[1e-4, 2e-4]", "[1e-4]")
    sweep = Sweep(protocol_of(place, "test_bf16 = true\n" + text, str(place / "model")), place / "data", place / "al")
    assert sweep.run("untouched", None) == 1 and sweep.run("aligned", None) == 1 and sweep.run("espresso", None) == 2
    plain, aligned = (sweep.records()[run.key] for run in sweep.finalists(sweep.records())[:2])
    assert plain.figures["sts_spearman@dev"] != aligned.figures["sts_spearman@dev"]
    assert [path.name for path in (place / "al/models").iterdir() if path.name.startswith("aligned")][1:] == []
    assert sweep.test() == 4
    results = collect(sweep)
    searched = [[bool(run.test.get("ndcg_at_10@search")) for run in row.runs] for row in results.rows]
    assert searched == [[True], [True, False], [True]]
    for name in ("espresso", "aligned"):
        named = results.named(name)
        assert named is not None and len(named.runs[0].test["ndcg_at_10_across@search"]) == 3 * 3 * 2
    table = fill_page("<!-- table: across -->\n<!-- end -->", collect(sweep))
    assert "| row | dims | 1 → 3 | 2 → 3 | 3 → 3 |" in table and "\n| aligned | 32 | " in table


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_adding_retrieval_to_a_row_does_not_repeat_its_training(place: Path) -> None:
    folder = place / "data/other"
    folder.mkdir()
    documents = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS[:30])]
    queries = [{"id": f"q{number}", "text": text} for number, text in enumerate(TEXTS[30:40])]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = "".join(f"q{number}\td{number}\t1\n" for number in range(10))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")
    files = {
        name: f'"other/{name}.{kind}"' for name, kind in (("corpus", "jsonl"), ("queries", "jsonl"), ("qrels", "tsv"))
    }
    named = "".join(f"{name} = {file}\n" for name, file in files.items())
    text = SMALL.replace("finalist = [1, 2]", "finalist = [2]").replace(
        "[data.train]", f"[data.dev_search]\n{named}sizes = [4, 6]\n[data.train]"
    )
    out = place / "searched"

    def sweep(text: str) -> Sweep:
        return Sweep(protocol_of(place, text, str(place / "model")), place / "data", out)

    assert sweep(text).run("alone", None) == 1
    (before,) = sweep(text).records().values()
    asked = text.replace('name = "alone"', 'name = "alone"\nsearch = true')
    assert sweep(asked).run("alone", None) == 1
    assert sweep(asked).run("alone", None) == 0
    (after,) = sweep(asked).records().values()
    assert (before.key, before.minutes, before.cpu_minutes) == (after.key, after.minutes, after.cpu_minutes)
    assert after.figures["sts_spearman@dev"] == before.figures["sts_spearman@dev"]
    assert len(after.figures["ndcg_at_10@dev_search"]) == 6
    kept = [
        len((out / f"data/dev_search/{name}").read_text("utf-8").splitlines())
        for name in ("queries.jsonl", "corpus.jsonl")
    ]
    assert kept == [4, 10]
    with pytest.raises(InputError, match=r"'alone' has search = true\. Add"):
        protocol_of(place, SMALL.replace('name = "alone"', 'name = "alone"\nsearch = true'))


@pytest.mark.slow
def test_last_message_of_a_failed_run_is_recorded(place: Path) -> None:
    text = SMALL.replace("hold_w = 0.5", 'teacher = "nobody"').replace("[1e-4, 2e-4]", "[1e-4]")
    protocol = protocol_of(place, text, str(place / "model"))
    sweep = Sweep(protocol, place / "data", place / "failed")
    assert sweep.run("espresso", None) == 1
    (one,) = sweep.records().values()
    assert "Unknown teacher 'nobody'" in one.failed


def test_child_pauses_while_the_file_exists(tmp_path: Path) -> None:
    pause, out = tmp_path / "pause", tmp_path / "out"
    pause.touch()
    code = f"import time; open({str(out)!r}, 'a').close()\nfor _ in range(40): time.sleep(0.05)"
    release = subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(2); os.remove({str(pause)!r})"])
    begun = time.monotonic()
    child = run_child([sys.executable, "-c", code], tmp_path / "log", pause)
    assert release.wait() == 0 and child.code == 0
    assert time.monotonic() - begun > 60 * child.minutes + 1, "pauses are not counted"
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", None).code == 3
    killed = run_child(
        [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"], tmp_path / "log", None
    )
    assert killed.code == -signal.SIGKILL


def test_tables_give_means_deviations_and_differences_of_equal_seeds(tmp_path: Path) -> None:
    protocol = protocol_of(tmp_path)
    out = tmp_path / "out"
    for name in ("dev.tsv", "triplets.tsv"):
        (tmp_path / name).write_text("anchor\tpositive\na\tb\n", "utf-8")
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n', "utf-8")
    sweep = Sweep(protocol, tmp_path, out)
    values = {("espresso", 1): 0.70, ("espresso", 2): 0.72, ("without hold", 1): 0.65}
    while run := next((run for run in planned(sweep.plan, sweep.records()) if run.key not in sweep.records()), None):
        value = values.get((run.row.name, run.seed), 0.5) - (0.1 if run.rate not in (None, 2e-4) else 0)
        write_json(out / f"runs/{run.key}.json", record(run, value))
    page = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in ("rates", "dev", "ablation", "ideas", "share"))
    filled = fill_page(page, collect(sweep))
    assert "| espresso | mean of the grid | 60.00 | **70.00** | 60.00 |" in filled
    assert "| espresso | 2 | **71.0** ± 1.4 | **71.0** ± 1.4 | **71.0** ± 1.4 |" in filled
    assert "| alone | 2 | 50.0 ± 0.0 |  |  |" in filled, "a model for one cell has no others"
    assert "| without hold | -5.0 | -5.0 | -5.0 |" in filled
    assert "| labels and texts | -20.0 | -20.0 | -20.0 |" in filled
    assert "<!-- table: share -->\n\nNot measured yet.\n\n<!-- end -->" in filled
    assert len(runs_of(sweep.plan, protocol.whole(protocol.row("espresso")), sweep.records())) == 2
    with pytest.raises(InputError, match="unknown table 'gone'"):
        fill_page("<!-- table: gone -->\n<!-- end -->", collect(sweep))


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path) -> None:
    sweep = Sweep(protocol_of(tmp_path), tmp_path, tmp_path / "out")
    with sweep.alone(), pytest.raises(InputError, match="another process"):
        sweep.run(None, 0)
