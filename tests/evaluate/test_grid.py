import math
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.evaluation import collection_of, pairs

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.card import CARD_FILE
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.errors import InputError
from ese_deploy.evaluate import (
    BundleExits,
    StsData,
    evaluate_grid,
    evaluate_retrieval,
    evaluate_sts,
    with_shares,
)
from ese_deploy.evaluate.checkpoint import CheckpointExits
from ese_deploy.evaluate.save import save_quality
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.measurements.store import bundle_key
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus

# Two cosines that differ in the last digit may change places, and few texts are ranked here; Pearson knows no ranks.
RANKS = 0.02


def test_a_bundle_and_its_checkpoint_have_one_grid_and_it_is_what_each_target_scores_alone(
    tiny_bundle: Bundle, tiny_checkpoint: Path
) -> None:
    data, search = pairs(30, ["a", "b"] * 15), collection_of(25, 4)
    bundle, _ = evaluate_grid(BundleExits(tiny_bundle), [data], [search])
    checkpoint, _ = evaluate_grid(
        CheckpointExits(read_checkpoint(str(tiny_checkpoint)), dims=[8, 16]), [data], [search]
    )
    assert set(bundle) == {Target(1, 8), Target(2, 16), Target(3, 16), Target(3, 32)}
    assert set(checkpoint) == {Target(depth, dim) for depth in (1, 2, 3) for dim in (8, 16, 32)}
    for target, figures in bundle.items():
        values = {figure.metric: figure.value for figure in figures}
        alone = Encoder.open(tiny_bundle, target)
        assert values["sts_spearman"] == pytest.approx(evaluate_sts(alone, data).spearman, abs=RANKS)
        assert values["sts_pearson_mean"] == pytest.approx(evaluate_sts(alone, data).pearson_mean, abs=1e-5)
        assert values["ndcg_at_10"] == pytest.approx(evaluate_retrieval(alone, search).ndcg_at_10, abs=RANKS)
        for figure in checkpoint[target]:
            tolerance = 1e-5 if "pearson" in figure.metric else RANKS
            assert figure.value == pytest.approx(values[figure.metric], abs=tolerance)
        assert all(math.isnan(figure.share_of_full) for figure in figures)


