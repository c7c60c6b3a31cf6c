"""ONNX Runtime on mapped weights: the same vectors, weights that were checked, and no private copy of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import EngineError
from ese_deploy.runtime import Encoder

TEXTS = ["a cat", "the night train leaves at nine, and it stops in every small town", "a dog"]


def test_mapped_weights_give_the_same_vectors(tiny_bundle: Bundle) -> None:
    plain, mapped = (Encoder.open(tiny_bundle, "3x16", engine=f"onnxruntime{name}") for name in ("", ":mapped"))
    np.testing.assert_allclose(mapped.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)


def test_one_session_of_mapped_weights_serves_every_dim(tiny_bundle: Bundle) -> None:
    wide, narrow = (Encoder.open(tiny_bundle, target, engine="onnxruntime:mapped") for target in ("3x32", "3x16"))
    np.testing.assert_allclose(wide.encode(TEXTS, dim=16), narrow.encode(TEXTS), atol=1e-7)


def test_mapped_weights_with_another_hash_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    weights = folder / "weights.fp32.data"
    changed = bytearray(weights.read_bytes())
    changed[100] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(EngineError, match=r"weights\.fp32\.data has the hash .*\. Get the bundle again\."):
        Encoder.open(folder, "3x16", engine="onnxruntime:mapped")
