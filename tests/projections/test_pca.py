"""PCA projections: fitting, the graphs, and errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.tiny import HIDDEN

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle, open_bundle, read_projection
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.texts import MIN_TEXTS
from ese_deploy.projections.pca import Moments, fit_pca, minimum_texts
from ese_deploy.projections.projection import PROJECTIONS_FILE, decode_projections
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.targets import check_targets


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": item.text}) + "\n" for item in sample_corpus()), "utf-8")
    return path


@pytest.fixture(scope="module")
def request_(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportRequest:
    targets = [Target(1, 8), Target(3, 16), Target(3, 32)]
    out = tmp_path_factory.mktemp("pca") / "bundle"
    request = ExportRequest(str(tiny_checkpoint), out, targets, projection="pca", calibration=texts)
    export_bundle(request)
    return request


def test_batches_make_no_difference_and_memory_is_two_moments() -> None:
    x = np.random.default_rng(0).normal(size=(500, 12)) + 1
    whole, parts = Moments(12), Moments(12)
    whole.add(x)
    for start in range(0, 500, 7):
        parts.add(x[start : start + 7])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(parts.covariance(), np.cov(unit.T, bias=True), atol=1e-15)
    np.testing.assert_array_equal(fit_pca(whole).matrix, fit_pca(parts).matrix)


def test_components_are_orthonormal_sorted_and_signed() -> None:
    moments = Moments(12)
    x = np.random.default_rng(1).normal(size=(400, 12)) * np.arange(1, 13)
    moments.add(x)
    components = fit_pca(moments).matrix.astype(np.float64)
    np.testing.assert_allclose(components @ components.T, np.eye(12), atol=1e-6)
    variances = np.diag(components @ moments.covariance() @ components.T)
    assert (np.diff(variances) < 0).all()
    assert all(row[np.abs(row).argmax()] > 0 for row in components)


def test_too_few_texts_say_how_many_are_wanted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n", "utf-8")
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(3, 16)], projection="pca", calibration=few)
    wanted = max(minimum_texts(HIDDEN), MIN_TEXTS)
    with pytest.raises(InputError, match=f"2 texts, too few .* at least {wanted}"):
        export_bundle(request)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("projection", "calibrated", "said"),
    [
        ("pca", False, "Name a file with `calibration`"),
        ("random", False, "Unknown projection 'random'"),
    ],
)
def test_a_projection_that_does_not_fit_is_refused(
    projection: str, calibrated: bool, said: str, texts: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    calibration = texts if calibrated else None
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "x", projection=projection, calibration=calibration)
    with pytest.raises(InputError, match=said):
        export_bundle(request)


def test_the_manifest_says_what_it_was_fitted_on(request_: ExportRequest, texts: Path) -> None:
    manifest = open_bundle(request_.out).manifest
    assert manifest.projection == "pca"
    assert manifest.calibration is not None
    assert (manifest.calibration.file, manifest.calibration.texts) == (texts.name, len(sample_corpus()))
    assert [entry.space.partition("-")[0] for entry in manifest.targets] == ["exit01.pca", "exit03.pca", "exit03.pca"]


def test_vectors_are_rotated_prefixes_and_the_full_width_keeps_cosines(
    request_: ExportRequest, tiny_checkpoint: Path
) -> None:
    bundle = open_bundle(request_.out)
    sample = [item.text for item in sample_corpus()[:20]]
    pooled = Reference(read_checkpoint(str(tiny_checkpoint)), 3).pool(sample)
    components = decode_projections(read_projection(bundle) or b"", "")[3].matrix
    rotated = pooled @ components.T
    full = Encoder.open(bundle, "3x32").encode(sample)
    half = Encoder.open(bundle, "3x16").encode(sample)
    np.testing.assert_allclose(full, rotated / np.linalg.norm(rotated, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(half, full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True), atol=1e-5)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(full @ full.T, unit @ unit.T, atol=1e-5)


def test_verification_fails_on_a_graph_of_another_projection(
    request_: ExportRequest, tiny_checkpoint: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = open_bundle(request_.out)
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    engine = load_engine("onnxruntime")
    entry = bundle.manifest.targets[-1]
    assert entry.target == Target(3, 32)
    ((good, _),) = check_targets(bundle, checkpoint, engine, [entry], bundle_projections(bundle))
    assert not good.failures
    # Another bundle's plain graph, said to be projected.
    folder = tmp_path / "false"
    shutil.copytree(tiny_bundle.path, folder)
    shutil.copy(bundle.path / PROJECTIONS_FILE, folder)
    manifest = msgspec.structs.replace(tiny_bundle.manifest, projection_file=bundle.manifest.projection_file)
    wrong = replace(tiny_bundle, path=folder, manifest=manifest, stamps={})
    ((bad, _),) = check_targets(wrong, checkpoint, engine, manifest.targets[-1:], bundle_projections(wrong))
    assert any("max |difference| from PyTorch" in line for line in bad.failures)


@pytest.mark.slow
def test_an_update_keeps_the_projections_of_exits_that_are_there(request_: ExportRequest, texts: Path) -> None:
    before = decode_projections(read_projection(open_bundle(request_.out)) or b"", "")
    export_bundle(replace(request_, targets=[Target(2, 8), Target(3, 8)], update=True))
    bundle = open_bundle(request_.out)
    after = decode_projections(read_projection(bundle) or b"", "")
    assert sorted(after) == [1, 2, 3]
    for depth, pca in before.items():
        np.testing.assert_array_equal(after[depth].matrix, pca.matrix)
    assert len(bundle.manifest.targets) == 5
    plain = replace(request_, targets=[Target(1, 16)], update=True, projection="prefix", calibration=None)
    with pytest.raises(InputError, match="other projection"):
        export_bundle(plain)
