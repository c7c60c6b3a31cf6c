"""Ridge projections: fitting, the graphs, and comparing exits in the embedding space of the full model."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle, read_graph, read_projection
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.evaluate.full_model import agreement
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.calibrate import fit_projections
from ese_deploy.export.texts import read_calibration
from ese_deploy.projections.projection import Projection, decode_projections, input_states
from ese_deploy.projections.ridge import CrossMoments, fit_ridge, fit_ridge_projections
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.targets import check_targets

TEXTS = [item.text for item in sample_corpus()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    return path


def export(checkpoint: Path, out: Path, texts: Path | None, targets: list[Target]) -> Bundle:
    projection = "prefix" if texts is None else "aligned"
    features = None if texts is None else "none"
    request = ExportRequest(
        str(checkpoint), out, targets, projection=projection, calibration=texts, token_features=features
    )
    return export_bundle(request).bundle


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    targets = [Target(1, 32), Target(2, 16), Target(3, 16), Target(3, 32)]
    return export(tiny_checkpoint, tmp_path_factory.mktemp("aligned") / "bundle", texts, targets)


def test_a_linear_relation_is_found_and_batches_make_no_difference() -> None:
    random = np.random.default_rng(0)
    exact = random.normal(size=(12, 12))
    x = random.normal(size=(500, 12))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ exact.T
    norms = np.linalg.norm(y, axis=1, keepdims=True)
    whole, parts = CrossMoments(12, 12), CrossMoments(12, 12)
    whole.add(x, y)
    for start in range(0, 500, 7):
        parts.add(x[start : start + 7], y[start : start + 7] * 3)
    np.testing.assert_allclose(whole.solve(1e-3), parts.solve(1e-3), atol=1e-9)
    best = np.linalg.lstsq(x, y / norms, rcond=None)[0].T
    np.testing.assert_allclose(whole.solve(0), best, atol=1e-9)
    plain = Projection(np.eye(12, dtype=np.float32))
    assert np.linalg.norm(fit_ridge(whole, plain, 10.0)) < 0.2 * np.linalg.norm(best)


def test_components_have_the_spread_of_the_full_models(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    shown = random.normal(size=(600, 10))
    # Half of the full model's components cannot be predicted.
    full = np.concatenate([shown[:, :6], random.normal(size=(600, 6))], axis=1) * np.linspace(2, 0.5, 12)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    batches = [({1: shown[start : start + 50]}, full[start : start + 50]) for start in range(0, 600, 50)]
    rotated = full @ fit_ridge_projections(2, 12, {1: (1,)}, batches)[2].matrix.T
    plain, restored = (fit_ridge_projections(2, 12, {1: (1,)}, batches, restore=of)[1].matrix for of in (False, True))
    small, same = (np.square(shown @ matrix.T).mean(0) / np.square(rotated).mean(0) for matrix in (plain, restored))
    np.testing.assert_allclose(same, 1, rtol=1e-4)
    assert small.max() < 1.01 and small.min() < 0.3
    half = fit_ridge_projections(
        2, 12, {1: (1,)}, batches, trained=fit_ridge_projections(2, 12, {1: (1,)}, batches, restore=False), share=0.5
    )
    np.testing.assert_allclose(half[1].matrix, restored, atol=1e-5)


@pytest.mark.slow
def test_a_further_exit_is_fitted_into_the_space_that_is_there(
    bundle: Bundle, tiny_checkpoint: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projections = decode_projections(read_projection(bundle) or b"", "")
    other = Projection(projections[3].matrix[::-1].copy())
    monkeypatch.setattr("ese_deploy.export.calibrate.bundle_projections", lambda _: {3: other})
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    calibration = read_calibration(texts)
    found = fit_projections(
        checkpoint, load_backbone(checkpoint), [1, 3], "aligned", calibration, bundle, features=()
    ).by_exit
    np.testing.assert_array_equal(found[3].matrix, other.matrix)
    np.testing.assert_allclose(found[1].matrix, projections[1].matrix[::-1], atol=1e-4)


def test_a_projection_reads_at_most_six_states_from_the_embeddings_to_the_exit() -> None:
    assert input_states(1) == (0, 1)
    assert input_states(3) == (0, 1, 2, 3)
    assert input_states(12) == (0, 2, 5, 7, 10, 12)
    for depth in range(1, 49):
        states = input_states(depth)
        assert (states[0], states[-1]) == (0, depth) and len(set(states)) == min(depth + 1, 6)


@pytest.mark.slow
def test_all_exits_share_a_space_in_which_the_full_model_is_rotated(
    bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Its cosines stay, and its first dimensions have most of the variance."""
    assert len({entry.space for entry in bundle.manifest.targets}) == 1
    assert bundle.manifest.projection == "aligned"
    projections = decode_projections(read_projection(bundle) or b"", "")
    assert (projections[1].states, projections[2].states, projections[3].states) == ((0, 1), (0, 1, 2), ())
    assert projections[2].matrix.shape == (32, 96)
    plain = Encoder.open(export(tiny_checkpoint, tmp_path / "plain", None, [Target(3, 32)]), "3x32").encode(TEXTS)
    rotated = Encoder.open(bundle, "3x32").encode(TEXTS)
    np.testing.assert_allclose(rotated @ rotated.T, plain @ plain.T, atol=1e-5)
    assert rotated[:, :16].var(0).sum() > 1.5 * plain[:, :16].var(0).sum()


