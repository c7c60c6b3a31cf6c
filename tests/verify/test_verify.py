from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from helpers.tiny import HIDDEN, LAYERS

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.bundle.tolerances import TOLERANCES, fidelity_failures
from ese_deploy.engines import EngineInput, load_engine
from ese_deploy.errors import BundleError
from ese_deploy.runtime import Encoder
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify import verify
from ese_deploy.verify.fidelity import measure_fidelity
from ese_deploy.verify.parity import check_target
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.texts import EDGE_CASE_TEXTS

TEXTS = [*EDGE_CASE_TEXTS, *(item.text for item in sample_corpus()[:20])]


class FakeSession:
    """Changes what a real session returns."""

    def __init__(self, session: object, change: object) -> None:
        self.session, self.change = session, change

    @property
    def inputs(self) -> list[str]:
        return self.session.inputs  # type: ignore[attr-defined]

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self.change(self.session.run(inputs), inputs)  # type: ignore[attr-defined, operator]


class FakeEngine:
    """An engine with a fault."""

    name, device, versions = "fake", "cpu", {"fake": "1"}

    def __init__(self, change: object) -> None:
        self.change = change

    def load(self, source: EngineInput, threads: int) -> FakeSession:
        return FakeSession(load_engine("onnxruntime").load(source, threads), self.change)


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> np.ndarray:
    reference = Reference(read_checkpoint(str(tiny_checkpoint)), LAYERS)
    return reference.cut(reference.pool(TEXTS), 16)


def failures(bundle: Bundle, expected: np.ndarray, change: object) -> tuple[str, ...]:
    return check_target(bundle, choose_entry(bundle, "3x16"), FakeEngine(change), TEXTS, expected).failures  # type: ignore[arg-type]


def test_a_target_that_equals_pytorch_passes(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    check = check_target(tiny_bundle, choose_entry(tiny_bundle, "3x16"), load_engine("onnxruntime"), TEXTS, expected)
    assert check.failures == ()
    assert check.parity.passed
    assert check.parity.max_abs is not None and 0 < check.parity.max_abs < 1e-6


def test_a_difference_above_the_tolerance_fails(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    off = failures(tiny_bundle, expected, lambda vectors, _: vectors + np.float32(3 * TOLERANCES["fp32"].max_abs))
    assert any("max |difference| from PyTorch 3.0" in failure for failure in off)


def test_nan_fails(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    found = failures(tiny_bundle, expected, lambda vectors, _: vectors * np.float32("nan"))
    assert "a vector contains NaN or infinity" in found
    assert any("lowest cosine" in failure for failure in found)


def test_vectors_that_depend_on_their_batch_fail(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    def lean(vectors: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return vectors * np.float32(1 + 1e-4 * (len(vectors) == 7))

    assert any(failure.startswith("the batch size changes") for failure in failures(tiny_bundle, expected, lean))


def test_vectors_that_depend_on_padding_fail(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    def lean(vectors: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
        padding = (inputs["attention_mask"] == 0).mean(axis=1, keepdims=True)
        return (vectors * (1 + 1e-4 * padding)).astype(np.float32)

    found = failures(tiny_bundle, expected, lean)
    assert any(failure.startswith("padding changes") for failure in found)


def test_vectors_that_are_not_of_norm_1_fail(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    found = failures(tiny_bundle, expected, lambda vectors, _: vectors * np.float32(1.001))
    assert any(failure.startswith("a norm differs from 1") for failure in found)


def test_an_interface_other_than_the_contracts_fails(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    entry = choose_entry(tiny_bundle, "3x16")
    other = replace_output(tiny_bundle)
    with pytest.raises(BundleError, match=r"its outputs are sentence_embedding .*, not embedding_of_a_sentence"):
        check_target(other, entry, load_engine("onnxruntime"), TEXTS, expected)


def replace_output(bundle: Bundle) -> Bundle:
    import msgspec

    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, output="embedding_of_a_sentence"))


def test_what_failed_on_held_out_texts_at_export_still_fails(tiny_bundle: Bundle, expected: np.ndarray) -> None:
    other = measure_fidelity(expected[::-1], expected, "texts", "0" * 64)
    entry = msgspec.structs.replace(choose_entry(tiny_bundle, "3x16"), fidelity=other)
    check = check_target(tiny_bundle, entry, load_engine("onnxruntime"), TEXTS, expected)
    assert check.failures == fidelity_failures(other) != ()
    assert check.parity.passed is False


def test_the_reference_has_the_depth_asked_for_and_pools_on_its_own(tiny_checkpoint: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    checkpoint = read_checkpoint(str(tiny_checkpoint))
    model = AutoModel.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    for depth in range(1, LAYERS + 1):
        vectors = Reference(checkpoint, depth).pool(["A small boat crossed the lake."])
        features = tokenizer("A small boat crossed the lake.", return_tensors="pt")
        with torch.no_grad():
            states = model(**features, output_hidden_states=True).hidden_states[depth]
        assert vectors.shape == (1, HIDDEN)
        np.testing.assert_allclose(vectors, states.mean(1).numpy(), atol=1e-5)


def test_the_reference_shares_no_code_with_the_exits() -> None:
    source = Path(__file__).parents[2].joinpath("ese_deploy/verify/reference.py").read_text()
    imports = [line for line in source.splitlines() if line.startswith(("from ese_deploy", "import ese_deploy"))]
    assert not any("exits" in line or "pooling" in line or "Exits" in line or "pool" in line for line in imports)


def test_the_runtimes_tokens_are_those_of_transformers(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    reference = Reference(read_checkpoint(str(tiny_checkpoint)), 1)
    encodings = Encoder.open(tiny_bundle)._tokenizer([*TEXTS, "word " * 100]).encodings
    assert [encoding.ids for encoding in encodings] == [reference.token_ids(text) for text in [*TEXTS, "word " * 100]]


def test_verify_takes_a_path_and_reports_in_short(tiny_bundle: Bundle) -> None:
    report = verify(str(tiny_bundle.path))
    assert report.passed and not report.failures
    assert repr(report) == f"VerifyReport(Bundle('{tiny_bundle.path}', 4 targets), onnxruntime, 4 targets, passed)"
    assert repr(report.checks[0]) == "TargetCheck(1x8, passed)"
    failed = replace(report, checks=[replace(report.checks[0], failures=("too far",))])
    assert (failed.failures, failed.passed) == (["1x8: too far"], False)
