"""Training with token features: depth 0 as an exit, the table in projections, and fitting without training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import make_checkpoint
from helpers.tokenizers import byte_level_bpe
from helpers.training import short_run
from sentence_transformers import SentenceTransformer

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.engines import load_engine
from ese_deploy.evaluate.checkpoint import CheckpointExits
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.states import CheckpointStates
from ese_deploy.export.texts import read_calibration
from ese_deploy.fitting import fit_exits
from ese_deploy.losses import EseLoss, ModelStates, blank_projections
from ese_deploy.projections.tokens import TOKENS_FILE
from ese_deploy.runtime import Encoder
from ese_deploy.system.progress import silent
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.targets import check_targets

TEXTS = [item.text for item in sample_corpus()]
BOTH = frozenset({"rarity", "table"})


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(tiny_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "model"
    assert short_run(tiny_checkpoint, texts, out, "--preset", "static") == 0
    return out


def test_without_training_the_layers_stay_and_all_exits_are_fitted(fitted: Path, tiny_checkpoint: Path) -> None:
    before, after = (SentenceTransformer(str(path), device="cpu")[0].state_dict() for path in (tiny_checkpoint, fitted))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    checkpoint = read_checkpoint(str(fitted))
    assert checkpoint.contract is not None and checkpoint.contract.aligned_exits
    assert checkpoint.contract.trained_exits == [0, 1, 2, 3] == sorted(checkpoint.projections)
    assert checkpoint.projections[0].is_lookup and checkpoint.projections[3].tokens is None
    assert not fitted.with_name("model.run").exists()


def test_a_bundle_of_fitted_exits_passes_verification_and_has_depth_0(fitted: Path, tmp_path: Path) -> None:
    bundle = export_bundle(ExportRequest(str(fitted), tmp_path / "bundle", ["0x16", "2x32", "3x32"])).bundle
    manifest, checkpoint = bundle.manifest, read_checkpoint(str(fitted))
    assert {entry.space for entry in manifest.targets} == {"aligned"}
    checks = check_targets(bundle, checkpoint, load_engine("onnxruntime"), manifest.targets, bundle_projections(bundle))
    assert not [failure for check, _ in checks for failure in check.failures]
    assert Encoder.open(bundle, "0x16").encode(TEXTS[:3]).shape == (3, 16)


def test_fitting_on_the_model_equals_fitting_on_its_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # One sentence each: the export also fits on groups of sentences.
    short = list(dict.fromkeys(text.split(".")[0] for text in TEXTS if text.strip()))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in short), "utf-8")
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    sources = (
        ModelStates(model, short, checkpoint.max_seq_length),
        CheckpointStates(checkpoint, load_backbone(checkpoint), read_calibration(path)),
    )
    of_model, of_checkpoint = (fit_exits(source, [0, 2], BOTH, silent) for source in sources)
    features, same = (found[2].tokens for found in (of_model, of_checkpoint))
    assert features is not None and same is not None and features.rarity is not None
    np.testing.assert_array_equal(features.rarity, same.rarity)
    assert of_model[2].matrix.shape == of_checkpoint[2].matrix.shape == (32, 32 * 7)
    # The order of the texts differs, which changes sums in the last bits and, with them, poorly determined directions.
    np.testing.assert_allclose(np.abs(of_model[3].matrix[:4]), np.abs(of_checkpoint[3].matrix[:4]), atol=1e-3)


def test_fitting_leaves_the_model_in_its_mode(tiny_checkpoint: Path) -> None:
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu").train()
    source = ModelStates(model, TEXTS[:5], 48)
    assert source.token_states().shape == (600, 32)
    assert np.linalg.norm(source.empty_text()) == pytest.approx(1)
    assert sum(len(batch.vectors) for batch in source.batches((1,), silent)) == 5
    assert model.training


def test_an_empty_text_without_tokens_has_a_vector_of_zeros(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", tokenizer=byte_level_bpe())
    model = SentenceTransformer(str(path), device="cpu")
    np.testing.assert_array_equal(ModelStates(model, TEXTS[:5], 48).empty_text(), np.zeros(32))


def test_without_training_projections_can_be_fitted_alone(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    flags = ["--preset", "static", "--token-features", "none"]
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", *flags) == 0
    projections = read_checkpoint(str(tmp_path / "out")).projections
    assert sorted(projections) == [1, 2, 3] and projections[1].tokens is None
    assert not (tmp_path / "out" / TOKENS_FILE).exists()


def test_the_loss_computes_the_vectors_that_the_checkpoint_has(fitted: Path) -> None:
    checkpoint = read_checkpoint(str(fitted))
    model = SentenceTransformer(str(fitted), device="cpu")
    del model[2]  # The full depth's projection, for other tools.
    loss = EseLoss(model, projections=checkpoint.projections, token_features=BOTH, align_w=1.0).eval()
    assert loss.exits == (0, 1, 2, 3)
    projections = loss.projections
    assert projections is not None
    with torch.no_grad():
        found = projections(projections.read(model.eval(), model.preprocess(TEXTS[:7])))
    exits = CheckpointExits(checkpoint, [1, 2, 3])
    for depth in (1, 2, 3):
        vectors = torch.nn.functional.normalize(found[depth], dim=-1).numpy()
        np.testing.assert_allclose(vectors, exits.at(depth, 32).encode(TEXTS[:7]), atol=2e-6)
    own = checkpoint.projections[0].tokens
    assert own is not None
    rows = [np.asarray(model.tokenizer(text)["input_ids"], np.int32) for text in TEXTS[:7]]
    np.testing.assert_allclose(torch.nn.functional.normalize(found[0], dim=-1).numpy(), own.sums(rows), atol=2e-6)


def test_training_improves_the_table_with_the_layers(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ["--learning-rate", "1e-3", "--warmup-steps", "0", "--lr-scheduler-type", "constant"]
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", "--preset", "balanced", *rate, "--save-steps", "2") == 0
    trained = read_checkpoint(str(tmp_path / "out"))
    assert sorted(trained.projections) == [0, 1, 2, 3]
    saved = read_checkpoint(str(tmp_path / "out.run/checkpoint-4"))
    before, after = (checkpoint.projections[0].tokens for checkpoint in (saved, trained))
    assert before is not None and after is not None
    # The table is trained; the projections are fitted again, on the trained layers and this table.
    np.testing.assert_array_equal(after.table, before.table)
    assert np.abs(saved.projections[2].matrix - trained.projections[2].matrix).max() > 1e-4
    # Everyone may read what the trainer's libraries wrote.
    weights = [tmp_path / name / "model.safetensors" for name in ("out", "out.run/checkpoint-4")]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in weights)
    assert "Fitting projections of the exits again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_table(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    flags = ["--preset", "balanced", "--save-steps", "2", "--learning-rate", "1e-3", "--lr-scheduler-type", "constant"]
    assert short_run(tiny_checkpoint, texts, tmp_path / "whole", *flags, "--save-total-limit", "9") == 0
    later = tmp_path / "whole.run/checkpoint-4"
    for path in sorted(later.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    later.rmdir()
    (tmp_path / "whole").rename(tmp_path / "first")
    assert (
        short_run(tiny_checkpoint, texts, tmp_path / "whole", *flags, "--save-total-limit", "9", "--resume", "1") == 0
    )
    for name in (TOKENS_FILE, "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_blank_projections_have_the_shapes_of_fitted_ones(fitted: Path, tiny_checkpoint: Path) -> None:
    blank = blank_projections(SentenceTransformer(str(tiny_checkpoint), device="cpu"), [0, 1, 2, 3], BOTH)
    stored = read_checkpoint(str(fitted)).projections
    assert {depth: one.matrix.shape for depth, one in blank.items()} == {
        depth: one.matrix.shape for depth, one in stored.items()
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--token-features", "rare"], "Unknown value 'rare'. Choose some of rarity, table, or none."),
        (["--exits", "0-2"], "exits has 0. This model allows 1 to 3."),
        (["--token-features", "table", "--projections", "0"], "Leave out --projections 0"),
        (["--token-features", "table", "--variant", "paper", "--label-free", "1"], "paper"),
        (["--train-layers", "0", "--projections", "0"], "and this run has none. Leave out --projections 0"),
    ],
)
def test_settings_that_contradict_are_refused(
    flags: list[str],
    message: str,
    tiny_checkpoint: Path,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_without_training_says_what_would_be_fitted(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short_run(tiny_checkpoint, texts, tmp_path / "out", "--preset", "static", "--dry-run") == 0
    printed = capsys.readouterr().err
    assert "no layer is trained" in printed and "Exits that are fitted: 0, 1, 2, 3." in printed
    assert list(tmp_path.iterdir()) == []
