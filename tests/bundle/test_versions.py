import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile import forge

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.versions import retry_when_replaced
from ese_deploy.errors import BundleError
from ese_deploy.runtime import Encoder
from ese_deploy.system.files import replace_folder

TEXTS = ["a cat sat", "hello there world"]


@pytest.fixture
def versions(tiny_bundle: Bundle, tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles with equal graphs and other weights."""
    weights = np.fromfile(tiny_bundle.path / "weights.fp32.data", np.float32)
    other = np.where(np.abs(weights) < 10, weights * np.float32(1.3), weights).astype(np.float32)
    return tiny_bundle.path, forge(tiny_bundle.path, tmp_path / "other", {"weights.fp32.data": other.tobytes()})


def _replace(out: Path, source: Path) -> None:
    staged = out.with_name("staged")
    shutil.copytree(source, staged)
    replace_folder(staged, out)
    shutil.rmtree(staged, ignore_errors=True)


def test_a_target_that_is_loaded_after_a_replacement_is_refused(versions: tuple[Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(versions[0], tmp_path / "bundle"))
    opened = open_bundle(out)
    Encoder.open(opened, "1x8")
    _replace(out, versions[1])
    with pytest.raises(BundleError, match=r"was replaced by another bundle while it was in use\. Open it again"):
        Encoder.open(opened, "2x16")
    assert Encoder.open(out, "2x16").dim == 16


def test_opening_while_the_bundle_is_replaced_gives_one_version(versions: tuple[Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(versions[0], tmp_path / "bundle"))
    expected = [Encoder.open(version, "1x8", threads=1).encode(TEXTS) for version in versions]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    stop = threading.Event()

    def replace() -> None:
        turn = 1
        while not stop.is_set():
            _replace(out, versions[turn % 2])
            turn += 1
            stop.wait(0.1)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        found = [Encoder.open(out, "1x8", threads=1).encode(TEXTS) for _ in range(40)]
    finally:
        stop.set()
        writer.join()
    for vectors in found:
        assert min(float(np.abs(vectors - one).max()) for one in expected) < 1e-6


def test_an_attempt_is_repeated_only_if_the_manifest_changed(tmp_path: Path) -> None:
    manifest, calls = tmp_path / "manifest.json", []
    manifest.write_text("{}")

    def attempt() -> str:
        calls.append(1)
        if len(calls) == 1:
            manifest.write_text("{ }")
            raise BundleError("torn")
        return "whole"

    assert retry_when_replaced(manifest, attempt) == "whole"
    assert len(calls) == 2

    def fail() -> str:
        raise BundleError("damaged")

    with pytest.raises(BundleError, match="damaged"):
        retry_when_replaced(manifest, fail)
