import json
import shutil
from pathlib import Path

import msgspec
import pytest

from ese_deploy.bundle.manifest import Quality, encode_manifest
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.writer import describe_file
from ese_deploy.choose import resolve_profile, select_for_profiles
from ese_deploy.choose.profiles import package_profiles, parse_profiles, read_profiles
from ese_deploy.choose.resolution import resolve_in_manifest
from ese_deploy.cli.app import main
from ese_deploy.engines import DEFAULT_ENGINE, Engine, load_engine
from ese_deploy.errors import BundleError, CheckFailedError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.measurements.store import Measurement, store_measurements
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


def carrying(bundle: Bundle, folder: Path, text: str) -> Bundle:
    """A copy of the bundle that carries profiles."""
    shutil.copytree(bundle.path, folder)
    file = describe_file("profiles.toml", write(folder / "profiles.toml", text).read_bytes())
    (folder / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(bundle.manifest, profiles=file)))
    return open_bundle(folder)


def test_the_package_has_four_profiles_and_each_has_a_target_in_any_bundle(trained_bundle: Bundle) -> None:
    profiles = package_profiles()
    assert list(profiles) == ["edge", "balanced", "server", "full"]
    for values in ([0.1, 0.2, 0.3, 1.0], [0.96, 0.99, 0.99, 1.0]):
        bundle = with_agreement(trained_bundle, values)
        for name, profile in profiles.items():
            assert resolve_in_manifest(name, profile, bundle.manifest).target


def test_a_profile_takes_what_its_budgets_say(trained_bundle: Bundle) -> None:
    manifest = with_agreement(trained_bundle, [0.5, 0.98, 0.98, 1.0]).manifest
    found = {name: resolve_in_manifest(name, profile, manifest) for name, profile in package_profiles().items()}
    assert {name: str(one.target) for name, one in found.items()} == {
        "edge": "3x32",  # all are below 30 MB: the best
        "balanced": "2x16",  # the smallest from 0.9
        "server": "3x32",
        "full": "3x32",
    }
    assert not found["full"].fell_back
    assert "no target has the dtype int8, fp32 is used instead" in found["edge"].reason
    assert "no target has the engine tensorrt, onnxruntime is used instead" in found["server"].reason
    assert found["edge"].fell_back and found["server"].fell_back


