"""A bundle whose exits count as trained, so that ``choose`` may recommend them."""

import importlib
import shutil
from pathlib import Path

import msgspec
import pytest

from ese_deploy.bundle.manifest import Quality, encode_manifest
from ese_deploy.bundle.reader import Bundle, open_bundle

# Of 1x8, 2x16, 3x16 and 3x32.
AGREEMENTS = (0.6, 0.8, 0.9, 1.0)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures count although other tests use the processors."""
    monkeypatch.setattr(importlib.import_module("ese_deploy.bench.measure"), "busy_cores", lambda *_: 0.0)


@pytest.fixture(scope="package")
def trained_folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _with(tiny_bundle, tmp_path_factory.mktemp("trained") / "bundle", trained=True)


@pytest.fixture
def trained_bundle(trained_folder: Path) -> Bundle:
    return open_bundle(trained_folder)


@pytest.fixture
def untrained_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same bundle and figures without trained exits."""
    return open_bundle(_with(tiny_bundle, tmp_path / "untrained", trained=False))


def _with(bundle: Bundle, folder: Path, trained: bool) -> Path:
    shutil.copytree(bundle.path, folder)
    targets = [
        msgspec.structs.replace(
            entry,
            trained=trained or entry.depth == bundle.manifest.depth,
            quality=[
                Quality(metric="agreement", data="d", data_sha256="0" * 64, n=9, value=value, share_of_full=value)
            ],
        )
        for entry, value in zip(bundle.manifest.targets, AGREEMENTS, strict=True)
    ]
    manifest = msgspec.structs.replace(bundle.manifest, targets=targets)
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder
