import importlib.metadata
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ese_deploy.bench.memory import MemoryUse
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import candidates
from ese_deploy.choose.budgets import LatencyBudget, parse_latency, parse_quality, parse_size, parse_throughput
from ese_deploy.choose.choice import Budgets, Candidate, Outcome
from ese_deploy.choose.measurements import Measurement, load_measurements, store_measurements, write_measurements
from ese_deploy.cli.app import main
from ese_deploy.cli.choice_text import loose_side, relaxation
from ese_deploy.system.threads import available_threads

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def measured(tiny_bundle: Bundle) -> Bundle:
    """The tiny bundle with latencies of 1 ms a block."""
    store_measurements(tiny_bundle, figures(tiny_bundle))
    return tiny_bundle


def figures(bundle: Bundle, **versions: str) -> list[Measurement]:
    return [
        Measurement(
            entry.name,
            "onnxruntime",
            versions,
            "latency",
            32,
            available_threads(),
            9,
            dict.fromkeys(("p50", "p95", "p99"), entry.depth / 1000),
        )
        for entry in bundle.manifest.targets
    ]


def choose(bundle: Bundle, capsys: Capture, *options: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert main(["choose", str(bundle.path), "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


def test_the_answer_comes_from_stored_measurements(measured: Bundle, capsys: Capture) -> None:
    found = choose(measured, capsys, "--max-latency", "2.5ms", "--no-measure")
    assert found["best"]["target"] in ("1x8", "2x16")
    assert found["best"]["latency_seconds"] <= 0.0025
    assert found["runner_up"] is not None
    assert [one["budgets"] for one in found["binding"]] == [{"latency": 0.003}]
    assert found["cost"] == "latency"
    assert found["pareto_front"][-1]["target"] == "3x32"
    assert choose(measured, capsys, "--max-latency", "2.5ms", "--no-measure") == found


def test_a_quality_alone_takes_the_smallest_that_has_it(tiny_bundle: Bundle, capsys: Capture) -> None:
    assert choose(tiny_bundle, capsys, "--min-quality", "99.9%")["best"]["target"] == "3x32"
    assert choose(tiny_bundle, capsys, "--min-quality", "0")["best"]["target"] == "1x8"
    assert choose(tiny_bundle, capsys)["best"]["target"] == "3x32"


def test_where_nothing_fits_it_says_what_to_relax_and_fails(measured: Bundle, capsys: Capture) -> None:
    arguments = ["choose", str(measured.path), "--max-latency", "500us p99"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert 'relax --max-latency from "500us p99" to "1ms p99": then 1x8' in err
    assert f"error: no target of {measured.path} fits" in err
    found = choose(measured, capsys, "--max-latency", "0.5ms", code=1)
    assert found["best"] is None
    assert found["relax"] == [{"budgets": {"latency": 0.001}, "target": "1x8"}]


@pytest.mark.parametrize(
    ("name", "parse", "text", "needed", "relaxed"),
    [
        ("latency", parse_latency, "500us p99", 0.001, '"500us p99" to "1ms p99"'),
        ("throughput", parse_throughput, "200/s 1 thread", 123.4, '"200/s 1 thread" to "123/s 1 thread"'),
        ("size", parse_size, "55.25MB", 55_261_000, "55.25MB to 55.3MB"),
        ("memory", parse_size, "40MiB", 50_000_000, "40MiB to 50MB"),
        ("quality", parse_quality, "0.2851", 0.2849, "0.2851 to 0.284"),
        ("quality", parse_quality, "90% stsx", 0.7253, '"90% stsx" to "72.5% stsx"'),
        ("quality", parse_quality, "0.9 stsx", 0.7253, '"0.9 stsx" to "0.725 stsx"'),
    ],
)
def test_what_to_relax_is_stated_as_it_was_written_and_as_an_option_takes_it(
    tiny_bundle: Bundle, name: str, parse, text: str, needed: float, relaxed: str
) -> None:
    budgets = Budgets(**{name: parse(text)})
    outcome = Outcome((name,), (needed,), Candidate(tiny_bundle.manifest.targets[0], "onnxruntime", 1))
    assert f" from {relaxed}: then 1x8" in relaxation(outcome, budgets, {name: text})
    stated = relaxation(outcome, budgets, {}).split(" from ")[1].split(" to ")[0]
    assert parse(stated.strip('"')) == getattr(budgets, name)


@pytest.mark.parametrize(
    ("name", "text", "values", "parse"),
    [
        ("latency", "1ms p99 8 tokens 1 threads", (0.0123456, 0.0051, 1.0, 4000.0), parse_latency),
        ("throughput", "9/s 8 tokens", (0.00123456, 98765.4, 7.0), parse_throughput),
        ("size", "1MB", (1234567.0, 98765432.1, 5e6), lambda text: LatencyBudget(parse_size(text))),
        ("quality", "0.9", (0.9876543, 0.29, 1.0), parse_quality),
        ("quality", "90% stsb", (0.9876543, 0.29, 0.57, 1.0), parse_quality),
        ("quality", "0.9 sts_pearson@my pairs", (0.9876543, 0.29), parse_quality),
    ],
)
def test_a_budget_to_relax_to_is_written_on_its_loose_side(name: str, text: str, values, parse) -> None:
    budget = parse(text)
    field = fields(budget)[0].name
    budgets = Budgets(**{name: budget})
    for value in values:
        typed = parse(loose_side(name, value, budgets))
        loose = getattr(typed, field) - value
        assert 0 <= (loose if name in ("latency", "size") else -loose) <= 0.01 * value
        assert replace(typed, **{field: 1}) == replace(budget, **{field: 1})


def test_without_measurements_it_measures_or_says_how(tiny_bundle: Bundle, capsys: Capture) -> None:
    arguments = ["choose", str(tiny_bundle.path), "--max-latency", "9s 8 tokens 1 thread"]
    assert main([*arguments, "--no-measure"]) == 2
    err = capsys.readouterr().err
    assert f"ese-deploy measurements make {tiny_bundle.path} --latency --tokens 8 --threads 1" in err
    found = choose(tiny_bundle, capsys, *arguments[2:])
    assert found["best"]["target"] == "3x32"
    assert len(load_measurements(tiny_bundle).measurements) == 4
    assert choose(tiny_bundle, capsys, *arguments[2:], "--no-measure") == found


def test_the_commands_to_measure_with_measure_what_is_missing(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "a bundle"))
    budgets = ["--max-latency", "9s 8 tokens", "--min-throughput", "1/s 16 tokens 1 thread", "--max-memory", "9GB"]
    arguments = ["choose", str(folder), *budgets, "--engine", "onnxruntime,openvino"]
    assert main([*arguments, "--no-measure"]) == 2
    make = ["ese-deploy", "measurements", "make", str(folder)]
    commands = capsys.readouterr().err.split("measure there with: ")[1].split(" && ")
    assert [shlex.split(command) for command in commands] == [
        [*make, f"--{kind}", *case, *engine]
        for kind, case in (
            ("latency", ["--tokens", "8"]),
            ("throughput", ["--tokens", "16", "--threads", "1"]),
            ("memory", []),
        )
        for engine in ([], ["--engine", "openvino"])
    ]


def test_what_cannot_be_kept_still_answers(tiny_bundle: Bundle, own_cache: Path, capsys: Capture) -> None:
    own_cache.write_text("a file where a folder should be")
    assert main(["choose", str(tiny_bundle.path), "--max-latency", "9s 8 tokens 1 thread"]) == 0
    out, err = capsys.readouterr()
    assert "best: 3x32" in out
    assert "warning: the figures count for this answer and are not kept: Cannot write" in err


def test_figures_of_another_engine_version_do_not_count(tiny_bundle: Bundle, capsys: Capture) -> None:
    store_measurements(tiny_bundle, figures(tiny_bundle, onnxruntime="0.0.1"))
    assert main(["choose", str(tiny_bundle.path), "--max-latency", "9s", "--no-measure"]) == 2
    assert "this machine has no latency of 4 targets" in capsys.readouterr().err


def test_figures_count_whatever_package_the_engine_came_in(
    tiny_bundle: Bundle, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(tiny_bundle, capsys, "--max-latency", "9s 8 tokens 1 thread")

    installed = importlib.metadata.version("onnxruntime")

    def version(name: str) -> str:
        if name == "onnxruntime-directml":
            return installed
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(candidates, "_installed", candidates._installed.__wrapped__)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-directml"]})
    assert choose(tiny_bundle, capsys, "--max-latency", "9s 8 tokens 1 thread", "--no-measure")["best"]


def test_a_figure_that_the_system_does_not_tell_is_said(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("ese_deploy.bench.measure")
    monkeypatch.setattr(module, "measure_memory", lambda *_: MemoryUse(0.1))
    assert main(["choose", str(tiny_bundle.path), "--max-memory", "9GB", "--plot", str(tmp_path / "plot.png")]) == 2
    assert "this system does not tell the memory of a target; leave that budget out" in capsys.readouterr().err


def test_another_machines_file_answers_for_that_machine(measured: Bundle, tmp_path: Path, capsys: Capture) -> None:
    held = load_measurements(measured)
    text = (tmp_path / "there.json", held)
    write_measurements(*text)
    document = json.loads(text[0].read_text())
    document["machine"]["cpu"] = "a small one"
    for one in document["measurements"]:
        one["values"] = {name: value * 10 for name, value in one["values"].items()}
        one["threads"] = 7
        one["versions"] = {"onnxruntime": "0.0.1"}
    text[0].write_text(json.dumps(document))
    found = choose(measured, capsys, "--max-latency", "15ms", "--measurements", str(text[0]))
    assert (found["best"]["target"], found["machine"]["cpu"]) == ("1x8", "a small one")
    document["bundle"] = "0" * 64
    text[0].write_text(json.dumps(document))
    assert main(["choose", str(measured.path), "--measurements", str(text[0])]) == 2
    assert "was measured of another bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-latency", "5"], "a latency '5' has no unit"),
        (["--max-size", "40"], "a size '40' has no unit"),
        (["--min-quality", "0.8 beauty"], "'beauty' names no quality figure, or several; the bundle holds agreement@"),
        (["--profile", "none"], "there is no profile 'none'; there is edge, balanced, server, full"),
        (["--profiles", "mine.toml"], "--profiles names a file; say with --profile NAME"),
        (["--engine", "onnxruntime,steam"], "--engine is of onnxruntime, openvino, "),
        (["--dtype", "int4"], "--dtype is of fp32, fp16, bf16, int8, int8-fp16, got 'int4'"),
        (["--prefer", "luck"], "--prefer is quality, speed or size"),
        (["--measurements", "none.json"], "cannot read none.json"),
        (["--max-latency", "9s", "--no-measure", "--plot", "a.gif"], "a.gif is not a .png or .svg file"),
    ],
)
def test_a_budget_that_is_not_understood_ends_with_one_line(
    tiny_bundle: Bundle, capsys: Capture, options: list[str], message: str
) -> None:
    assert main(["choose", str(tiny_bundle.path), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_profile_states_budgets_and_options_win(tiny_bundle: Bundle, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.toml").write_text("[mine]\nmin_quality = 0.999\n")
    mine = ["--profile", "mine", "--profiles", str(tmp_path / "mine.toml")]
    assert choose(tiny_bundle, capsys, *mine)["best"]["target"] == "3x32"
    assert choose(tiny_bundle, capsys, *mine, "--min-quality", "0")["best"]["target"] == "1x8"


def test_the_table_the_reason_and_the_picture(measured: Bundle, tmp_path: Path, capsys: Capture) -> None:
    for name in ("front.png", "front.svg"):
        picture = tmp_path / name
        assert main(["choose", str(measured.path), "--max-latency", "2.5ms", "--plot", str(picture)]) == 0
        first = picture.read_bytes()
        assert first[:4] in (b"\x89PNG", b"<?xm")
        assert main(["choose", str(measured.path), "--max-latency", "2.5ms", "--plot", str(picture)]) == 0
        assert picture.read_bytes() == first
    out = capsys.readouterr().out
    assert "binds: --max-latency; without it the answer would be 3x32" in out
    assert "best:" in out and "runner-up:" in out


def test_measurements_are_managed_from_the_command_line(measured: Bundle, tmp_path: Path, capsys: Capture) -> None:
    bundle, file = str(measured.path), str(tmp_path / "out.json")
    assert main(["measurements", "export", bundle, file]) == 0
    assert main(["measurements", "clear", bundle]) == 0
    assert main(["measurements", "list"]) == 0
    assert "holds no measurements" in capsys.readouterr().out
    assert main(["measurements", "export", bundle, file]) == 2
    assert main(["measurements", "import", bundle, file]) == 0
    assert main(["measurements", "list", "--json"]) == 0
    out = capsys.readouterr().out
    assert len(json.loads(out[out.index("{") :])["measurements"][0]["measurements"]) == 4
    assert main(["measurements", "make", bundle, "--throughput", "--tokens", "8", "--threads", "1"]) == 0
    assert {one.kind for one in load_measurements(measured).measurements} == {"latency", "throughput"}


def test_choosing_imports_nothing_heavy(measured: Bundle) -> None:
    code = (
        "import sys\nfrom ese_deploy.cli.app import main\n"
        f"assert main(['choose', {str(measured.path)!r}, '--max-latency', '2.5ms', '--no-measure', '--json']) == 0\n"
        "heavy = {'torch', 'transformers', 'scipy', 'matplotlib', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
