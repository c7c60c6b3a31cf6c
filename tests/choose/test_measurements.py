import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ese_deploy.bench import Effort, measure
from ese_deploy.bench.measure import texts_of
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle
from ese_deploy.cli.app import main
from ese_deploy.errors import EngineError, InputError
from ese_deploy.measurements.cases import Case
from ese_deploy.measurements.store import (
    Measurement,
    bundle_key,
    cache_folder,
    check_owner,
    clear_measurements,
    import_measurements,
    list_measurements,
    load_measurements,
    read_measurements,
    store_measurements,
    write_measurements,
)
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.machine import Machine, describe_machine
from ese_deploy.system.threads import available_threads

OTHER = Machine("some other processor", 4, 2**32, "aarch64", "Linux")


def figure(target: str = "d01_k008.fp32", p95: float = 0.001, **changes) -> Measurement:
    one = Measurement(target, "onnxruntime", {}, "latency", 32, 2, 10, {"p50": p95, "p95": p95, "p99": p95})
    return msgspec.structs.replace(one, **changes)


def test_a_new_figure_replaces_the_old_one_of_its_case_and_no_other(tiny_bundle: Bundle) -> None:
    store_measurements(tiny_bundle, [figure(), figure("d03_k032.fp32"), figure(tokens=8)])
    store_measurements(tiny_bundle, [figure(p95=0.5)])
    held = load_measurements(tiny_bundle).measurements
    assert [(one.target, one.tokens, one.values["p95"]) for one in held] == [
        ("d01_k008.fp32", 8, 0.001),
        ("d01_k008.fp32", 32, 0.5),
        ("d03_k032.fp32", 32, 0.001),
    ]


def test_figures_belong_to_a_bundle_and_a_machine(tiny_bundle: Bundle, tmp_path: Path) -> None:
    store_measurements(tiny_bundle, [figure()])
    assert load_measurements(tiny_bundle, OTHER).measurements == []
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    assert load_measurements(open_bundle(folder)).measurements  # the same content under another name
    file = tmp_path / "out.json"
    write_measurements(file, load_measurements(tiny_bundle))
    held = read_measurements(file)
    check_owner(held, tiny_bundle, file, describe_machine())
    with pytest.raises(InputError, match=r"out\.json was measured on another machine \(.*\), this is some other"):
        check_owner(held, tiny_bundle, file, OTHER)
    stranger = msgspec.structs.replace(held, bundle="f" * 64)
    with pytest.raises(InputError, match="was measured of another bundle"):
        check_owner(stranger, tiny_bundle, file)


def test_figures_are_listed_exported_imported_and_cleared(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert list_measurements() == []
    held = store_measurements(tiny_bundle, [figure()])
    write_measurements(tmp_path / "out.json", held)
    assert list_measurements() == [held]
    assert clear_measurements(tiny_bundle) == 1
    assert clear_measurements() == 0
    assert list_measurements() == []
    assert import_measurements(read_measurements(tmp_path / "out.json")) == held
    assert load_measurements(tiny_bundle) == held


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 9}', "[]"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        read_measurements(tmp_path / "bad.json")


