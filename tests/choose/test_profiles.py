import json
import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest
from helpers.tiny import names

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.choose.measurements import Measurement, store_measurements
from ese_deploy.choose.profiles import (
    package_profiles,
    parse_profiles,
    read_profiles,
)
from ese_deploy.choose.resolution import profile_target, resolve_profile, resolved_toml
from ese_deploy.cli.app import main
from ese_deploy.engines import Engine, load_engine
from ese_deploy.errors import BundleError, CheckFailedError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.profiled import keep_resolved, write_profiles
from ese_deploy.runtime import Encoder
from ese_deploy.runtime import encoder as encoder_module
from ese_deploy.system.threads import available_threads
from ese_deploy.target import Target


def with_agreement(bundle: Bundle, values: list[float]) -> Bundle:
    """The bundle with other agreements, in the order 1x8, 2x16, 3x16, 3x32."""
    targets = [
        msgspec.structs.replace(
            entry,
            quality=[
                Quality(metric="agreement", data="d", data_sha256="0" * 64, n=9, value=value, share_of_full=value)
            ],
        )
        for entry, value in zip(bundle.manifest.targets, values, strict=True)
    ]
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, targets=targets), "")


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_the_package_has_four_profiles_and_each_has_a_target_in_any_bundle(tiny_bundle: Bundle) -> None:
    profiles = package_profiles()
    assert list(profiles) == ["edge", "balanced", "server", "full"]
    for values in ([0.1, 0.2, 0.3, 1.0], [0.96, 0.99, 0.99, 1.0]):
        bundle = with_agreement(tiny_bundle, values)
        for name, profile in profiles.items():
            assert resolve_profile(name, profile, bundle.manifest).target is not None


def test_a_profile_takes_what_its_budgets_say(tiny_bundle: Bundle) -> None:
    manifest = with_agreement(tiny_bundle, [0.5, 0.98, 0.98, 1.0]).manifest
    found = {name: resolve_profile(name, profile, manifest) for name, profile in package_profiles().items()}
    assert {name: str(one.target) for name, one in found.items()} == {
        "edge": "3x32",  # all are below 30 MB: the best
        "balanced": "2x16",  # the smallest from 0.9
        "server": "3x32",
        "full": "3x32",
    }
    assert not found["full"].fell_back
    assert "no target has the dtype int8, fp32 stands in" in found["edge"].why
    assert "no target has the engine tensorrt, onnxruntime stands in" in found["server"].why
    assert found["edge"].fell_back and found["server"].fell_back


