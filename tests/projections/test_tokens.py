"""Token features: rarity weights, the table of token vectors, and depth 0."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle, open_bundle, read_tokens
from ese_deploy.bundle.versions import require_version
from ese_deploy.engines import load_engine
from ese_deploy.errors import BundleError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.fitting import TokenCounts
from ese_deploy.projections.tokens import TokenFeatures, decode_tokens, encode_tokens, rarity_weights
from ese_deploy.runtime import Encoder
from ese_deploy.system.progress import Progress
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.targets import check_targets

TEXTS = [item.text for item in sample_corpus()]
TARGETS = ["0x16", "0x32", "0x16:int8", "1x32", "2x16", "3x32"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "calibration.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    return path


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("aligned") / "bundle"
    request = ExportRequest(str(tiny_checkpoint), out, TARGETS, projection="aligned", calibration=texts)
    return export_bundle(request).bundle


def test_tokens_of_every_text_weigh_nothing_and_rare_ones_most() -> None:
    weights = rarity_weights(np.array([1000, 500, 10, 0]), 1000)
    assert weights.dtype == np.float32
    assert weights[0] == 0 and weights[3] == 1
    assert np.all(np.diff(weights) > 0)


def test_token_features_are_read_as_they_were_written() -> None:
    features = TokenFeatures(np.arange(3, dtype=np.float32), np.ones((3, 4), np.float32))
    found = decode_tokens(encode_tokens(features), "tokens.safetensors")
    assert found.rarity is not None and found.table is not None
    np.testing.assert_array_equal(found.rarity, [0, 1, 2])
    assert found.table.shape == (3, 4)


@pytest.mark.parametrize(
    "features",
    [
        TokenFeatures(np.zeros(3, np.float32), np.ones((4, 4), np.float32)),
        TokenFeatures(np.zeros((3, 1), np.float32)),
        TokenFeatures(None, np.ones((3, 4), np.float64)),  # type: ignore[arg-type]
    ],
)
def test_a_file_of_other_tensors_is_refused(features: TokenFeatures) -> None:
    with pytest.raises(BundleError, match=r"tokens\.safetensors is not a file of token features: .*\. Export again\."):
        decode_tokens(encode_tokens(features), "tokens.safetensors")


def test_all_exits_share_one_embedding_space_and_read_the_features(bundle: Bundle) -> None:
    assert len({entry.space for entry in bundle.manifest.targets}) == 1
    projections = bundle_projections(bundle)
    assert projections is not None and set(projections) == {0, 1, 2, 3}
    assert projections[0].is_lookup and projections[3].tokens is None
    # Two states of 32 dimensions, their rarity-weighted means, and the token vectors.
    assert projections[1].matrix.shape == (32, 32 * 5)
    assert projections[1].tokens is projections[2].tokens


def test_each_graph_equals_the_reference(bundle: Bundle, tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    engine, projections = load_engine("onnxruntime"), bundle_projections(bundle)
    checks = [check for check, _ in check_targets(bundle, checkpoint, engine, bundle.manifest.targets, projections)]
    assert len(checks) == len(TARGETS)
    assert [check.failures for check in checks] == [()] * len(checks)


@pytest.mark.parametrize("target", ["0x16", "0x32", "0x16:int8"])
def test_numpy_computes_depth_0_as_the_graph_does(bundle: Bundle, target: str) -> None:
    texts = ["", "a", "one two three", *TEXTS[:100], "word " * 3000]
    with_numpy = Encoder.open(bundle, target, log_truncated=False)
    with_engine = Encoder.open(bundle, target, engine="onnxruntime", log_truncated=False)
    assert with_numpy.get_sentence_embedding_dimension() == Target.parse(target).dim
    np.testing.assert_allclose(with_numpy.encode(texts), with_engine.encode(texts), atol=2e-6)
    np.testing.assert_allclose(with_numpy.encode(texts[3]), with_engine.encode(texts[3]), atol=2e-6)


@pytest.mark.parametrize("target", ["0x32", "0x16:int8"])
@pytest.mark.parametrize("text", ["", "one two three", "word " * 3000])
def test_one_text_is_embedded_as_in_a_batch(bundle: Bundle, target: str, text: str) -> None:
    encoder = Encoder.open(bundle, target, log_truncated=False)
    vector, usage = encoder.encode(text, return_usage=True)
    batch, usage_of_batch = encoder.encode([text], return_usage=True)
    np.testing.assert_allclose(vector, batch[0], atol=1e-7)
    assert vector.dtype == np.float32 and usage == usage_of_batch
    assert encoder.truncated_texts == 2 * usage.truncated == (2 if len(text) > 3000 else 0)


@pytest.mark.parametrize("engine", [None, "auto"])
def test_depth_0_does_not_import_an_engine(bundle: Bundle, engine: str | None) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from ese_deploy import Encoder; "
        f"print(Encoder.open({str(bundle.path)!r}, '0x16', engine={engine!r}).encode('a text').shape, "
        "'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(16,) False"


def test_depth_0_comes_near_to_the_full_model_in_its_index(bundle: Bundle) -> None:
    encoder = Encoder.open(bundle, query_target="0x32", document_target="3x32")
    queries, documents = encoder.encode_query(TEXTS[:100]), encoder.encode_document(TEXTS[:100])
    found = (queries @ documents.T).argmax(1) == np.arange(100)
    assert found.mean() > 0.2  # by chance 0.01


@pytest.mark.slow
def test_targets_added_later_read_the_same_features(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, bundle: Bundle
) -> None:
    out = tmp_path / "bundle"
    first = ExportRequest(str(tiny_checkpoint), out, ["0x16", "1x32"], projection="aligned", calibration=texts)
    before = read_tokens(export_bundle(first).bundle)
    later = ExportRequest(str(tiny_checkpoint), out, ["2x16"], projection="aligned", calibration=texts, update=True)
    after = export_bundle(later).bundle
    assert read_tokens(after) == before
    vectors, expected = (Encoder.open(one, "2x16").encode(TEXTS[:20]) for one in (after, bundle))
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    other = ExportRequest(
        str(tiny_checkpoint),
        out,
        ["3x16"],
        projection="aligned",
        calibration=texts,
        update=True,
        token_features="rarity",
    )
    with pytest.raises(InputError, match="was made with other token features: rarity,table, now rarity"):
        export_bundle(other)


@pytest.mark.parametrize("features", ["rarity", "table"])
def test_each_feature_can_be_left_out(features: str, tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    request = ExportRequest(
        str(tiny_checkpoint),
        tmp_path / "out",
        ["1x16"],
        projection="aligned",
        calibration=texts,
        token_features=features,
    )
    made = export_bundle(request)
    assert all(not check.failures for check in made.checks)
    projections = bundle_projections(open_bundle(tmp_path / "out"))
    assert projections is not None and projections[1].tokens is not None
    assert projections[1].tokens.names == {features}


def test_depth_0_without_a_table_is_refused(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    plain = ExportRequest(str(tiny_checkpoint), tmp_path / "out", ["0x16"])
    with pytest.raises(InputError, match=r"Depth 0 is a table of token vectors, fitted on texts\. Add `projection="):
        export_bundle(plain)
    options = {"projection": "aligned", "calibration": texts, "token_features": "rarity"}
    with pytest.raises(InputError, match="Depth 0 needs the token feature 'table'"):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", ["0x16"], **options))  # type: ignore[arg-type]
    export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", ["1x16"], **options))  # type: ignore[arg-type]
    later = {**options, "token_features": None, "update": True}
    with pytest.raises(InputError, match="has no table of token vectors, which depth 0 needs"):
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", ["0x16"], **later))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("features", "projection"), [("tables", "aligned"), ("none,table", "aligned"), ("table", "pca")]
)
def test_wrong_token_features_are_refused(
    features: str, projection: str, tiny_checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    request = ExportRequest(
        str(tiny_checkpoint),
        tmp_path / "out",
        ["1x16"],
        projection=projection,
        calibration=texts,
        token_features=features,
    )
    with pytest.raises(InputError, match="`token_features`"):
        export_bundle(request)


def test_the_encoder_of_depth_0_can_be_pickled_and_belongs_to_one_version(bundle: Bundle) -> None:
    import pickle

    encoder = Encoder.open(bundle, "0x16")
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]))
    require_version(bundle.path, bundle.stamps, "weights.fp32.data")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8", "int8-fp16"])
def test_token_features_work_in_every_dtype(dtype: str, tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    targets = [f"{target}:{dtype}" for target in ("0x16", "0x32", "2x16")]
    request = ExportRequest(
        str(tiny_checkpoint), tmp_path / "out", targets, projection="aligned", calibration=texts, keep_failed=True
    )
    made = export_bundle(request)
    assert [check.failures for check in made.checks] == [()] * 3
    table = next(entry.weight_bytes for entry in made.bundle.manifest.targets if entry.depth == 0)
    rows, item = 600, {"int8": 1}.get(dtype, 2)
    # int8 has a scale for each row.
    assert table == rows * (32 * item + (4 if item == 1 else 0))


@pytest.mark.slow
def test_vectors_in_the_source_space(tiny_checkpoint: Path, texts: Path, tmp_path: Path, bundle: Bundle) -> None:
    request = ExportRequest(
        str(tiny_checkpoint),
        tmp_path / "out",
        ["0x32", "1x32"],
        projection="aligned",
        calibration=texts,
        space="source",
    )
    made = export_bundle(request).bundle
    for target in ("0x32", "1x32"):
        rotated = Encoder.open(bundle, target, space="source").encode(TEXTS[:20])
        np.testing.assert_allclose(Encoder.open(made, target).encode(TEXTS[:20]), rotated, atol=1e-4)


def test_a_table_may_be_larger_than_other_files(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ese_deploy.bundle.reader._MAX_FILE", 8)
    assert read_tokens(bundle) == (bundle.path / "tokens.safetensors").read_bytes()


def test_calibration_texts_that_change_between_the_two_passes_are_refused(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ese_deploy.export.states import CheckpointStates

    for more in (1, -1):
        count = CheckpointStates.count_tokens

        def other(source: CheckpointStates, progress: Progress, count: Any = count, more: int = more) -> TokenCounts:
            found = count(source, progress)
            return TokenCounts(found.texts + more, found.with_token)

        monkeypatch.setattr(CheckpointStates, "count_tokens", other)
        request = ExportRequest(
            str(tiny_checkpoint), tmp_path / "out", ["1x16"], projection="aligned", calibration=texts
        )
        with pytest.raises(InputError, match="was changed while it was read"):
            export_bundle(request)
        monkeypatch.undo()
        assert not (tmp_path / "out").exists()


def test_bulk_jobs_of_depth_0_need_no_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from ese_deploy.bulk import embedder

    def missing(_: str) -> None:
        raise AssertionError("an engine was loaded")

    monkeypatch.setattr(embedder, "load_engine", missing)
    opened = embedder.Embedder.open(embedder.ModelSettings(bundle.path, ("0x16",)))
    assert opened.embeds_every_text
