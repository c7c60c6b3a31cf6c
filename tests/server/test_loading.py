"""What a server loads: no engine that no target needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import Engine, load_engine
from ese_deploy.server import loading
from ese_deploy.server.settings import ServeSettings
from ese_deploy.target import Target

_SCRIPT = """
import sys
sys.modules["onnxruntime"] = None  # importing it fails
from pathlib import Path
from ese_deploy.engines import load_engine
from ese_deploy.errors import EngineError
from ese_deploy.server.loading import load_catalog
from ese_deploy.server.settings import ServeSettings
from ese_deploy.target import Target
bundle = {"tiny": Path(sys.argv[1])}
(target,) = load_catalog(ServeSettings(bundle, targets=(Target.parse("0x32"),)), 1).targets
print(target.lane.embed(target.lane.tokenizer(["a cat"]).encodings).shape)
try:
    load_catalog(ServeSettings(bundle, targets=(Target.parse("0x32"), Target.parse("1x32"))), 1)
except EngineError as error:
    print(error)
"""


def test_depth_0_needs_no_engine(projected_bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(projected_bundle.path)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    shape, error = done.stdout.splitlines()
    assert shape == "(1, 32)"
    assert "onnxruntime" in error.lower()


@pytest.mark.parametrize(
    ("workers", "targets", "engine", "expected"),
    [
        (2, "1x8,3x32", None, "onnxruntime:mapped"),
        (2, "1x8,3x32", "onnxruntime", "onnxruntime"),
        (2, "3x16,3x32", None, "onnxruntime"),
        (1, "1x8,3x32", None, "onnxruntime"),
    ],
)
def test_workers_share_weights_where_each_has_several_depths(
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    targets: str,
    engine: str | None,
    expected: str,
) -> None:
    names: list[str] = []

    def note(name: str) -> Engine:
        names.append(name)
        return load_engine(name)

    monkeypatch.setattr(loading, "load_engine", note)
    wanted = tuple(map(Target.parse, targets.split(",")))
    settings = ServeSettings({"tiny": Path(tiny_bundle.path)}, targets=wanted, workers=workers, engine=engine)
    texts = ["a cat", "a dog " * 20]
    for target in loading.load_catalog(settings, 1).targets:
        found = target.cut(target.lane.embed(target.lane.tokenizer(texts).encodings))
        assert np.abs(found - Encoder.open(tiny_bundle, target.label).encode(texts)).max() <= 1e-6
    assert names == [expected]
