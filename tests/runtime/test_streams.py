"""Batches run several at once where there are enough of them, and come back in order."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import EngineError
from ese_deploy.runtime.streams import Streams
from ese_deploy.texts.sample import sample_corpus


class Recorder:
    """A session whose vectors are its inputs; two runs must be at work at once where it has a barrier."""

    def __init__(self, barrier: threading.Barrier | None = None) -> None:
        self.inputs = ["input_ids"]
        self.runs = 0
        self.barrier = barrier

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        self.runs += 1
        if self.barrier is not None:
            self.barrier.wait(timeout=30)
        if (inputs["input_ids"] < 0).any():
            raise EngineError("negative")
        return inputs["input_ids"].astype(np.float32)


def prepare(rows: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
    return {"input_ids": rows[:, None].astype(np.int64)}


def batches(count: int) -> list[NDArray[np.intp]]:
    return [np.array([2 * place, 2 * place + 1]) for place in range(count)]


def test_many_batches_run_at_once_and_keep_their_order() -> None:
    whole, single, loads = Recorder(), Recorder(threading.Barrier(2)), []
    streams = Streams(whole, 2, lambda: loads.append(1) or single)  # type: ignore[func-returns-value]
    for _ in range(2):
        found = list(streams.run(batches(6), prepare))
        for place, (rows, vectors) in enumerate(found):
            assert rows.tolist() == [2 * place, 2 * place + 1] == vectors[:, 0].tolist()
    assert (whole.runs, single.runs, len(loads)) == (0, 12, 1)


def test_few_batches_take_all_threads_each_and_open_nothing() -> None:
    whole = Recorder()
    assert len(list(Streams(whole, 2, lambda: pytest.fail("opened")).run(batches(3), prepare))) == 3
    assert len(list(Streams(whole, 1, lambda: pytest.fail("opened")).run(batches(9), prepare))) == 9
    assert len(list(Streams(whole).run(batches(9), prepare))) == 9
    assert whole.runs == 21


def test_an_error_of_one_batch_is_raised() -> None:
    streams = Streams(Recorder(), 2, Recorder)
    with pytest.raises(EngineError, match="negative"):
        list(streams.run([*batches(4), np.array([-1])], prepare))


def test_the_encoder_gives_the_same_vectors_in_streams(tiny_bundle: Bundle) -> None:
    texts = [item.text for item in sample_corpus()]
    streamed, plain = (Encoder.open(tiny_bundle, "3x32", threads=threads) for threads in (3, 1))
    vectors = streamed.encode(texts, batch_tokens=64)
    assert streamed._documents.streams._several is not None and plain._documents.streams._several is None
    np.testing.assert_allclose(vectors, plain.encode(texts, batch_tokens=64), atol=1e-6)


@pytest.mark.parametrize("replaced", [True, False])
def test_streams_compute_with_the_weights_that_were_opened(tiny_bundle: Bundle, tmp_path: Path, replaced: bool) -> None:
    texts = [item.text for item in sample_corpus()]
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    encoder = Encoder.open(bundle, "3x32", threads=2)
    bundle.rename(tmp_path / "before")
    if replaced:
        shutil.copytree(tiny_bundle.path, bundle)
        weights = np.fromfile(bundle / "weights.fp32.data", np.float32)
        (-weights).tofile(bundle / "weights.fp32.data")
    expected = Encoder.open(tiny_bundle, "3x32", threads=1).encode(texts)
    np.testing.assert_allclose(encoder.encode(texts, batch_tokens=64), expected, atol=1e-6)
