import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle, read_golden, verify_weights
from ese_deploy.errors import BundleError, InputError
from ese_deploy.runtime import Encoder


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to damage."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(bundle: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_a_whole_bundle_opens_and_its_weights_have_their_hash(tiny_bundle: Bundle) -> None:
    opened = open_bundle(tiny_bundle.path)
    for entry in opened.manifest.weights:
        verify_weights(opened, entry)
    manifest = (tiny_bundle.path / "manifest.json").read_bytes()
    assert opened.sha256 == hashlib.sha256(manifest).hexdigest()


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "There is no bundle at .*. Make one with: ese-deploy export")
    refused(tmp_path, "is not a bundle: it has no manifest.json")
    (tmp_path / "manifest.json").mkdir()
    refused(tmp_path, "manifest.json")


@pytest.mark.parametrize("name", ["d03_k016.fp32.onnx", "weights.fp32.data", "tokenizer.json", "golden.json"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"{name} is missing")


@pytest.mark.parametrize("name", ["d03_k016.fp32.onnx", "weights.fp32.data", "tokenizer.json", "golden.json"])
def test_a_cut_file_is_named(bundle: Path, name: str) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-7])
    refused(bundle, f"{name} has .* bytes, but .* in the manifest")


def test_a_graph_of_the_right_size_but_other_content_is_refused(bundle: Path) -> None:
    path = bundle / "d03_k016.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    refused(bundle, r"d03_k016.fp32.onnx is not the file that was exported \(sha256")


def test_swapped_graphs_are_refused(bundle: Path) -> None:
    first, second = bundle / "d03_k016.fp32.onnx", bundle / "d03_k032.fp32.onnx"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    refused(bundle, "is not the file that was exported|bytes, but .* in the manifest")


def test_a_swapped_tokenizer_is_refused_when_it_is_loaded(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"the", b"teh", 1))
    with pytest.raises(BundleError, match=r"tokenizer.json is not the file that was exported"):
        Encoder.open(bundle)


def test_a_tokenizer_that_cannot_be_read_is_one_line(bundle: Path) -> None:
    content = b'{"version": "1.0"}'
    (bundle / "tokenizer.json").write_bytes(content)
    new = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda manifest: manifest["tokenizer"].update(new))
    with pytest.raises(BundleError, match=r"tokenizer.json is not a tokenizer that an export writes: .*`model`"):
        Encoder.open(bundle)


def test_changed_weights_are_found_by_their_hash(bundle: Path) -> None:
    path = bundle / "weights.fp32.data"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=r"weights.fp32.data is not the file that was exported"):
        verify_weights(opened, opened.manifest.weights[0])


def test_what_the_system_refuses_to_read_is_one_line(bundle: Path, tmp_path: Path) -> None:
    refused(tmp_path / ("a" * 300), "Cannot read .*aaa: File name too long. Check its permissions")
    opened = open_bundle(bundle)
    (bundle / "weights.fp32.data").unlink()
    with pytest.raises(BundleError, match=r"Cannot read .*weights.fp32.data: No such file"):
        verify_weights(opened, opened.manifest.weights[0])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../d03_k016.fp32.onnx", "..", "a/b.onnx", ".hidden", "C:x.onnx", "x.onnx\n", "", "a\\b"]
)
def test_a_name_that_leaves_the_folder_is_refused(bundle: Path, name: str) -> None:
    edit(bundle, lambda manifest: manifest["targets"][0].update(file=name))
    refused(bundle, "manifest.json")


@pytest.mark.parametrize("named", [True, False])
def test_a_link_is_refused_even_if_the_manifest_does_not_name_it(bundle: Path, tmp_path: Path, named: bool) -> None:
    name = "weights.fp32.data" if named else "other.data"
    shutil.copy(bundle / "weights.fp32.data", tmp_path / "outside.data")
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).symlink_to(tmp_path / "outside.data")
    refused(bundle, f"{name} is a link, which a bundle must not contain")


def test_a_pipe_in_place_of_a_file_does_not_block(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    refused(bundle, "manifest.json is not a regular file")


def test_a_folder_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "golden.json").unlink()
    (bundle / "golden.json").mkdir()
    refused(bundle, "golden.json is not a regular file")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["targets"].append(manifest["targets"][0]),
        lambda manifest: manifest["targets"].clear(),
        lambda manifest: manifest["weights"].clear(),
        lambda manifest: manifest["targets"][0].update(depth=2),
        lambda manifest: manifest["targets"][0].update(dim=4096),
        lambda manifest: manifest["targets"][0].update(dtype="fp4"),
        lambda manifest: manifest["golden"].update(file=manifest["tokenizer"]["file"]),
        lambda manifest: manifest["tokenizer"].update(pad_id=10**20),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(bundle, change)
    refused(bundle, "manifest.json")


def test_a_bundle_of_a_removed_dtype_says_so(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["targets"][0].update(dtype="int8-dynamic"))
    refused(bundle, "Dtype 'int8-dynamic' is no longer supported. Choose one of: fp32, .*Export the bundle again")


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname", "no-such.data"])
def test_a_graph_that_points_outside_the_bundle_does_not_load(bundle: Path, tmp_path: Path, location: str) -> None:
    """A hostile bundle may agree with its own hashes; the engine must still not read outside the folder."""
    shutil.copy(bundle / "weights.fp32.data", tmp_path / "outside.data")
    path = bundle / "d03_k016.fp32.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = location
    content = model.SerializeToString()
    path.write_bytes(content)
    new = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    index = [entry["file"] for entry in json.loads((bundle / "manifest.json").read_text())["targets"]].index(path.name)
    edit(bundle, lambda manifest: manifest["targets"][index].update(new))
    with pytest.raises(
        BundleError, match=r"is not a graph that an export writes: .* only weights.fp32.data is allowed"
    ):
        Encoder.open(bundle, "3x16")


def test_without_a_target_the_deepest_and_widest_is_chosen(tiny_bundle: Bundle) -> None:
    assert str(choose_entry(tiny_bundle).target) == "3x32"


def test_a_target_that_is_not_there_lists_those_that_are(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="holds no target 2x32; it holds 1x8, 2x16, 3x16, 3x32"):
        choose_entry(tiny_bundle, "2x32")


def test_a_relative_path_holds_where_the_working_directory_changes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = Encoder.open("bundle", threads=2)
    monkeypatch.chdir("/")
    assert encoder.encode(["hello"] * 8, batch_size=1, precision="int8").shape == (8, 32)
    assert encoder._documents.streams._several is not None


@pytest.mark.parametrize("name", [".", "inside/.."])
def test_paths_without_a_name_of_their_own_open(bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (bundle / "inside").mkdir()
    monkeypatch.chdir(bundle)
    assert open_bundle(name).path.resolve() == bundle.resolve()


@pytest.mark.parametrize(("name", "message"), [("", "The path of the bundle is empty"), ("/", "/ is not a bundle")])
def test_paths_that_are_no_bundles_are_refused(name: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        open_bundle(name)


def test_a_bundle_whose_replacement_was_cut_off_opens(bundle: Path) -> None:
    bundle.rename(bundle.with_name("bundle.previous"))
    assert open_bundle(bundle).manifest.targets


def test_a_small_file_takes_little_memory_to_read(tiny_bundle: Bundle) -> None:
    tracemalloc.start()
    try:
        read_golden(tiny_bundle)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
