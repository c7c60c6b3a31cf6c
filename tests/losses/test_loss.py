"""EseLoss within sentence-transformers' trainer: variants, sampling, state, contract, and what it refuses."""

import copy
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.tiny import make_checkpoint
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

from ese_deploy import __version__
from ese_deploy.backbones import Exits, load_backbone, read_checkpoint
from ese_deploy.errors import InputError, TrainingError
from ese_deploy.losses import (
    AngleLoss,
    AngleObjective,
    EseCallback,
    EseLoss,
    EspressoSettings,
    blank_projections,
    save_contract,
)
from ese_deploy.losses.exits import exit_vectors, model_parts, text_keys
from ese_deploy.losses.variants import Espresso
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus()]
LABEL_FREE = {"text": TEXTS[:32]}
PAIRS = {"query": TEXTS[:16], "positive": TEXTS[16:32]}
TRIPLETS = {**PAIRS, "negative": TEXTS[32:48]}
LABELLED = {"text1": TEXTS[:16], "text2": TEXTS[16:32], "label": [place / 15 for place in range(16)]}


@pytest.fixture
def model(tiny_checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_checkpoint), device="cpu")


def features(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def train(
    model: SentenceTransformer, loss: torch.nn.Module, data: dict[str, list[Any]], out: Path, **settings: Any
) -> SentenceTransformerTrainer:
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        **{
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "learning_rate": 1e-3,
            **settings,
        },
    )
    callbacks = [EseCallback(loss)]  # type: ignore[arg-type]
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(data), loss=loss, callbacks=callbacks
    )
    trainer.train()
    return trainer