def test_what_gives_way_is_said_and_gives_way_no_more_than_it_must(tiny_bundle: Bundle) -> None:
    manifest = with_agreement(tiny_bundle, [0.5, 0.96, 0.98, 1.0]).manifest
    toml = b'[a]\nmax_size_mb = 0.001\nmin_quality = 0.95\nmay_relax = ["max_size_mb"]\n[b]\nmax_size_mb = 0.001\n'
    profiles = parse_profiles(toml, "mine.toml")
    a, b = (resolve_profile(name, profile, manifest) for name, profile in profiles.items())
    assert (a.target, a.fell_back) == (Target(2, 16), True)
    assert "nothing keeps max_size_mb, it gives way" in a.why
    assert b.target is None
    assert "no target fits" in b.why and "1x8 would fit with another size" in b.why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\n\nmax_size_mb = "x"', r"mine.toml line 3, profile 'a': Expected `float | null`, got `str`"),
        ('[a]\n[b]\nmax_latency = "5"', r"line 3, profile 'b': \$.max_latency: a latency '5' has no unit"),
        ("[a]\nsize = 3", r"line 2, profile 'a': .*unknown field `size`; known are description, target, depth"),
        ("[a]\nmin_quality = 7", r"line 2, profile 'a': .*quality '7.0' is above 1"),
        ('[a]\ndtype = ["fp32", "fp4"]', r"line 2, profile 'a': .*'fp4' is none of fp32, fp16, bf16, int8"),
        ('[a]\ntarget = "3"', r"line 2, profile 'a': .*Target '3' is not DEPTHxDIM"),
        ('[a]\nprefer = "luck"', r"line 2, profile 'a'"),
        ("[a]\nmax_size_mb = -3", r"line 2, profile 'a'"),
        ("[a]\nmax_size_mb = inf", r"line 2, profile 'a': Expected `float` <= 1000000000000.0"),
        ("[a]\nmax_memory_mb = nan", r"line 2, profile 'a': "),
        ("a = 3", r"line 1, profile 'a'"),
        ("[a\n", r"mine.toml is not TOML: .*line 1"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_profiles(write(tmp_path / "mine.toml", text))


def test_a_users_profile_replaces_the_packages_of_that_name(tmp_path: Path) -> None:
    profiles = read_profiles(write(tmp_path / "mine.toml", '\ufeff[edge]\ntarget = "1x8"\n[tiny]\ndepth = 1\n'))
    assert list(profiles) == ["edge", "balanced", "server", "full", "tiny"]
    assert (profiles["edge"].target, profiles["tiny"].depth) == ("1x8", 1)


def test_what_was_resolved_is_read_back_as_it_was_written(tiny_bundle: Bundle) -> None:
    profiles = parse_profiles('["odd name"]\ndescription = "a \\"quote\\", \u00fc\\n"\nmin_quality = 0'.encode(), "x")
    text = resolved_toml({**package_profiles(), **profiles}, tiny_bundle.manifest)
    again = parse_profiles(text, "again")
    for name, profile in profiles.items():
        kept = msgspec.structs.replace(again[name], resolved=None, why=None, fell_back=False)
        assert kept == profile
    assert tomllib.loads(text.decode())["full"]["resolved"] == "3x32"


def test_a_bundle_carries_its_profiles_and_opens_by_them(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.manifest.profiles is not None
    assert "profiles.toml" in names(tiny_bundle.path)
    assert Encoder.open(tiny_bundle, profile="full").target == Target(3, 32)
    with pytest.warns(UserWarning, match="no target has the dtype int8, fp32 stands in"):
        Encoder.open(tiny_bundle, profile="edge")
    with pytest.raises(InputError, match=r"there is no profile 'none' .*; there is edge, balanced, server, full"):
        Encoder.open(tiny_bundle, profile="none")
    with pytest.raises(InputError, match="name a target or a profile, not both"):
        Encoder.open(tiny_bundle, "1x8", profile="full")


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ('engine = ["openvino", "onnxruntime"]', "openvino"),
        ('target = "2x16"\nengine = "openvino"', "openvino"),
        ('engine = ["tensorrt", "onnxruntime"]', "onnxruntime"),
        ('max_memory_mb = 9\nengine = ["onnxruntime", "openvino"]', "openvino"),
        ("", "onnxruntime"),
    ],
)
@pytest.mark.filterwarnings("ignore:profile mine")
def test_a_profiles_engine_runs_it_unless_another_is_named(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, engine: str
) -> None:
    def load(name: str) -> Engine:
        asked.append(name)
        return load_engine("onnxruntime")

    asked: list[str] = []
    monkeypatch.setattr(encoder_module, "load_engine", load)
    if "memory" in text:
        figures = {"onnxruntime": 10e6, "openvino": 8e6}
        store_measurements(
            tiny_bundle,
            [
                Measurement("d03_k032.fp32", name, {}, "memory", 32, available_threads(), 9, {"bytes": size})
                for name, size in figures.items()
            ],
        )
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    file = write(tmp_path / "mine.toml", f"[mine]\n{text}\n")
    write_profiles(folder, tiny_bundle.manifest, read_profiles(file))
    bundle = open_bundle(folder)
    texts, out = write(tmp_path / "in.txt", "a\n"), tmp_path / "out.npy"
    command = ["embed", str(folder), str(texts), "--out", str(out), "--profile", "mine"]
    Encoder.open(bundle, profile="mine")
    assert main(command) == 0
    assert main([*command, "--profiles", str(file)]) == 0
    assert asked == [engine] * 3
    Encoder.open(bundle, profile="mine", engine="onnxruntime")
    assert main([*command, "--engine", "openvino"]) == 0
    assert asked[3:] == ["onnxruntime", "openvino"]


