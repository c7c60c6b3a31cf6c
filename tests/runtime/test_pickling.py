"""An encoder goes to other processes, which open the same bundle again."""

import copy
import importlib.util
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle
from ese_deploy.engines import load_engine
from ese_deploy.errors import BundleError, InputError
from ese_deploy.runtime import Encoder

TEXTS = ["A cat sat.", "word " * 100, ""]


def test_a_pickle_opens_the_same_bundle_with_the_same_arguments(aligned_bundle: Bundle) -> None:
    encoder = Encoder.open(
        aligned_bundle,
        query_target="2x16",
        document_target="3x16",
        threads=1,
        engine="onnxruntime",
        log_truncated=False,
    )
    again: Encoder = pickle.loads(pickle.dumps(encoder))
    assert repr(again) == repr(encoder)
    np.testing.assert_array_equal(again.encode_query(TEXTS), encoder.encode_query(TEXTS))
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert len(pickle.dumps(encoder)) < 2000


def test_a_bundle_that_was_replaced_is_not_opened(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    data = pickle.dumps(Encoder.open(folder))
    manifest = folder / MANIFEST_FILE
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(BundleError, match="is not the bundle that the encoder was opened with"):
        pickle.loads(data)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="There is no bundle"):
        pickle.loads(data)


def test_an_engine_object_is_not_pickled(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="open it with an engine's name"):
        pickle.dumps(Encoder.open(tiny_bundle, engine=load_engine("onnxruntime")))


def test_copies_share_the_graphs_and_count_for_themselves(tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle, log_truncated=False)
    encoder.encode(TEXTS)
    for other in (copy.copy(encoder), copy.deepcopy({"key": encoder})["key"]):
        assert other is not encoder and other._documents is encoder._documents
        assert (other.truncated_texts, encoder.truncated_texts) == (0, 1)
        np.testing.assert_array_equal(other.encode(TEXTS), encoder.encode(TEXTS))
        encoder._truncated = 1
        assert repr(pickle.loads(pickle.dumps(other))) == repr(encoder)


@pytest.mark.slow
def test_processes_that_are_spawned_embed(tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle, threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(encoder.encode, [TEXTS])
    np.testing.assert_array_equal(found, encoder.encode(TEXTS))


@pytest.mark.slow
def test_workers_of_joblib_embed(tiny_bundle: Bundle) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    encoder = Encoder.open(tiny_bundle, threads=1)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(encoder.encode)(text) for text in TEXTS)
    np.testing.assert_allclose(np.stack(found), encoder.encode(TEXTS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_actor_embeds(tiny_bundle: Bundle) -> None:
    import ray

    class Worker:
        def __init__(self, encoder: Encoder) -> None:
            self.encoder = encoder

        def embed(self, texts: list[str]) -> object:
            return self.encoder.encode(texts)

    encoder = Encoder.open(tiny_bundle, threads=1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(Worker).remote(encoder)
        np.testing.assert_array_equal(ray.get(actor.embed.remote(TEXTS)), encoder.encode(TEXTS))
    finally:
        ray.shutdown()