def test_every_text_passes_a_checkpoint_once(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CheckpointExits(read_checkpoint(str(tiny_checkpoint)))
    seen: list[int] = []
    forward = model._model.forward
    monkeypatch.setattr(model._model, "forward", lambda ids, *rest: seen.append(len(ids)) or forward(ids, *rest))
    data = pairs(20)
    evaluate_grid(model, [data, data], [collection_of(15, 3)])
    assert sum(seen) == len(sample_corpus()) + 3 + 15


def test_queries_of_every_exit_search_documents_of_every_other(tiny_checkpoint: Path) -> None:
    model = CheckpointExits(read_checkpoint(str(tiny_checkpoint)), dims=[8])
    search = collection_of(25, 4)
    figures, cells = evaluate_grid(model, [], [search])
    assert {(cell.dim, cell.query, cell.document) for cell in cells} == {
        (dim, a, b) for dim in (8, 32) for a in (1, 2, 3) for b in (1, 2, 3)
    }
    for cell in cells:
        assert (cell.data, cell.comparable) == (search.name, cell.query == cell.document)
        own = (cell.dim, cell.document, cell.document)
        whole = next(one for one in cells if (one.dim, one.query, one.document) == own)
        assert cell.share == pytest.approx(cell.score.ndcg_at_10 / whole.score.ndcg_at_10, abs=1e-6)
        if cell.query == cell.document:
            assert cell.share == 1
            ndcg = next(one for one in figures[Target(cell.query, cell.dim)] if one.metric == "ndcg_at_10")
            assert ndcg.value == pytest.approx(cell.score.ndcg_at_10, abs=1e-6)


def judged_by(encoder: Encoder) -> StsData:
    """Pairs whose scores are an encoder's own cosines and noise as large: it scores well, and not perfectly."""
    data = pairs(30)
    cosines = np.sum(encoder.encode(data.first) * encoder.encode(data.second), axis=1)
    noise = np.random.default_rng(1).normal(scale=np.std(cosines), size=len(cosines))
    return replace(data, scores=cosines + noise)


def test_shares_are_of_the_full_model(tiny_bundle: Bundle) -> None:
    model = BundleExits(tiny_bundle)
    assert model.full == Target(3, 32)
    figures, _ = evaluate_grid(model, [judged_by(Encoder.open(tiny_bundle, model.full))], [])
    full = figures[model.full]
    assert {one.metric for one in full if 0.2 < one.value < 0.95} >= {"sts_spearman", "sts_pearson"}
    shares = with_shares(figures, full)
    for target, measured in shares.items():
        for one, whole in zip(measured, full, strict=True):
            assert one.share_of_full == pytest.approx(one.value / whole.value, abs=1e-6), target
    with pytest.raises(InputError, match="the full model has no"):
        with_shares(figures, full[:1])


@pytest.mark.parametrize("whole", [0.0, -0.2])
def test_a_share_of_nothing_is_one_for_what_is_no_worse(whole: float) -> None:
    def figure(value: float) -> Quality:
        return Quality(
            metric="sts_spearman", data="few", data_sha256="0" * 64, n=3, value=value, share_of_full=math.nan
        )

    targets = {Target(1, 8): -0.4, Target(2, 8): whole, Target(3, 8): 0.3}
    shares = with_shares({target: [figure(value)] for target, value in targets.items()}, [figure(whole)])
    assert [measured[0].share_of_full for measured in shares.values()] == [0.0, 1.0, 1.0]


def test_saving_changes_the_manifest_and_the_card_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    before = {path.name: path.read_bytes() for path in copy.path.iterdir()}
    model = BundleExits(copy)
    figures, _ = evaluate_grid(model, [pairs(30)], [])
    shares = with_shares(figures, figures[Target(3, 32)])
    saved = save_quality(save_quality(copy, shares), shares)
    after = {path.name: path.read_bytes() for path in copy.path.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json", CARD_FILE}
    assert saved.sha256 != copy.sha256
    assert bundle_key(saved) == bundle_key(copy)
    for entry in open_bundle(copy.path).manifest.targets:
        names = [(one.metric, one.data) for one in entry.quality]
        assert len(set(names)) == len(names)
        assert {"agreement", "sts_spearman"} <= {metric for metric, _ in names}
    sts = next(one for one in shares[Target(1, 8)] if one.metric == "sts_spearman")
    assert f"| {sts.value * 100:.2f} ({sts.share_of_full:.1%}) |" in after[CARD_FILE].decode()
    assert msgspec.json.decode(after["manifest.json"])["targets"][0]["quality"][-1]["data"] == "some"


@pytest.mark.slow
def test_saving_keeps_what_others_saved_while_the_bundle_was_measured(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    measured = open_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    figures, _ = evaluate_grid(BundleExits(measured), [pairs(30)], [])
    shares = with_shares(figures, figures[Target(3, 32)])
    renamed = {
        target: [msgspec.structs.replace(one, data=f"other {one.data}") for one in of] for target, of in shares.items()
    }
    export_bundle(ExportRequest(str(tiny_checkpoint), measured.path, [Target(1, 16)], update=True))
    save_quality(measured, shares)
    saved = save_quality(measured, renamed)
    held = {entry.name: {one.data for one in entry.quality} for entry in saved.manifest.targets}
    assert {"some", "other some"} <= held["d01_k008.fp32"]
    assert held["d01_k016.fp32"] == {SAMPLE_CORPUS_NAME}
    export_bundle(ExportRequest(str(tiny_checkpoint), measured.path, [Target(1, 16)], force=True))
    with pytest.raises(InputError, match=r"was replaced while it was measured\. Measure it again"):
        save_quality(measured, shares)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows opens no folder to lock it")
def test_who_saves_at_the_same_time_loses_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    measured = open_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    figure = Quality(metric="sts_spearman", data="", data_sha256="0" * 64, n=3, value=0.5, share_of_full=1.0)

    def save(name: str) -> None:
        save_quality(measured, {Target(1, 8): [msgspec.structs.replace(figure, data=name)]})

    sets = {f"set {number}" for number in range(8)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, sets))
    saved = open_bundle(measured.path).manifest.targets[0]
    assert sets <= {one.data for one in saved.quality}


def test_a_depth_or_dim_beyond_the_model_is_refused(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    with pytest.raises(InputError, match="depths must be 1 to 3, got 4"):
        CheckpointExits(checkpoint, depths=[4])
    with pytest.raises(InputError, match="dims must be 8 to 32, got 4"):
        CheckpointExits(checkpoint, dims=[4])
    assert np.allclose(np.linalg.norm(CheckpointExits(checkpoint).at(2, 8).encode(["a b"]), axis=1), 1, atol=1e-6)