def test_the_cache_lies_where_the_variable_says_or_the_platform_wants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESE_DEPLOY_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("ESE_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ese-deploy"


def test_a_user_without_a_home_needs_a_cache_only_where_something_is_kept(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does without a home folder
    monkeypatch.delenv("ESE_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ese-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert load_measurements(tiny_bundle).measurements == []
    with pytest.raises(InputError, match="no home folder for the cache"):
        store_measurements(tiny_bundle, [figure()])


def test_a_cache_that_cannot_be_read_holds_nothing_and_one_that_cannot_be_written_says_so(
    tiny_bundle: Bundle, own_cache: Path
) -> None:
    own_cache.write_text("a file where a folder should be")
    assert load_measurements(tiny_bundle).measurements == []
    with pytest.raises(InputError, match=r"Cannot write .*measurements: Not a directory. Set ESE_DEPLOY_CACHE"):
        store_measurements(tiny_bundle, [figure()])


def test_what_several_write_at_once_is_kept(tiny_bundle: Bundle) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tokens: store_measurements(tiny_bundle, [figure(tokens=tokens)]), range(40)))
    assert len(load_measurements(tiny_bundle).measurements) == 40


def test_the_key_of_a_bundle_is_of_what_runs(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    other = msgspec.structs.replace(manifest.targets[0], sha256="1" * 64)
    changed = msgspec.structs.replace(manifest, targets=[other, *manifest.targets[1:]])
    described = msgspec.structs.replace(manifest, tool_versions={})
    assert bundle_key(Bundle(tiny_bundle.path, changed, "")) != bundle_key(tiny_bundle)
    assert bundle_key(Bundle(tiny_bundle.path, described, "")) == bundle_key(tiny_bundle)


@pytest.mark.parametrize("tokens", [2, 3, 32, 48])
def test_a_text_of_so_many_tokens_is_made(tiny_bundle: Bundle, tokens: int) -> None:
    assert load_tokenizer(tiny_bundle)(texts_of(tiny_bundle, tokens, 1)).lengths.tolist() == [tokens]


@pytest.mark.parametrize("tokens", [1, 49])
def test_a_text_that_the_model_does_not_take_is_refused(tiny_bundle: Bundle, tokens: int) -> None:
    with pytest.raises(InputError, match=f"Cannot time a text of {tokens} tokens: .* accepts 2 to 48 tokens"):
        texts_of(tiny_bundle, tokens, 1)


def test_latency_throughput_and_memory_are_measured(tiny_bundle: Bundle) -> None:
    entries = tiny_bundle.manifest.targets
    effort = Effort(rounds=3, calls=4)
    seen: list[tuple[str, int, int]] = []
    found = measure(
        tiny_bundle, entries, "latency", Case(16), effort=effort, progress=lambda *stage: seen.append(stage)
    )
    assert [one.target for one in found] == [entry.name for entry in entries]
    for one in found:
        assert 0 < one.values["p50"] <= one.values["p95"] <= one.values["p99"]
        assert (one.runs, one.tokens, one.threads) == (12, 16, available_threads())
        assert one.versions["onnxruntime"]
    assert seen[-1] == ("measure latency", 12, 12)
    (rate,) = measure(tiny_bundle, entries[:1], "throughput", Case(16, 1), effort=effort)
    assert rate.values["texts_per_second"] > 0
    assert (rate.runs, rate.threads) == (3, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports RssAnon")
def test_memory_is_measured_in_a_process_of_its_own(tiny_bundle: Bundle) -> None:
    (one,) = measure(tiny_bundle, [choose_entry(tiny_bundle)], "memory", Case())
    assert 0 < one.values["bytes"] < 1e9
    assert one.values["process_peak_bytes"] > one.values["bytes"] + 20e6, "the interpreter and its libraries count too"
    assert one.values["load_seconds"] > 0


def test_figures_are_of_engines_without_a_suffix(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("cli.console", "bench.api"):  # OpenVINO may not be installed
        monkeypatch.setattr(f"ese_deploy.{module}.load_engine", lambda name: None)
    for verb in (["measurements", "make"], ["bench"]):
        assert main([*verb, str(tiny_bundle.path), "--engine", "openvino:bf16"]) == 2
        assert "Engine 'openvino:bf16' cannot be measured. Choose one of: onnxruntime, " in capsys.readouterr().err


def test_an_unknown_engine_is_refused(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measurements", "make", str(tiny_bundle.path), "--engine", "steam"]) == 2
    assert "Unknown engine 'steam'" in capsys.readouterr().err
    with pytest.raises(EngineError, match="Unknown engine 'steam'"):
        measure(tiny_bundle, tiny_bundle.manifest.targets, "latency", Case(), "steam")