def test_changed_profiles_are_not_believed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    text = (folder / "profiles.toml").read_text()
    (folder / "profiles.toml").write_text(text.replace('resolved = "3x32"', 'resolved = "2x16"'))
    with pytest.raises(BundleError, match=r"profiles\.toml"):
        Encoder.open(open_bundle(folder), profile="full")


def test_engines_of_a_profile_that_this_version_has_not_are_passed_over(tiny_bundle: Bundle) -> None:
    toml = b'[a]\nengine = ["steam", "onnxruntime"]\n[b]\nengine = "steam"\n'
    a, b = (resolve_profile(name, one, tiny_bundle.manifest) for name, one in parse_profiles(toml, "x").items())
    assert (a.target, a.fell_back) == (Target(3, 32), True)
    assert b.target is None and "there is no engine steam; there is onnxruntime" in b.why


def test_a_budget_on_time_is_resolved_with_what_this_machine_measured(tiny_bundle: Bundle, tmp_path: Path) -> None:
    profiles = read_profiles(write(tmp_path / "mine.toml", '[fast]\nmax_latency = "2ms p50"\n'))
    with pytest.raises(InputError, match=r"bounds latency, which this machine has not measured; .* choose"):
        profile_target(tiny_bundle, "fast", profiles)
    figures = [
        Measurement(entry.name, "onnxruntime", {}, "latency", 32, available_threads(), 9, {"p50": entry.depth / 1000})
        for entry in tiny_bundle.manifest.targets
    ]
    store_measurements(tiny_bundle, figures)
    assert profile_target(tiny_bundle, "fast", profiles).target == Target(2, 16)


def test_export_keeps_of_a_grid_what_its_profiles_choose(tiny_checkpoint: Path, tmp_path: Path) -> None:
    mine = write(
        tmp_path / "mine.toml",
        '[small]\nmin_quality = 0\nprefer = "size"\n[named]\ntarget = "2x16"\n[never]\nmin_quality = 1\ndepth = 1\n',
    )
    request = ExportRequest(
        str(tiny_checkpoint),
        tmp_path / "out",
        depths=(1, 3),
        dims=(8, 32),
        profiles=("small", "named"),
        profiles_file=mine,
    )
    bundle = export_bundle(request).bundle
    assert [str(entry.target) for entry in bundle.manifest.targets] == ["1x32", "2x16"]  # as small as 1x8, and better
    profiles = tomllib.loads((bundle.path / "profiles.toml").read_text())
    assert (profiles["small"]["resolved"], profiles["named"]["resolved"]) == ("1x32", "2x16")
    assert profiles["never"]["resolved"] == ""


def test_an_export_for_a_profile_that_no_target_fits_is_refused(tiny_bundle: Bundle) -> None:
    profiles = parse_profiles(b"[never]\nmin_quality = 1\ndepth = 1\n[slow]\nmax_latency = '1s'\n", "mine.toml")
    with pytest.raises(CheckFailedError, match="1 profiles have no target; nothing was written") as error:
        keep_resolved(tiny_bundle.manifest, profiles, ["never"])
    assert "profile never: no target fits" in error.value.failures[0]
    # A budget on time is for the machine that runs it: all stay.
    assert len(keep_resolved(tiny_bundle.manifest, profiles, ["slow"])) == 4


def test_embed_says_what_a_profile_means(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = write(tmp_path / "in.txt", "a\n"), tmp_path / "out.npy"
    mine = write(tmp_path / "mine.toml", '[mine]\ntarget = "2x16"\n')
    arguments = ["embed", str(tiny_bundle.path), str(texts), "--out", str(out), "--json"]
    assert main([*arguments, "--profile", "edge"]) == 0
    printed = capsys.readouterr()
    assert "fp32 stands in" in printed.err
    assert main([*arguments, "--profile", "mine", "--profiles", str(mine)]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "2x16"
    assert main([*arguments, "--profile", "mine"]) == 2
    assert "there is edge, balanced, server, full" in capsys.readouterr().err
    assert main([*arguments, "--profiles", str(mine)]) == 2
    assert "--profiles names a file; say with --profile NAME" in capsys.readouterr().err
    assert main([*arguments, "--profile", "edge", "--target", "1x8"]) == 2
