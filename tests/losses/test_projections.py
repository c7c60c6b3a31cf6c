"""Trained projections of the exits, from the loss to the bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import short_run
from sentence_transformers import SentenceTransformer

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import open_bundle
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.evaluate.checkpoint import CheckpointExits
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.losses import AngleObjective, EseLoss, blank_projections, fit_projections
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, encode_projections
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training.projections import fit_length
from ese_deploy.verify.targets import check_targets

TEXTS = [item.text for item in sample_corpus()]


@pytest.fixture
def model(tiny_checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_checkpoint), device="cpu")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    assert (
        short_run(tiny_checkpoint, texts, out, "--learning_rate", "1e-3", "--warmup_steps", "0", "--align_w", "0.5")
        == 0
    )
    return out


def test_projections_align_every_exit_with_the_full_model(model: SentenceTransformer) -> None:
    projections = fit_projections(model, TEXTS, [1, 2, 3], max_length=48)
    blank = blank_projections(model, [1, 2, 3])
    assert {depth: (projection.matrix.shape, projection.states) for depth, projection in projections.items()} == {
        depth: (projection.matrix.shape, projection.states) for depth, projection in blank.items()
    }
    columns = [model.preprocess(TEXTS[:32], max_length=48)]
    with torch.no_grad():
        projected, plain = (
            EseLoss(model, projections=initial, dims=[32], align_w=1.0, hold_w=0.5).eval()(columns)
            for initial in (projections, None)
        )
    assert projected["hold"].item() < 1e-5
    assert projected["align"] < 0.5 * plain["align"]


def test_fitting_is_reproducible_and_does_not_change_the_model(model: SentenceTransformer) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    first, again = (fit_projections(model, texts, [2], max_length=48) for texts in (TEXTS, [*TEXTS, *TEXTS[:9]]))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    np.testing.assert_array_equal(first[2].matrix, again[2].matrix)


@pytest.mark.slow
def test_checkpoint_stores_projections_and_export_uses_them(trained: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(trained))
    assert sorted(checkpoint.projections) == [1, 2, 3]
    assert checkpoint.projections[2].states == (0, 1, 2)
    assert json.loads((trained / "ese.json").read_text("utf-8"))["aligned_exits"] is True
    exported = export_bundle(ExportRequest(str(trained), tmp_path / "bundle", [Target(2, 16), Target(3, 32)]))
    manifest = exported.bundle.manifest
    assert (manifest.projection, {entry.space for entry in manifest.targets}) == ("trained", {"aligned"})
    projections = bundle_projections(exported.bundle)
    checks = check_targets(exported.bundle, checkpoint, load_engine("onnxruntime"), manifest.targets, projections)
    assert not [failure for check, _ in checks for failure in check.failures]
    expected = CheckpointExits(checkpoint).at(2, 16).encode(TEXTS[:9])
    np.testing.assert_allclose(Encoder.open(exported.bundle, "2x16").encode(TEXTS[:9]), expected, atol=1e-5)
    asymmetric = Encoder.open(exported.bundle, query_target="2x16", document_target="2x16")
    assert asymmetric.encode_query(TEXTS[:2]).shape == (2, 16)


@pytest.mark.slow
def test_bundle_is_extended_by_an_exit_of_the_same_checkpoint(trained: Path, tmp_path: Path) -> None:
    export_bundle(ExportRequest(str(trained), tmp_path / "b", [Target(3, 32)]))
    export_bundle(ExportRequest(str(trained), tmp_path / "b", [Target(1, 8)], update=True))
    bundle = open_bundle(tmp_path / "b")
    whole = export_bundle(ExportRequest(str(trained), tmp_path / "c", [Target(1, 8), Target(3, 32)])).bundle
    for name in ("1x8", "3x32"):
        np.testing.assert_allclose(
            Encoder.open(bundle, name).encode(TEXTS[:5]), Encoder.open(whole, name).encode(TEXTS[:5]), atol=1e-6
        )


@pytest.mark.slow
def test_export_without_projections_gives_the_exits_own_vectors(trained: Path, tmp_path: Path) -> None:
    targets = [Target(2, 16)]
    plain = export_bundle(ExportRequest(str(trained), tmp_path / "plain", targets, projection="prefix")).bundle
    mapped = export_bundle(ExportRequest(str(trained), tmp_path / "mapped", targets)).bundle
    first, second = (Encoder.open(bundle, "2x16").encode(TEXTS[:5]) for bundle in (plain, mapped))
    assert np.abs(first - second).max() > 0.05
    assert [bundle.manifest.targets[0].space for bundle in (plain, mapped)] == ["exit02", "aligned"]


@pytest.mark.slow
def test_resumed_run_ends_with_equal_projections(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    steps = ["--save_steps", "2", "--learning_rate", "1e-3", "--warmup_steps", "0", "--lr_scheduler_type", "constant"]
    assert short_run(tiny_checkpoint, texts, tmp_path / "whole", *steps, "--save_total_limit", "9") == 0
    assert short_run(tiny_checkpoint, texts, tmp_path / "cut", *steps, "--max_steps", "2") == 0
    whole, early = (read_checkpoint(str(tmp_path / name)).projections for name in ("whole", "cut"))
    assert all(np.abs(whole[depth].matrix - early[depth].matrix).max() > 1e-4 for depth in (1, 2, 3))
    run_folder = tmp_path / "whole.run"
    later = run_folder / "checkpoint-4"
    for path in sorted(later.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    later.rmdir()
    (tmp_path / "whole").rename(tmp_path / "first")
    assert (
        short_run(tiny_checkpoint, texts, tmp_path / "whole", *steps, "--save_total_limit", "9", "--resume", "1") == 0
    )
    for name in (PROJECTIONS_FILE, "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_few_texts_train_without_projections(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.txt").write_text("\n".join(TEXTS[:40]), "utf-8")
    assert short_run(tiny_checkpoint, tmp_path / "few.txt", tmp_path / "out") == 0
    assert "Training without projections: they need 64 different texts, and there are 40." in capsys.readouterr().err
    assert not (tmp_path / "out" / PROJECTIONS_FILE).exists()
    assert short_run(tiny_checkpoint, tmp_path / "few.txt", tmp_path / "no", "--projections", "1") == 2
    assert "Add texts, or set --projections 0." in capsys.readouterr().err


def test_initial_projections_use_enough_texts_for_the_width(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ese_deploy.training.projections._MAX_INITIAL_TEXTS", 50)
    (tmp_path / "some.txt").write_text("\n".join(TEXTS[:80]), "utf-8")
    assert short_run(tiny_checkpoint, tmp_path / "some.txt", tmp_path / "out", "--max_steps", "1") == 0
    assert "Fitting projections of the exits on 80 texts" in capsys.readouterr().err


@pytest.mark.slow
def test_run_with_cells_resumes_with_its_projections(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    flags = ["--max_steps", "1", "--loss_setting", "cells=['1x8', '3x16']"]
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", *flags) == 0
    (tmp_path / "out").rename(tmp_path / "first")
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", *flags, "--resume", "1") == 0
    first, again = ((tmp_path / name / PROJECTIONS_FILE).read_bytes() for name in ("first", "out"))
    assert first == again and sorted(read_checkpoint(str(tmp_path / "out")).projections) == [1, 3]


@pytest.mark.slow
def test_projections_are_fitted_again_after_training(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    steps = ["--learning_rate", "1e-3", "--warmup_steps", "0"]
    projections = {}
    for share in ("0", "0.25", "1"):
        assert short_run(tiny_checkpoint, texts, tmp_path / share, *steps, "--projection-refit", share) == 0
        checkpoint = read_checkpoint(str(tmp_path / share))
        projections[share] = checkpoint.projections
    for depth in (1, 2):
        before, mixed, fitted = (projections[share][depth].matrix for share in ("0", "0.25", "1"))
        assert np.abs(before - fitted).max() > 1e-3
        # Each component is a positive combination of the trained and the fitted one.
        for row in range(0, 32, 5):
            pair = np.stack([before[row], fitted[row]], axis=1)
            weights = np.linalg.lstsq(pair, mixed[row], rcond=None)[0]
            np.testing.assert_allclose(pair @ weights, mixed[row], atol=1e-5)
            assert (weights > 0).all()
    np.testing.assert_array_equal(projections["0"][3].matrix, projections["1"][3].matrix)


def test_projections_are_fitted_on_longer_texts_than_batches() -> None:
    assert [fit_length(64, 256), fit_length(64, 8192), fit_length(2048, 8192)] == [256, 512, 2048]


@pytest.mark.slow
@pytest.mark.parametrize(
    "off", ["--projections=0", "--maps=0", "--loss_setting=maps=0", "--loss-setting=projections=false"]
)
def test_projections_can_be_turned_off(off: str, tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", off, "--max_steps", "1") == 0
    assert not (tmp_path / "out" / PROJECTIONS_FILE).exists()


def test_published_variants_refuse_projections(model: SentenceTransformer) -> None:
    with pytest.raises(InputError, match="The variant 'paper' has no setting 'projections'"):
        EseLoss(model, AngleObjective(), variant="paper", projections=blank_projections(model, [1]))


@pytest.mark.parametrize(
    ("projections", "message"),
    [
        ({4: Projection(np.zeros((32, 32), np.float32))}, "a projection of exit 4 .* the model has 3 layers"),
        ({2: Projection(np.zeros((32, 64), np.float32), (0, 1, 2))}, r"shape \[32, 64\].* needs \[32, 96\]"),
        (
            {1: Projection(np.zeros((32, 96), np.float32), (0, 1, 3))},
            "'exit01.states_0_1_3' is not the projection of an exit",
        ),
    ],
)
def test_projections_of_another_checkpoint_are_refused(
    projections: dict[int, Projection], message: str, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in trained.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / PROJECTIONS_FILE).unlink()
    (folder / PROJECTIONS_FILE).write_bytes(encode_projections(projections))
    with pytest.raises(InputError, match=message):
        read_checkpoint(str(folder))


def test_missing_projections_are_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16)], projection="trained")
    with pytest.raises(InputError, match=f"has no {PROJECTIONS_FILE}, which projection 'trained' needs"):
        export_bundle(request)
