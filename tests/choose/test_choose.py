import importlib
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ese_deploy.bench.measure import Effort
from ese_deploy.bench.memory import MemoryUse
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import candidates
from ese_deploy.choose import choose as choose_in_python
from ese_deploy.choose.budgets import QualityBudget
from ese_deploy.choose.choice import Budgets, Prefer, choose_among
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.measurements.store import Measurement, load_measurements, store_measurements, write_measurements
from ese_deploy.system.threads import available_threads

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def measured(trained_bundle: Bundle) -> Bundle:
    """The tiny bundle with latencies of 1 ms a block."""
    store_measurements(trained_bundle, figures(trained_bundle))
    return trained_bundle


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


def test_a_quality_alone_takes_the_smallest_that_has_it(trained_bundle: Bundle, capsys: Capture) -> None:
    assert choose(trained_bundle, capsys, "--min-quality", "99.9%")["best"]["target"] == "3x32"
    assert choose(trained_bundle, capsys, "--min-quality", "0")["best"]["target"] == "1x8"
    assert choose(trained_bundle, capsys)["best"]["target"] == "3x32"


def test_where_nothing_fits_it_says_what_to_relax_and_fails(measured: Bundle, capsys: Capture) -> None:
    arguments = ["choose", str(measured.path), "--max-latency", "500us p99"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert re.search(r"Relax --max-latency: then 1x8 \(.*, p99 1.00 ms\) fits", err)
    assert f"error: no target of {measured.path} fits" in err
    found = choose(measured, capsys, "--max-latency", "0.5ms", code=1)
    assert found["best"] is None
    assert found["relax"] == [{"budgets": {"latency": 0.001}, "target": "1x8"}]


def test_the_python_function_gives_a_choice_that_explains_itself(measured: Bundle) -> None:
    choice = choose_in_python(str(measured.path), max_latency="2.5ms")
    assert choice.best is not None and choice.best.name in ("1x8", "2x16")
    assert repr(choice) == f"Choice({choice.best.name} on onnxruntime; 2 of 4 fit)"
    assert str(choice).startswith(f"Best: {choice.best.name} on onnxruntime. It has the best quality of the 2 that fit")
    assert "Binding: max_latency. Without it the answer is 3x32 (quality 1.000" in str(choice)
    nothing = choose_in_python(measured, max_latency="0.5ms p99")
    assert repr(nothing) == "Choice(no target; 0 of 4 fit)"
    assert re.search(r"Relax max_latency: then 1x8 \(.*, p99 1.00 ms\) fits", str(nothing))
    with pytest.raises(InputError, match="This machine has not measured the throughput of 4 targets"):
        choose_in_python(measured, min_throughput="1/s", measure=False)


def test_the_python_function_measures_by_itself(trained_bundle: Bundle) -> None:
    choice = choose_in_python(trained_bundle, max_latency="9s 8 tokens 1 thread")
    assert choice.best is not None and choice.best.name == "3x32" and choice.best.latency is not None


def test_without_measurements_it_measures_or_says_how(trained_bundle: Bundle, capsys: Capture) -> None:
    arguments = ["choose", str(trained_bundle.path), "--max-latency", "9s 8 tokens 1 thread"]
    assert main([*arguments, "--no-measure"]) == 2
    err = capsys.readouterr().err
    assert f"ese-deploy measurements make {trained_bundle.path} --latency --tokens 8 --threads 1" in err
    found = choose(trained_bundle, capsys, *arguments[2:])
    assert found["best"]["target"] == "3x32"
    assert len(load_measurements(trained_bundle).measurements) == 4
    assert choose(trained_bundle, capsys, *arguments[2:], "--no-measure") == found


def test_the_commands_to_measure_with_measure_what_is_missing(
    trained_bundle: Bundle, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(trained_bundle.path, tmp_path / "a bundle"))
    budgets = ["--max-latency", "9s 8 tokens", "--min-throughput", "1/s 16 tokens 1 thread", "--max-memory", "9GB"]
    arguments = ["choose", str(folder), *budgets, "--engine", "onnxruntime,openvino"]
    assert main([*arguments, "--no-measure"]) == 2
    make = ["ese-deploy", "measurements", "make", str(folder)]
    commands = capsys.readouterr().err.split("Measure there with: ")[1].split(" && ")
    assert [shlex.split(command) for command in commands] == [
        [*make, f"--{kind}", *case, *engine]
        for kind, case in (
            ("latency", ["--tokens", "8"]),
            ("throughput", ["--tokens", "16", "--threads", "1"]),
            ("memory", []),
        )
        for engine in ([], ["--engine", "openvino"])
    ]


def test_what_cannot_be_kept_still_answers(trained_bundle: Bundle, own_cache: Path, capsys: Capture) -> None:
    own_cache.write_text("a file where a folder should be")
    assert main(["choose", str(trained_bundle.path), "--max-latency", "9s 8 tokens 1 thread"]) == 0
    out, err = capsys.readouterr()
    assert "Best: 3x32" in out
    assert "warning: The figures are used for this answer and not stored: Cannot write" in err


def test_figures_of_another_engine_version_do_not_count(trained_bundle: Bundle, capsys: Capture) -> None:
    store_measurements(trained_bundle, figures(trained_bundle, onnxruntime="0.0.1"))
    assert main(["choose", str(trained_bundle.path), "--max-latency", "9s", "--no-measure"]) == 2
    assert "This machine has not measured the latency of 4 targets" in capsys.readouterr().err


def test_figures_count_whatever_package_the_engine_came_in(
    trained_bundle: Bundle, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(trained_bundle, capsys, "--max-latency", "9s 8 tokens 1 thread")

    installed = importlib.metadata.version("onnxruntime")

    def version(name: str) -> str:
        if name == "onnxruntime-directml":
            return installed
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(candidates, "_installed", candidates._installed.__wrapped__)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-directml"]})
    assert choose(trained_bundle, capsys, "--max-latency", "9s 8 tokens 1 thread", "--no-measure")["best"]


def test_a_figure_that_the_system_does_not_tell_is_said(
    trained_bundle: Bundle, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("ese_deploy.bench.measure")
    monkeypatch.setattr(module, "measure_memory", lambda *_: MemoryUse(0.1))
    assert main(["choose", str(trained_bundle.path), "--max-memory", "9GB", "--plot", str(tmp_path / "plot.png")]) == 2
    assert "This system does not report the memory of a target. Leave that budget out" in capsys.readouterr().err


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
        (["--min-quality", "0.8 beauty"], "'beauty' names no quality figure, or several. The bundle has agreement@"),
        (["--profile", "none"], "Unknown profile 'none'. Choose one of: edge, balanced, server, full"),
        (["--profiles", "mine.toml"], "--profiles needs --profile"),
        (["--engine", "onnxruntime,steam"], "Unknown engine 'steam'. Choose one of: onnxruntime, openvino, "),
        (["--dtype", "int4"], "Unknown dtype 'int4'. Choose one of: fp32, fp16, bf16, int8, int8-fp16."),
        (["--prefer", "luck"], "--prefer is quality, speed or size"),
        (["--measurements", "none.json"], "cannot read none.json"),
        (["--max-latency", "9s", "--no-measure", "--plot", "a.gif"], "a.gif is not a .png or .svg file"),
    ],
)
def test_a_budget_that_is_not_understood_ends_with_one_line(
    trained_bundle: Bundle, capsys: Capture, options: list[str], message: str
) -> None:
    assert main(["choose", str(trained_bundle.path), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_profile_states_budgets_and_options_win(trained_bundle: Bundle, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.toml").write_text("[mine]\nmin_quality = 0.999\n")
    mine = ["--profile", "mine", "--profiles", str(tmp_path / "mine.toml")]
    assert choose(trained_bundle, capsys, *mine)["best"]["target"] == "3x32"
    assert choose(trained_bundle, capsys, *mine, "--min-quality", "0")["best"]["target"] == "1x8"


def test_the_table_the_reason_and_the_picture(measured: Bundle, tmp_path: Path, capsys: Capture) -> None:
    for name in ("front.png", "front.svg"):
        picture = tmp_path / name
        assert main(["choose", str(measured.path), "--max-latency", "2.5ms", "--plot", str(picture)]) == 0
        first = picture.read_bytes()
        assert first[:4] in (b"\x89PNG", b"<?xm")
        assert main(["choose", str(measured.path), "--max-latency", "2.5ms", "--plot", str(picture)]) == 0
        assert picture.read_bytes() == first
    out = capsys.readouterr().out
    assert "Binding: --max-latency. Without it the answer is 3x32" in out
    assert "Best:" in out and "Runner-up:" in out


def test_measurements_are_managed_from_the_command_line(measured: Bundle, tmp_path: Path, capsys: Capture) -> None:
    bundle, file = str(measured.path), str(tmp_path / "out.json")
    assert main(["measurements", "export", bundle, file]) == 0
    assert main(["measurements", "clear", bundle]) == 0
    assert main(["measurements", "list"]) == 0
    assert "has no measurements" in capsys.readouterr().out
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


def test_an_untrained_exit_is_never_the_answer_unless_it_is_allowed(untrained_bundle: Bundle, capsys: Capture) -> None:
    store_measurements(untrained_bundle, figures(untrained_bundle))
    found = choose(untrained_bundle, capsys, "--max-latency", "2.5ms", "--no-measure", code=1)
    assert found["best"] is None
    assert {"trained": "untrained exit"} in [one["budgets"] for one in found["relax"]]
    assert main(["choose", str(untrained_bundle.path), "--prefer", "size"]) == 0
    out = capsys.readouterr().out
    assert "no, untrained exit" in out
    assert "because it has an untrained exit. --allow-untrained allows it." in out
    found = choose(untrained_bundle, capsys, "--max-latency", "2.5ms", "--no-measure", "--allow-untrained")
    assert found["best"]["target"] in ("1x8", "2x16")
    assert found["best"]["doubt"] == "untrained exit"
    assert found["warnings"] == [f"{found['best']['target']} has an untrained exit"]
    assert main(["choose", str(untrained_bundle.path), "--prefer", "size", "--allow-untrained"]) == 0
    assert "Warning: 1x8 has an untrained exit." in capsys.readouterr().out


def test_a_low_agreement_is_a_doubt_unless_a_quality_is_required(trained_bundle: Bundle, capsys: Capture) -> None:
    low = [
        msgspec.structs.replace(
            entry, quality=[msgspec.structs.replace(one, value=0.3, share_of_full=0.3) for one in entry.quality]
        )
        if entry.depth == 1
        else entry
        for entry in trained_bundle.manifest.targets
    ]
    manifest = msgspec.structs.replace(trained_bundle.manifest, targets=low)
    doubts = {str(one.entry.target): one.doubt for one in candidates.find_candidates(manifest, Budgets(), None)}
    assert doubts["1x8"] == "low agreement"
    assert doubts["2x16"] is None
    wanted = Budgets(quality=QualityBudget(0.2))
    found = candidates.find_candidates(manifest, wanted, None)
    assert not any(one.doubt for one in found)
    said = "Warning: 1x8 has an agreement of 0.30 with the full model, below 0.5."
    assert said in str(choose_among(found, replace(wanted, prefer=Prefer.SIZE)))
    assert "Warning" not in str(choose_among(found, replace(wanted, prefer=Prefer.QUALITY)))


def test_a_target_that_failed_a_check_is_never_the_answer_unless_it_is_allowed(trained_bundle: Bundle) -> None:
    *others, full = trained_bundle.manifest.targets
    failed = msgspec.structs.replace(
        full, parity=[msgspec.structs.replace(one, passed=False) for one in full.parity[:1]]
    )
    manifest = msgspec.structs.replace(trained_bundle.manifest, targets=[*others, failed])
    choice = choose_among(candidates.find_candidates(manifest, Budgets(), None), Budgets())
    assert choice.best is not None and choice.best.name == "3x16"
    assert "Left out: 3x32 (quality 1.000" in str(choice)
    assert "because it failed a check when it was exported. allow_untrained allows it." in str(choice)
    allowed = choose_among(choice.candidates, Budgets(allow_untrained=True))
    assert "Warning: 3x32 failed a check when it was exported." in str(allowed)


def test_figures_of_a_busy_machine_are_said_and_not_stored(
    trained_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    measuring = importlib.import_module("ese_deploy.bench.measure")
    monkeypatch.setattr(measuring, "Effort", lambda: Effort(rounds=1, calls=1))
    monkeypatch.setattr(measuring, "busy_cores", lambda *_: 1.5)
    options = ("--max-latency", "60s 9 tokens 1 thread")
    assert choose(trained_bundle, capsys, *options)["busy_cores"] == 1.5
    assert main(["choose", str(trained_bundle.path), *options]) == 0
    assert "Busy: others used 1.5 cores while the targets were measured." in capsys.readouterr().out
    make = ["measurements", "make", str(trained_bundle.path), "--latency", "--tokens", "9", "--threads", "1"]
    assert main(make) == 1
    assert "--allow-busy" in capsys.readouterr().err
    assert not [one for one in load_measurements(trained_bundle).measurements if one.tokens == 9]
    monkeypatch.setattr(measuring, "busy_cores", lambda *_: 0.0)
    assert choose(trained_bundle, capsys, *options)["busy_cores"] == 0
    before = load_measurements(trained_bundle).measurements
    assert choose(trained_bundle, capsys, *options, "--measure-again")["best"] is not None
    assert load_measurements(trained_bundle).measurements != before
    assert main(["choose", str(trained_bundle.path), "--measure-again", "--no-measure"]) == 2


def test_queries_of_an_index_get_a_comparable_target(measured: Bundle) -> None:
    with pytest.raises(InputError, match=r"No target of another depth can search an index of 3x16.*projection=aligned"):
        choose_in_python(measured, max_latency="9ms", index_target="3x16")
    entries = [msgspec.structs.replace(entry, space="aligned") for entry in measured.manifest.targets]
    shared = Bundle(measured.path, msgspec.structs.replace(measured.manifest, targets=entries), measured.sha256)
    found = choose_in_python(shared, max_latency="2.5ms", index_target="3x16")
    assert found.best is not None and str(found.best.entry.target) == "2x16"
    assert {str(candidate.entry.target) for candidate in found.candidates} == {"2x16", "3x16"}