def test_what_gives_way_is_said_and_gives_way_no_more_than_it_must(trained_bundle: Bundle) -> None:
    manifest = with_agreement(trained_bundle, [0.5, 0.96, 0.98, 1.0]).manifest
    toml = b'[a]\nmax_size_mb = 0.001\nmin_quality = 0.95\nmay_relax = ["max_size_mb"]\n[b]\nmax_size_mb = 0.001\n'
    profiles = parse_profiles(toml, "mine.toml")
    a = resolve_in_manifest("a", profiles["a"], manifest)
    assert (a.target, a.fell_back) == (Target(2, 16), True)
    assert "max_size_mb is dropped because no target meets it" in a.reason
    with pytest.raises(InputError, match="Profile b: no target fits; 1x8 fits with another size"):
        resolve_in_manifest("b", profiles["b"], manifest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\n\nmax_size_mb = "x"', r"mine.toml line 3, profile 'a': Expected `float | null`, got `str`"),
        ('[a]\n[b]\nmax_latency = "5"', r"line 3, profile 'b': \$.max_latency: a latency '5' has no unit"),
        ("[a]\nsize = 3", r"line 2, profile 'a': .*unknown field `size`. Choose one of: description, target, depth"),
        ("[a]\nmin_quality = 7", r"line 2, profile 'a': .*quality '7.0' is above 1"),
        (
            '[a]\ndtype = ["fp32", "fp4"]',
            r"line 2, profile 'a': .*Unknown dtype 'fp4'. Choose one of: fp32,",
        ),
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


def test_a_bundle_of_an_earlier_version_carries_resolved_profiles_which_are_resolved_anew(
    trained_bundle: Bundle, tmp_path: Path
) -> None:
    text = '[full]\ndepth = "full"\nresolved = "1x8"\nfell_back = true\nwhy = "of its time"\n[mine]\ntarget = "2x16"\n'
    bundle = carrying(trained_bundle, tmp_path / "old", text)
    found = resolve_profile(bundle, "full")
    assert (found.target, found.fell_back) == (Target(3, 32), False)
    assert resolve_profile(bundle.path, "mine").target == Target(2, 16)
    assert resolve_profile(bundle, "mine", write(tmp_path / "own.toml", '[mine]\ntarget = "1x8"')).target == Target(
        1, 8
    )


def test_a_profile_is_resolved_when_it_is_asked_for(trained_bundle: Bundle) -> None:
    assert trained_bundle.manifest.profiles is None
    found = resolve_profile(str(trained_bundle.path), "full")
    assert (found.target, found.engine, found.fell_back) == (Target(3, 32), "onnxruntime", False)
    edge = resolve_profile(trained_bundle, "edge")
    assert edge.fell_back and "no target has the dtype int8, fp32 is used instead" in edge.reason
    with pytest.raises(InputError, match=r"Unknown profile 'none'. Choose one of: edge, balanced, server, full"):
        resolve_profile(trained_bundle, "none")


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
def test_a_profiles_engine_runs_it_unless_another_is_named(
    trained_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, engine: str
) -> None:
    def load(name: str) -> Engine:
        asked.add(name)
        return load_engine(DEFAULT_ENGINE)

    def asked_by(*options: str) -> set[str]:
        asked.clear()
        assert main([*command, *options]) == 0
        return set(asked)

    asked: set[str] = set()
    monkeypatch.setattr("ese_deploy.bulk.embedder.load_engine", load)
    if "memory" in text:
        figures = {"onnxruntime": 10e6, "openvino": 8e6}
        store_measurements(
            trained_bundle,
            [
                Measurement(
                    "d03_k032.fp32", name, {}, "memory", 32, available_threads(), 9, {"process_peak_bytes": size}
                )
                for name, size in figures.items()
            ],
        )
    bundle = carrying(trained_bundle, tmp_path / "copy", f"[mine]\n{text}\n")
    assert resolve_profile(bundle, "mine").engine == engine
    texts, out = write(tmp_path / "in.txt", "a\n"), tmp_path / "out.npy"
    command = ["embed", str(bundle.path), str(texts), "--out", str(out), "--profile", "mine", "--overwrite"]
    assert asked_by() == {engine}
    assert asked_by("--profiles", str(bundle.path / "profiles.toml")) == {engine}
    assert asked_by("--engine", "openvino") == {"openvino"}


def test_changed_profiles_are_refused(
    trained_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = carrying(trained_bundle, tmp_path / "copy", '[mine]\ntarget = "3x32"\n')
    write(bundle.path / "profiles.toml", '[mine]\ntarget = "2x16"\n')
    with pytest.raises(BundleError, match=r"profiles\.toml"):
        resolve_profile(open_bundle(bundle.path), "mine")
    for command, code in (("doctor", 1), ("verify", 2)):
        assert main([command, str(bundle.path)]) == code
        assert "profiles.toml is not the file that was exported" in capsys.readouterr().err


def test_engines_of_a_profile_that_this_version_has_not_are_passed_over(trained_bundle: Bundle) -> None:
    toml = b'[a]\nengine = ["steam", "onnxruntime"]\n[b]\nengine = "steam"\n'
    profiles = parse_profiles(toml, "x")
    a = resolve_profile(trained_bundle, "a", profiles)
    assert (a.target, a.fell_back) == (Target(3, 32), True)
    with pytest.raises(InputError, match=r"Unknown engine steam. Choose one of: onnxruntime"):
        resolve_profile(trained_bundle, "b", profiles)


def test_a_budget_on_time_is_resolved_with_what_this_machine_measured(trained_bundle: Bundle, tmp_path: Path) -> None:
    profiles = read_profiles(write(tmp_path / "mine.toml", '[fast]\nmax_latency = "2ms p50"\n'))
    with pytest.raises(InputError, match=r"limits latency, which this machine has not measured. See: ese-"):
        resolve_profile(trained_bundle, "fast", profiles)
    figures = [
        Measurement(entry.name, "onnxruntime", {}, "latency", 32, available_threads(), 9, {"p50": entry.depth / 1000})
        for entry in trained_bundle.manifest.targets
    ]
    store_measurements(trained_bundle, figures)
    assert resolve_profile(trained_bundle, "fast", profiles).target == Target(2, 16)


@pytest.mark.slow
def test_export_keeps_of_a_grid_what_its_profiles_choose(tiny_checkpoint: Path, tmp_path: Path) -> None:
    mine = write(
        tmp_path / "mine.toml",
        '[small]\nmin_quality = 0\nprefer = "size"\nallow_untrained = true\n'
        '[named]\ntarget = "2x16"\n[never]\nmin_quality = 1\ndepth = 1\n',
    )
    request = ExportRequest(
        str(tiny_checkpoint),
        tmp_path / "out",
        depths=(1, 3),
        dims=(8, 32),
        selection=select_for_profiles(["small", "named"], mine),
        profiles=mine.read_bytes(),
    )
    bundle = export_bundle(request).bundle
    assert [str(entry.target) for entry in bundle.manifest.targets] == ["1x32", "2x16"]  # as small as 1x8, and better
    assert (bundle.path / "profiles.toml").read_bytes() == mine.read_bytes()
    assert [resolve_profile(bundle, name).target.name for name in ("small", "named")] == [
        "d01_k032.fp32",
        "d02_k016.fp32",
    ]
    with pytest.raises(InputError, match="Profile never: no target fits"):
        resolve_profile(bundle, "never")


def test_an_export_for_a_profile_that_no_target_fits_is_refused(trained_bundle: Bundle, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.toml", "[never]\nmin_quality = 1\ndepth = 1\n[slow]\nmax_latency = '1s'\n")
    with pytest.raises(CheckFailedError, match="1 profiles have no target; nothing was written") as error:
        select_for_profiles(["never"], mine).select(trained_bundle.manifest)
    assert "Profile never: no target fits" in error.value.failures[0]
    slow = select_for_profiles(["slow"], mine)
    assert len(slow.select(trained_bundle.manifest)) == 4  # a limit on time is for the machine that runs it
    assert "its target is chosen on the machine that runs it" in slow.explain(trained_bundle.manifest)[0]


def test_a_profile_makes_the_grid_that_it_leaves_open_in_all_its_dtypes(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.toml", '[a]\ndepth = 2\ndtype = ["int8", "fp32"]\n[b]\ntarget = "1x8"\n')

    def grid(depths, dims, dtypes) -> list[Target]:
        assert (depths, dims) == ([2], None)
        return [Target(2, 16, dtype) for dtype in dtypes]

    found = select_for_profiles(["a", "b"], mine).candidates(3, 32, grid)
    assert [str(target) for target in found] == ["1x8", "2x16", "2x16:int8"]


def test_embed_says_what_a_profile_means(
    trained_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = write(tmp_path / "in.txt", "a\n"), tmp_path / "out.npy"
    mine = write(tmp_path / "mine.toml", '[mine]\ntarget = "2x16"\n')
    arguments = ["embed", str(trained_bundle.path), str(texts), "--out", str(out), "--json", "--overwrite"]
    assert main([*arguments, "--profile", "edge"]) == 0
    printed = capsys.readouterr()
    assert "fp32 is used instead" in printed.err
    assert main([*arguments, "--profile", "mine", "--profiles", str(mine)]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "2x16"
    assert main([*arguments, "--profile", "mine"]) == 2
    assert "Choose one of: edge, balanced, server, full" in capsys.readouterr().err
    assert main([*arguments, "--profiles", str(mine)]) == 2
    assert "--profiles needs --profile NAME" in capsys.readouterr().err
    assert main([*arguments, "--profile", "edge", "--target", "1x8"]) == 2
