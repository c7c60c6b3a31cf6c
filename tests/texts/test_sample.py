from collections import Counter

import msgspec

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import find_quality
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256
from ese_deploy.verify.texts import EDGE_CASE_TEXTS, verification_texts

WORDS = {"query": (2, 9), "sentence": (8, 30), "passage": (50, 170)}


def test_the_sample_corpus_is_balanced_varied_and_without_repeats() -> None:
    items = sample_corpus()
    assert len({item.text.lower() for item in items}) == len(items) == 384
    per_topic = Counter((item.topic, item.kind) for item in items)
    kinds = {kind: {count for (_, k), count in per_topic.items() if k == kind} for kind in WORDS}
    assert kinds == {"query": {4}, "sentence": {9}, "passage": {3}}
    for item in items:
        low, high = WORDS[item.kind]
        assert low <= len(item.text.split()) <= high, item.text
        assert item.text == item.text.strip()
    assert len(sample_corpus_sha256()) == 64


def test_figures_under_the_former_name_of_the_sample_corpus_are_read_and_found() -> None:
    figure = {"metric": "agreement", "data": "ese-deploy collection", "data_sha256": "0" * 64, "n": 384}
    read = msgspec.convert({**figure, "value": 0.5, "share_of_full": 0.5}, Quality)
    assert read.data == SAMPLE_CORPUS_NAME
    for name in ("agreement@ese-deploy collection", "agreement@sample corpus", "agreement"):
        assert find_quality([read], name) is read


def test_verification_texts_hold_one_of_exactly_the_longest_length_and_one_beyond() -> None:
    def count(text: str) -> int:
        return len(text.split()) + 2

    texts = verification_texts(count, 48)
    assert set(EDGE_CASE_TEXTS) <= set(texts)
    assert 48 in [count(text) for text in texts]
    assert max(count(text) for text in texts) > 90