def espresso(loss: EseLoss) -> Espresso:
    assert isinstance(loss.variant, Espresso)
    return loss.variant


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_exits_equal_the_exported_exits(kind: str, pooling: str, tmp_path: Path) -> None:
    """ModernBERT applies its final norm to every exit."""
    folder = make_checkpoint(tmp_path / kind, kind, pooling=pooling)
    model = SentenceTransformer(str(folder), device="cpu").eval()
    (column,) = features(model, TEXTS[:4])
    with torch.no_grad():
        found = exit_vectors(model, model_parts(model), column)
    checkpoint = read_checkpoint(str(folder))
    exits = Exits(load_backbone(checkpoint), checkpoint.architecture, pooling, range(1, checkpoint.depth + 1))
    inputs = {name: column[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        wanted = exits(**inputs)
    for depth, vectors in enumerate(found, start=1):
        assert torch.allclose(vectors, wanted[depth], atol=1e-5), f"exit {depth}"
    assert model[0].model.config.output_hidden_states is False


def test_reference_reads_the_embeddings_and_skips_the_final_norm(tmp_path: Path) -> None:
    model = SentenceTransformer(str(make_checkpoint(tmp_path / "m", "modernbert")), device="cpu").eval()
    (column,) = features(model, TEXTS[:4])
    parts = model_parts(model)
    raw, normed = exit_vectors(model, parts, column, raw=True), exit_vectors(model, parts, column)
    assert len(raw) == len(normed) + 1
    assert torch.equal(raw[-1], normed[-1])
    assert not torch.allclose(raw[-2], normed[-2], atol=0.1)


@pytest.mark.parametrize(
    ("variant", "data", "parts"),
    [
        ("espresso", LABEL_FREE, {"distill", "compress"}),
        ("espresso", LABELLED, {"express", "distill", "compress"}),
        ("espresso", TRIPLETS, {"express", "distill", "compress"}),
        ("reference", LABELLED, {"express_full", "compress_full", "express_shallow", "compress_shallow"}),
        ("reference", PAIRS, {"express_full", "compress_full", "express_shallow", "compress_shallow"}),
        ("paper", TRIPLETS, {"express_full", "compress_full", "express_shallow", "compress_shallow"}),
    ],
)
def test_every_variant_trains_and_logs_its_parts(
    model: SentenceTransformer, variant: Any, data: dict[str, list[Any]], parts: set[str], tmp_path: Path
) -> None:
    before = copy.deepcopy(model.state_dict())
    objective = None if data is LABEL_FREE else AngleObjective(cosine_w=1.0)
    loss = EseLoss(model, objective, variant=variant, **({} if variant == "espresso" else {"compression_size": 8}))
    trainer = train(model, loss, data, tmp_path)
    logged = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert parts <= set(entry)
        assert float(entry["loss"]) == pytest.approx(sum(float(entry[part]) for part in parts), abs=2e-3)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any("layer.0." in name for name in moved)


def test_full_model_alone_is_trained(model: SentenceTransformer, tmp_path: Path) -> None:
    trainer = train(model, AngleLoss(model, AngleObjective()), TRIPLETS, tmp_path)
    assert "express" in trainer.state.log_history[0]


def test_loss_is_float32_under_autocast(model: SentenceTransformer) -> None:
    loss = EseLoss(model, AngleObjective(cosine_w=1.0))
    with torch.autocast("cpu", torch.bfloat16):
        parts = loss(features(model, TEXTS[:8], TEXTS[8:16]), torch.arange(8))
    assert {part.dtype for part in parts.values()} == {torch.float32}


def test_teacher_is_frozen_and_no_parameter(model: SentenceTransformer, tmp_path: Path) -> None:
    before = copy.deepcopy(model)
    loss = EseLoss(model)
    assert len(list(loss.parameters())) == len(list(model.parameters()))
    train(model, loss, LABEL_FREE, tmp_path)
    (column,) = features(model, TEXTS[:4])
    with torch.no_grad():
        taught = espresso(loss).teach([dict(column)])
        wanted = before.eval()(dict(column))["sentence_embedding"]
        now = model.eval()(dict(column))["sentence_embedding"]
    assert torch.equal(taught, wanted)
    assert not torch.allclose(now, wanted)


def test_self_teaching_keeps_no_copy(model: SentenceTransformer) -> None:
    loss = EseLoss(model, teacher="self")
    assert not espresso(loss)._teacher
    parts = loss(features(model, TEXTS[:8]))
    sum(parts.values()).backward()
    assert set(parts) == {"distill", "compress"}


def test_drawn_cells_depend_on_the_batch_only(model: SentenceTransformer) -> None:
    first, second = (EseLoss(model, cells_per_step=4, seed=3) for _ in range(2))
    drawn = []
    for _ in range(3):
        seed = first.seed + len(drawn)
        drawn.append(espresso(first).draw_cells(seed))
        assert drawn[-1] == espresso(second).draw_cells(seed)
        assert len(set(drawn[-1])) == 4
    assert drawn[0] != drawn[1] or drawn[1] != drawn[2]
    everything = espresso(EseLoss(model, exits=[1, 2], dims=[8, 16])).draw_cells(0)
    assert everything == [(1, 8), (1, 16), (2, 8), (2, 16)]


def test_cells_can_be_listed(model: SentenceTransformer) -> None:
    loss = EseLoss(model, cells=["2x16", "1x8", "3x32"])
    assert espresso(loss).draw_cells(0) == [(1, 8), (2, 16)], "the full model is trained besides the cells"
    assert (loss.contract().trained_exits, loss.contract().trained_dims) == ([1, 2, 3], [8, 16, 32])
    for arguments, message in (({"exits": [1]}, "Leave out 'exits' and 'dims'"), ({}, "exits has 4")):
        with pytest.raises(InputError, match=message):
            EseLoss(model, cells=["4x8"], **arguments)  # type: ignore[arg-type]


def test_evaluation_does_not_change_the_state(model: SentenceTransformer) -> None:
    loss = EseLoss(model)
    model.eval()
    loss(features(model, TEXTS[:8]))
    assert int(loss.batches) == 0 and int(espresso(loss).covariance.count) == 0
    model.train()
    loss(features(model, TEXTS[:8]))
    assert int(loss.batches) == 1 and int(espresso(loss).covariance.count) == 1


@pytest.mark.slow
def test_state_is_saved_with_the_checkpoint_and_restored(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A run that resumes after two of four steps ends with the weights of an uninterrupted one."""

    def run(out: Path, **settings: Any) -> tuple[SentenceTransformer, EseLoss]:
        model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
        loss = EseLoss(model, cells_per_step=3)
        arguments = SentenceTransformerTrainingArguments(
            str(out), max_steps=4, per_device_train_batch_size=4, save_steps=2, report_to="none", use_cpu=True,
            disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(LABEL_FREE),
            loss=loss,
            callbacks=[EseCallback(loss)],
        )
        trainer.train(**settings)
        return model, loss

    whole, whole_loss = run(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    contract = json.loads((checkpoint / "ese.json").read_text("utf-8"))
    assert contract["variant"] == "espresso" and contract["trained_exits"] == [1, 2, 3]
    resumed, resumed_loss = run(tmp_path / "whole", resume_from_checkpoint=str(checkpoint))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, value in whole_loss.training_state().items():
        assert torch.equal(value, resumed_loss.training_state()[name]), name
    (checkpoint / "ese_loss.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path / "whole", resume_from_checkpoint=str(checkpoint))
    (checkpoint / "ese_loss.safetensors").unlink()
    with pytest.raises(InputError, match="is missing"):
        run(tmp_path / "whole", resume_from_checkpoint=str(checkpoint))


def test_state_of_another_loss_is_an_error(model: SentenceTransformer) -> None:
    state = EseLoss(model, AngleObjective(), variant="paper", compression_size=8).training_state()
    with pytest.raises(InputError, match="Resume with the settings of the run"):
        EseLoss(model).load_training_state(state)


def test_part_that_is_not_finite_is_named_with_the_step(model: SentenceTransformer) -> None:
    loss = EseLoss(model)
    loss.global_step = 6
    with torch.no_grad():
        model[0].model.encoder.layer[0].output.dense.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"Step 7: the part 'vectors' of the loss is nan\. Start again"):
        loss(features(model, TEXTS[:8]))


@pytest.mark.parametrize(
    ("variant", "exits", "dims"),
    [("espresso", [1, 2, 3], [16, 32]), ("reference", [1, 3], [8, 32]), ("paper", [1, 2, 3], [8])],
)
def test_contract_lists_trained_exits_and_dims(
    model: SentenceTransformer, variant: Any, exits: list[int], dims: list[int], tmp_path: Path
) -> None:
    loss = EseLoss(
        model, AngleObjective(), variant=variant, **({} if variant == "espresso" else {"compression_size": 8})
    )
    contract = loss.contract()
    assert (contract.variant, contract.trained_exits, contract.trained_dims) == (variant, exits, dims)
    model.save_pretrained(str(tmp_path))
    save_contract(tmp_path, contract)
    assert read_checkpoint(str(tmp_path)).contract == contract


def test_contract_in_a_checkout_that_is_not_installed(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert EseLoss(model).contract().versions["ese-deploy"] == __version__


def test_contract_marks_aligned_exits(model: SentenceTransformer) -> None:
    assert not EseLoss(model).contract().aligned_exits
    assert not EseLoss(model, AngleObjective(), variant="paper", compression_size=8).contract().aligned_exits
    assert not EseLoss(model, projections=blank_projections(model, [1, 2, 3])).contract().aligned_exits, (
        "projections start aligned and drift apart"
    )
    loss = EseLoss(model, align_w=1.0)
    assert loss.contract().aligned_exits
    anchored = EseLoss(model, exits=[1], align_w=1.0, train_full=False).contract()
    assert anchored.trained_exits == [1, 3], "exits are aligned with the full model"
    parts = loss(features(model, TEXTS[:8]))
    assert set(parts) == {"distill", "compress", "align"}


def test_alignment_moves_shallow_exits_to_the_full_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Compares the cosine of exit 1 with the full depth after training with and without alignment."""

    def distance(**settings: Any) -> float:
        model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
        folder = tmp_path / f"run{len(settings)}"
        train(model, EseLoss(model, **settings), LABEL_FREE, folder, max_steps=12, learning_rate=5e-3)
        (column,) = features(model.eval(), TEXTS[40:72])
        with torch.no_grad():
            vectors = exit_vectors(model, model_parts(model), column)
        return 1 - torch.nn.functional.cosine_similarity(vectors[0], vectors[-1]).mean().item()

    assert distance(align_w=5.0) < 0.7 * distance()


def test_plain_texts_can_alternate_with_labelled_data(model: SentenceTransformer) -> None:
    loss = EseLoss(model, AngleObjective())
    assert "express" in loss(features(model, TEXTS[:8], TEXTS[8:16]))
    assert "express" not in loss(features(model, TEXTS[:8]))


def test_text_keys_do_not_depend_on_padding(model: SentenceTransformer) -> None:
    alone, among = features(model, TEXTS[:3], [*TEXTS[:3], " ".join(TEXTS[:3])])
    assert text_keys(alone).tolist() == text_keys(among).tolist()[:3]
    assert len(set(text_keys(model.preprocess(TEXTS)).tolist())) == len(
        {tuple(row) for row in model.preprocess(TEXTS)["input_ids"].tolist()}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "latte"}, "Unknown variant 'latte'. Choose one of: espresso, reference, paper"),
        ({"variant": "paper"}, "needs labelled data. Pass an objective"),
        ({"exits": [1, 4]}, "exits has 4. This model allows 1 to 3"),
        ({"dims": [0]}, "dims has 0. This model allows 8 to 32"),
        ({"distil_w": 1.0}, "Unknown setting 'distil_w' of the loss. Choose from: express_w, distill_w"),
        ({"variant": "reference", "objective": AngleObjective(), "exits": [1]}, "has no setting 'exits'"),
        ({"variant": "paper", "objective": AngleObjective(), "kl_temperature": 2.0}, "has no setting 'kl_temperature'"),
        ({"compression_size": 8}, "Unknown setting 'compression_size' of the loss"),
    ],
)
def test_bad_settings_are_errors(model: SentenceTransformer, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EseLoss(model, **arguments)


def test_unsupported_modules_are_an_error(model: SentenceTransformer) -> None:
    with pytest.raises(InputError, match="Exits need a Transformer followed by a Pooling"):
        EseLoss(SentenceTransformer(modules=[model[0]]))


def test_evaluation_inside_a_wrapper_does_not_change_the_state(model: SentenceTransformer) -> None:
    class Wrapper(torch.nn.Module):  # like a distributed wrapper: evaluation switches the model inside
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, *arguments: Any) -> Any:
            return self.module(*arguments)

    loss = EseLoss(model)
    loss.model = Wrapper().train()
    loss(features(model, TEXTS[:8]))
    before = {name: tensor.clone() for name, tensor in loss.training_state().items()}
    model.eval()
    with torch.no_grad():
        loss(features(model, TEXTS[8:16]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.training_state().items())
    model.train()
    loss(features(model, TEXTS[8:16]))
    assert loss.batches == 2


@pytest.mark.parametrize("name", ["express_w", "distill_w", "compress_w", "hold_w", "align_w"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_errors(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}. A weight is at least 0"):
        EspressoSettings(**{name: value})
    with pytest.raises(InputError, match=f"angle_w is {value}. A weight is at least 0"):
        AngleObjective(angle_w=value)


def test_loss_without_gradient_is_an_error(model: SentenceTransformer) -> None:
    nothing = EseLoss(model, distill_w=0.0, compress_w=0.0)
    with pytest.raises(InputError, match="Nothing is learnt: every weight"):
        nothing(features(model, TEXTS[:8]))


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_published_losses_stop_at_vectors_that_are_not_finite(model: SentenceTransformer, variant: Any) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].auto_model.encoder.layer[0].output.dense.weight.fill_(torch.nan)
    loss = EseLoss(broken, AngleObjective(), variant=variant, compression_size=8)
    with pytest.raises(TrainingError, match="the part 'vectors' of the loss is nan"):
        loss(features(broken, TEXTS[:8], TEXTS[8:16]))
