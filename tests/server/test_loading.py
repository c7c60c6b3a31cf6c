"""What a server loads: no engine that no target needs."""

import subprocess
import sys

from ese_deploy.bundle.reader import Bundle

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