def test_the_graphs_compute_the_projections(bundle: Bundle, tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    engine, projections = load_engine("onnxruntime"), bundle_projections(bundle)
    checks = check_targets(bundle, checkpoint, engine, bundle.manifest.targets, projections)
    assert all(not check.failures for check, _ in checks)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "int8", "int8-fp16"])
def test_projections_are_computed_in_fp32_in_graphs_of_every_dtype(
    dtype: str, tiny_checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    made = export(tiny_checkpoint, tmp_path / "bundle", texts, [Target(2, 16, dtype)])
    (entry,) = made.manifest.targets
    assert all(parity.passed is not False for parity in entry.parity)
    graph = onnx.load_from_string(read_graph(made, entry))
    made_by = {output: node for node in graph.graph.node for output in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    last = made_by[graph.graph.output[0].name]
    while last.op_type not in ("MatMul", "Gemm"):
        last = made_by[last.input[0]]
    assert onnx.TensorProto.FLOAT in [kinds.get(name) for name in last.input]


@pytest.mark.slow
def test_a_shallow_exit_comes_nearer_to_the_full_model(bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    full = Encoder.open(bundle, "3x32").encode(TEXTS)
    aligned = Encoder.open(bundle, "1x32").encode(TEXTS)
    plain = Encoder.open(export(tiny_checkpoint, tmp_path / "plain", None, [Target(1, 32)]), "1x32").encode(TEXTS)
    assert (aligned * full).sum(1).mean() > (plain * full).sum(1).mean() + 0.1
    assert agreement(aligned, full) > agreement(plain, full)


@pytest.mark.slow
def test_shallow_queries_find_more_in_an_index_of_full_depth(
    bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    encoder = Encoder.open(bundle, query_target="2x16", document_target="3x16")
    aligned = encoder.similarity(encoder.encode_query(TEXTS[:50]), encoder.encode_document(TEXTS[:50]))
    plain = export(tiny_checkpoint, tmp_path / "plain", None, [Target(2, 16), Target(3, 16)])
    apart = Encoder.open(plain, "2x16").encode_query(TEXTS[:50]) @ Encoder.open(plain, "3x16").encode(TEXTS[:50]).T
    found, before = ((scores.argmax(1) == np.arange(50)).sum() for scores in (aligned, apart))
    assert found >= before + 5 and found >= 15


def test_without_texts_it_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16)], projection="aligned")
    with pytest.raises(InputError, match=r"'aligned' is fitted on texts of your own\. Name a file with `calibration`"):
        export_bundle(request)
