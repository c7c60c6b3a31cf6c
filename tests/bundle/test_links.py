import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.snapshots import make_snapshot

from ese_deploy.bundle.hashes import check_files
from ese_deploy.bundle.links import follow_link
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.writer import rewrite_targets
from ese_deploy.errors import BundleError, EngineError, InputError
from ese_deploy.export.request import check_output
from ese_deploy.runtime import Encoder

WEIGHTS = "weights.fp32.data"
TEXTS = ["hello", "a longer text, with some more words"]


@pytest.fixture
def snapshot(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return make_snapshot(tiny_bundle.path, tmp_path / "hub")


def test_a_snapshot_opens_and_embeds_as_the_plain_folder_does(tiny_bundle: Bundle, snapshot: Path) -> None:
    assert open_bundle(snapshot).sha256 == tiny_bundle.sha256
    assert list(check_files(open_bundle(snapshot))) == list(check_files(tiny_bundle))
    found = Encoder.open(snapshot, "3x16").encode(TEXTS)
    assert np.array_equal(found, Encoder.open(tiny_bundle, "3x16").encode(TEXTS))


def test_openvino_reads_a_snapshot(tiny_bundle: Bundle, snapshot: Path) -> None:
    pytest.importorskip("openvino")
    found = Encoder.open(snapshot, "3x16", engine="openvino").encode(TEXTS)
    assert np.abs(found - Encoder.open(tiny_bundle, "3x16").encode(TEXTS)).max() <= 1e-5


def test_a_link_to_a_snapshot_opens(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(snapshot)
    assert Encoder.open(tmp_path / "mine", "1x8").dim == 8


def test_absolute_links_into_the_blobs_are_followed(snapshot: Path) -> None:
    target = (snapshot / WEIGHTS).resolve()
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(target)
    assert follow_link(snapshot / WEIGHTS) == target


def test_the_file_behind_a_link_is_hashed(snapshot: Path) -> None:
    blob = (snapshot / "d03_k016.fp32.onnx").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"d03_k016.fp32.onnx is not the file that was exported"):
        open_bundle(snapshot)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "manifest.json", "other.data"])
@pytest.mark.parametrize("where", ["outside", "another repository", "the snapshot", "a parent"])
def test_a_link_that_leaves_the_blobs_is_refused(snapshot: Path, tmp_path: Path, name: str, where: str) -> None:
    content = snapshot / (name if name != "other.data" else WEIGHTS)
    other = tmp_path / "hub/models--me--other/blobs"
    other.mkdir(parents=True)
    place = {"outside": tmp_path, "another repository": other, "the snapshot": snapshot, "a parent": snapshot.parent}
    copied = Path(shutil.copy(content, place[where] / "copied"))
    (snapshot / name).unlink(missing_ok=True)
    (snapshot / name).symlink_to(os.path.relpath(copied, snapshot))
    with pytest.raises(BundleError, match=f"{name} is a link that leaves the repository folder"):
        open_bundle(snapshot)


def test_a_second_link_is_not_followed(snapshot: Path, tmp_path: Path) -> None:
    blob = (snapshot / WEIGHTS).resolve()
    blob.rename(tmp_path / "outside.data")
    blob.symlink_to(tmp_path / "outside.data")
    with pytest.raises(BundleError, match="is a link to something that is not a regular file"):
        open_bundle(snapshot)


def test_blobs_that_are_a_link_themselves_are_refused(snapshot: Path, tmp_path: Path) -> None:
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "moved")
    blobs.symlink_to(tmp_path / "moved")
    with pytest.raises(BundleError, match="is a link that leaves the repository folder"):
        open_bundle(snapshot)


def test_a_link_to_nothing_says_so(snapshot: Path) -> None:
    (snapshot / WEIGHTS).resolve().unlink()
    with pytest.raises(BundleError, match=f"{WEIGHTS} is missing: its link leads to no file"):
        open_bundle(snapshot)


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname"])
def test_a_graph_of_a_snapshot_reads_nothing_outside_the_blobs(
    tiny_bundle: Bundle, tmp_path: Path, location: str
) -> None:
    copied = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    path = copied / "d03_k016.fp32.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(item for item in tensor.external_data if item.key == "location").value = location
    content = model.SerializeToString()
    path.write_bytes(content)
    manifest = json.loads((copied / "manifest.json").read_text())
    entry = next(entry for entry in manifest["targets"] if entry["file"] == path.name)
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (copied / "manifest.json").write_text(json.dumps(manifest))
    snapshot = make_snapshot(copied, tmp_path / "hub")
    shutil.copy(copied / WEIGHTS, snapshot.parents[1] / "outside.data")
    with pytest.raises((BundleError, EngineError)):
        Encoder.open(snapshot, "3x16")


def test_the_cache_is_never_changed(snapshot: Path) -> None:
    with pytest.raises(InputError, match="in the Hugging Face cache, which must not be changed"):
        rewrite_targets(open_bundle(snapshot), lambda entry: entry)
    for update, force in ((True, False), (False, True)):
        with pytest.raises(InputError, match="in the Hugging Face cache"):
            check_output(snapshot, update, force)
