"""Quantized vectors equal those of sentence-transformers, and the bundle contains their ranges."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers.util.quantization import quantize_embeddings

from ese_deploy.bundle.manifest import encode_manifest
from ese_deploy.bundle.ranges import RANGES_FILE, decode_ranges, load_ranges
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, open_bundle, read_ranges_file
from ese_deploy.cli.app import main
from ese_deploy.errors import BundleError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.precision import PRECISIONS, Precision, quantize
from ese_deploy.system.files import sha256_file
from ese_deploy.target import Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256

TEXTS = [item.text for item in sample_corpus()]


@pytest.fixture
def encoder(tiny_bundle: Bundle) -> Encoder:
    return Encoder.open(tiny_bundle)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    dim=st.integers(1, 40),
    precision=st.sampled_from(PRECISIONS),
    flat=st.booleans(),
)
def test_every_precision_is_what_sentence_transformers_makes(
    seed: int, rows: int, dim: int, precision: Precision, flat: bool
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, dim)).astype(np.float32)
    # Narrower than the vectors, so that some lie outside; a component may be the same in all texts.
    ranges = np.sort(random.normal(size=(2, dim)), axis=0).astype(np.float32)
    if flat:
        ranges[1, 0] = ranges[0, 0]
    expected = quantize_embeddings(vectors, precision, ranges)
    found = quantize(vectors, precision, ranges)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_encoder_quantises_with_the_bundles_ranges(
    encoder: Encoder, tiny_bundle: Bundle, precision: Precision
) -> None:
    ranges = load_ranges(tiny_bundle, tiny_bundle.manifest.targets[-1])
    expected = quantize_embeddings(encoder.encode(TEXTS[:20]), precision, ranges)
    found = encoder.encode(TEXTS[:20], precision=precision)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(encoder.encode_document(TEXTS[:20], precision=precision), expected)
    assert encoder.encode_query(TEXTS[:20], precision=precision).shape == expected.shape
    assert encoder.encode(TEXTS[0], precision=precision).shape == expected.shape[1:]
    assert encoder.encode([], precision=precision).shape == (0, *expected.shape[1:])
    assert next(encoder.encode_iter(TEXTS[:3], precision=precision)).dtype == expected.dtype


def test_ranges_are_the_ends_over_the_collection_for_every_target(tiny_bundle: Bundle) -> None:
    held = decode_ranges(read_ranges_file(tiny_bundle) or b"", RANGES_FILE)
    assert held.keys() == {entry.name for entry in tiny_bundle.manifest.targets}
    for entry in tiny_bundle.manifest.targets:
        vectors = Encoder.open(tiny_bundle, entry.target).encode(TEXTS)
        ends = np.stack([vectors.min(0), vectors.max(0)])
        np.testing.assert_allclose(load_ranges(tiny_bundle, entry), ends, atol=2e-6)
        described = held[entry.name]
        assert (described.data, described.data_sha256, described.n) == (SAMPLE_CORPUS_NAME, sample_corpus_sha256(), 384)


@pytest.mark.slow
def test_calibration_texts_decide_the_ranges_and_an_update_keeps_those_there_are(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    texts = [f"{text} again" for text in TEXTS[:200]]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts), "utf-8")
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(2, 16)], calibration=file)
    bundle = export_bundle(request).bundle
    vectors = Encoder.open(bundle).encode(texts)
    found = load_ranges(bundle, bundle.manifest.targets[0])
    np.testing.assert_allclose(found, np.stack([vectors.min(0), vectors.max(0)]), atol=2e-6)
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (calibration.file, calibration.sha256, calibration.texts) == ("texts.txt", sha256_file(file), 200)
    updated = export_bundle(replace(request, targets=[Target(3, 8)], update=True)).bundle
    np.testing.assert_array_equal(load_ranges(updated, updated.manifest.targets[0]), found)
    assert load_ranges(updated, updated.manifest.targets[1]).shape == (2, 8)
    with pytest.raises(InputError, match="other calibration texts"):
        export_bundle(replace(request, targets=[Target(1, 8)], update=True, calibration=None))


def test_too_few_calibration_texts_say_how_many_are_wanted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("one\ntwo\n", "utf-8")
    with pytest.raises(InputError, match=r"2 texts, too few to calibrate on. Use at least 128"):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(2, 16)], calibration=file))


@pytest.fixture
def old_bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle as it was before there were ranges."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_bundle.path, folder)
    (folder / RANGES_FILE).unlink()
    manifest = encode_manifest(msgspec.structs.replace(tiny_bundle.manifest, ranges=None))
    fields = msgspec.json.decode(manifest)
    del fields["ranges"]
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(fields))
    return open_bundle(folder)


def test_a_bundle_without_ranges_gives_floats_and_bits_and_says_what_int8_lacks(
    old_bundle: Bundle, encoder: Encoder
) -> None:
    old = Encoder.open(old_bundle)
    for precision in ("float32", "binary", "ubinary"):
        found = old.encode(TEXTS[:3], precision=precision)
        np.testing.assert_array_equal(found, encoder.encode(TEXTS[:3], precision=precision))
    with pytest.raises(InputError, match=r"has no ranges for target 3x32, which int8 and uint8 vectors need\. Export"):
        old.encode("a", precision="int8")


def test_damaged_ranges_are_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_bundle.path, folder)
    path = folder / RANGES_FILE
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match=r"ranges.json is not the file that was exported"):
        Encoder.open(folder).encode("a", precision="uint8")
    path.unlink()
    with pytest.raises(BundleError, match=r"ranges.json is missing"):
        open_bundle(folder)


def test_an_unknown_precision_lists_those_there_are(encoder: Encoder) -> None:
    with pytest.raises(
        InputError, match=r"Unknown precision 'int4'\. Choose one of: float32, int8, uint8, binary, ubinary"
    ):
        encoder.encode("a", precision="int4")  # type: ignore[arg-type]


def test_similarity_refuses_quantised_vectors(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS[:2], precision="int8")
    with pytest.raises(InputError, match="compares vectors of precision float32, got int8"):
        encoder.similarity(vectors, vectors)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_embed_writes_the_precision_that_it_is_asked_for(
    encoder: Encoder, tiny_bundle: Bundle, tmp_path: Path, precision: Precision
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join(text.replace("\n", " ") for text in TEXTS[:9]), "utf-8")
    arguments = ["embed", str(tiny_bundle.path), str(source), "--out", str(out), "--precision", precision]
    assert main(arguments) == 0
    expected = encoder.encode([text.replace("\n", " ") for text in TEXTS[:9]], precision=precision)
    found = np.load(out)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_embed_refuses_an_unknown_precision(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a\n")
    assert (
        main(["embed", str(tiny_bundle.path), str(source), "--out", str(tmp_path / "o.npy"), "--precision", "x"]) == 2
    )
    assert "Unknown precision 'x'" in capsys.readouterr().err
