"""The main job on the real all-MiniLM-L6-v2, which an installed package carries."""

from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import MINILM

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bench.memory import measure_memory
from ese_deploy.bundle.reader import Bundle
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.texts import EDGE_CASE_TEXTS

TEXTS = [*EDGE_CASE_TEXTS, *(item.text for item in sample_corpus()[::4])]


def test_18_targets_equal_pytorch_and_take_the_room_of_one_model(minilm_bundle: Bundle) -> None:
    checkpoint = read_checkpoint(MINILM)
    entries = minilm_bundle.manifest.targets
    assert len(entries) == 18
    differences = [entry.parity[0].max_abs or 0 for entry in entries]
    assert 0 < max(differences) <= 1e-6
    size = sum(path.stat().st_size for path in minilm_bundle.path.iterdir())
    alone = checkpoint.weight_files[0].stat().st_size + (checkpoint.backbone_path / "tokenizer.json").stat().st_size
    print(f"18 targets: {size / 1e6:.1f} MB, {size / alone:.4f} x the checkpoint; difference {max(differences):.1e}")
    assert size <= 1.05 * alone


def test_the_full_target_is_what_sentence_transformers_computes(minilm_bundle: Bundle) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(read_checkpoint(MINILM).location.path), device="cpu")
    vectors = Encoder.open(minilm_bundle, "6x384").encode(TEXTS)
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-6)


def test_agreement_grows_with_depth_and_ends_at_one(minilm_bundle: Bundle) -> None:
    values = {entry.name: entry.quality[0].value for entry in minilm_bundle.manifest.targets}
    assert values["d06_k384.fp32"] == pytest.approx(1, abs=1e-6)
    assert values["d01_k384.fp32"] < values["d05_k384.fp32"] < values["d06_k128.fp32"] < 1


def test_search_over_the_collection_finds_the_topic(minilm_bundle: Bundle) -> None:
    items = sample_corpus()
    queries = [item for item in items if item.kind == "query"]
    documents = [item for item in items if item.kind != "query"]
    encoder = Encoder.open(minilm_bundle, "6x128")
    scores = encoder.similarity(
        encoder.encode_query([item.text for item in queries]),
        encoder.encode_document([item.text for item in documents]),
    )
    hits = [documents[best].topic == query.topic for query, best in zip(queries, scores.argmax(axis=1), strict=True)]
    assert np.mean(hits) >= 0.9


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc, which is Linux")
def test_a_shallow_target_adds_little_memory(minilm_bundle: Bundle) -> None:
    text = "The ferry to the island was late again, so we missed the last bus and walked home."
    use = measure_memory(minilm_bundle, Target(3, 128), "onnxruntime", threads=1, text=text)
    print(f"memory: {(use.bytes or 0) / 1e6:.1f} MB, at most {(use.peak_bytes or 0) / 1e6:.1f} MB with a batch of 32")
    assert 0 < (use.peak_bytes or 0) <= 60e6
