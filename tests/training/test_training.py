import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BACKBONES, edit_json, make_checkpoint
from sentence_transformers import SentenceTransformer
from transformers import TrainerControl, TrainerState, TrainingArguments

from ese_deploy.backbones import exit_states, load_backbone, read_checkpoint
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.losses import AngleLoss, AngleObjective, EseLoss
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training import train
from ese_deploy.training.arguments import build_settings
from ese_deploy.training.callbacks import SpearmanEachEpoch
from ese_deploy.training.collate import Collator
from ese_deploy.training.data import load_data, load_formats
from ese_deploy.training.model import load_model, truncate_model, unfused_attention
from ese_deploy.training.projections import projection_texts
from ese_deploy.training.run_folder import finish_checkpoint, open_run
from ese_deploy.training.trainer import EseTrainer, training_arguments

TEXTS = [item.text for item in sample_corpus()]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each format."""
    folder = tmp_path_factory.mktemp("data")
    thirds = list(zip(TEXTS[:96], TEXTS[96:192], TEXTS[192:288], strict=True))
    rows: dict[str, list[dict[str, Any]]] = {
        "A": [{"text1": a, "text2": b, "label": int(i % 3 > 0)} for i, (a, b, _) in enumerate(thirds)],
        "B": [{"query": a, "positive": [b, c]} for a, b, c in thirds],
        "C": [{"text": a, "positive": b, "negative": c} for a, b, c in thirds],
        "texts": [{"id": i, "text": text} for i, text in enumerate(TEXTS)],
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    return {name: folder / f"{name}.jsonl" for name in rows}


def run(model: Path, data: Path, out: Path, *flags: str) -> int:
    """Train two steps of eight rows."""
    command = ["--model", str(model), "--train", str(data), "--out", str(out)]
    short = ["--max_steps", "2", "--batch_size", "8", "--workers", "0", "--logging_steps", "1", "--use_cpu", "1"]
    return main(["train", *command, *short, *flags])


TRUNCATED = ("BERT", "DistilBERT", "ALBERT", "ModernBERT", "T5 encoder", "Qwen3", "Gemma 3", "GTE")
RUNS = [
    ("espresso", "texts"),
    ("paper", "C"),
    *(pytest.param("espresso", name, marks=pytest.mark.slow) for name in "ABC"),
    *(pytest.param("paper", name, marks=pytest.mark.slow) for name in "AB"),
    *(pytest.param("reference", name, marks=pytest.mark.slow) for name in "ABC"),
]


@pytest.mark.parametrize(("variant", "name"), RUNS)
def test_every_variant_trains_on_every_format(
    variant: str, name: str, data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    size = [] if variant == "espresso" else ["--ese_compression_size", "16"]
    assert run(tiny_checkpoint, data[name], tmp_path / "out", "--ese_variant", variant, *size) == 0
    err = capsys.readouterr().err
    assert "step 2/2  loss " in err and "Wrote" in err
    contract = read_checkpoint(str(tmp_path / "out")).contract
    assert contract is not None and contract.variant == variant
    assert contract.trained_exits == ([1, 3] if variant == "reference" else [1, 2, 3])
    before = SentenceTransformer(str(tiny_checkpoint), device="cpu", local_files_only=True)
    after = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    assert (after.encode(["hello"]) != before.encode(["hello"])).any()
    assert after.max_seq_length == before.max_seq_length and after.prompts["query"] == "find: "


def test_python_function_trains(data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    steps = {"max_steps": 1, "batch_size": 8, "workers": 0, "use_cpu": True}
    seen: list[tuple[str, int, int]] = []
    done = train(tiny_checkpoint, data["C"], tmp_path / "out", progress=lambda *at: seen.append(at), dims=[16], **steps)
    contract = read_checkpoint(str(done)).contract
    assert contract is not None and contract.trained_dims == [16, 32]
    assert seen == [("fit projections", 0, 288), ("fit projections", 288, 288), ("training", 1, 1)]
    with pytest.raises(InputError, match=r"There is no training data\. Name it with `train`"):
        train(tiny_checkpoint, None, tmp_path / "other")


@pytest.mark.slow
def test_aligned_exits_share_an_embedding_space_in_bundle_and_encoder(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", "--align_w", "1", "--exits", "2", "--dims", "16") == 0
    assert "  align " in capsys.readouterr().err
    contract = read_checkpoint(str(tmp_path / "out")).contract
    assert contract is not None and contract.aligned_exits and contract.trained_exits == [2, 3]
    targets = [Target(1, 16), Target(2, 16), Target(3, 16)]
    bundle = export_bundle(ExportRequest(str(tmp_path / "out"), tmp_path / "bundle", targets)).bundle
    assert [entry.space for entry in bundle.manifest.targets] == ["exit01", "aligned", "aligned"]
    encoder = Encoder.open(bundle, query_target="2x16", document_target="3x16")
    assert (encoder.encode_query("a cat") == Encoder.open(bundle, "2x16").encode_query("a cat")).all()
    with pytest.raises(
        InputError,
        match=r"Queries of target 1x16 \(embedding space exit01\) cannot be compared with documents of target 3x16",
    ):
        Encoder.open(bundle, query_target="1x16", document_target="3x16")
    command = ["--model", str(tiny_checkpoint), "--train", str(data["C"])]
    assert main(["train", *command, "--out", str(tmp_path / "p"), "--variant=paper", "--align_w=1"]) == 2
    assert "The variant 'paper' has no setting 'align_w'" in capsys.readouterr().err


def test_without_ese_only_the_full_model_is_trained(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", "--apply_ese", "0") == 0
    assert not (tmp_path / "out/ese.json").exists()


@pytest.mark.slow
def test_formats_take_turns_with_equal_numbers_of_texts(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    forward = EseLoss.forward

    def watched(self: EseLoss, columns: Any, labels: Any = None) -> Any:
        columns = list(columns)
        seen.append((len(columns), len(columns[0]["input_ids"])))
        return forward(self, columns, labels)

    monkeypatch.setattr(EseLoss, "forward", watched)
    together = ["--train_name_or_path", str(data["texts"]), "--train_name_or_path", str(data["A"])]
    turns = ["--turns", "round_robin", "--max_steps", "4", "--text_prompt", "t: {text}"]
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *together, *turns) == 0
    err = capsys.readouterr().err
    assert "Batches of 3 formats take turns, round_robin, with the same number of texts" in err
    assert "step 4/4  loss " in err
    assert seen == [(3, 8), (1, 24), (2, 12), (3, 8)]
    assert run(tiny_checkpoint, data["C"], tmp_path / "again", *together) == 0
    paper = ["--ese_variant", "paper", "--ese_compression_size", "16"]
    assert run(tiny_checkpoint, data["C"], tmp_path / "paper", *together, *paper) == 2
    assert "The variant 'paper' needs labels, but some files have none" in capsys.readouterr().err


def test_gradient_checkpointing_needs_support_of_the_backbone(
    data: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    model_type, settings = BACKBONES["ALBERT"]
    make_checkpoint(tmp_path / "model", model_type, **settings)
    assert run(tmp_path / "model", data["texts"], tmp_path / "out", "--gradient_checkpointing", "1") == 2
    assert "AlbertModel does not support --gradient-checkpointing. Leave it out." in capsys.readouterr().err


def test_projection_texts_come_equally_from_all_formats(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others.txt"
    others.write_text("".join(f"{text}\n" for text in TEXTS[192:]), "utf-8")
    parts = load_formats([str(data["A"]), str(others)])
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    collator = Collator(model, ["text1", "text2", "text"], {}, 16, 0)
    few = projection_texts(parts, collator, 100, 0)
    assert few == projection_texts(parts, collator, 100, 0)
    assert (len(set(few)), len(set(few) & set(TEXTS[:192]))) == (100, 50)
    assert len(set(projection_texts(parts, collator, 300, 0)) & set(TEXTS[192:])) == 150
    assert set(projection_texts(parts, collator, 10_000, 0)) == set(TEXTS)


def test_training_without_the_full_model_changes_only_shallow_layers(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    alone = ["--exits", "1", "--dims", "16", "--loss_setting", "train_full=false", "--warmup_steps", "0"]
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *alone) == 0
    contract = read_checkpoint(str(tmp_path / "out")).contract
    assert contract is not None and (contract.trained_exits, contract.trained_dims) == ([1], [16])
    before, after = (load_model(str(folder), None).model.state_dict() for folder in (tiny_checkpoint, tmp_path / "out"))
    changed = {
        name.split("layer.")[1][0] for name in before if "layer." in name and (before[name] != after[name]).any()
    }
    assert changed == {"0"}, "layers behind the exit learn nothing"


@pytest.mark.slow
def test_export_marks_the_trained_exits(data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--exits", "1,3", "--dims", "8,16") == 0
    assert read_checkpoint(str(tmp_path / "out")).trained_exits == [1, 3]
    targets = [Target(1, 8), Target(2, 8), Target(3, 16)]
    report = export_bundle(ExportRequest(str(tmp_path / "out"), tmp_path / "bundle", targets))
    assert {str(entry.target): entry.trained for entry in report.bundle.manifest.targets} == {
        "1x8": True,
        "2x8": False,
        "3x16": True,
    }
    assert report.untrained == [2]


@pytest.mark.slow
def test_weights_depend_on_the_seed_only(data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in {"a": "1", "b": "1", "c": "2"}.items():
        assert run(tiny_checkpoint, data["B"], tmp_path / name, "--seed", seed, "--warmup_steps", "0") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_unsupported_precision_is_logged(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--fp16", "1") == 0
    err = capsys.readouterr().err
    assert "CPUs do not train in fp16. Training in fp32." in err and "Training on cpu in fp32" in err


def test_bf16_on_a_cpu_keeps_weights_in_fp32(data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--bf16", "1") == 0
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_loss_that_is_not_finite_is_an_error_with_step_and_part(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    flags = ["--learning_rate", "1e30", "--warmup_steps", "0", "--max_grad_norm", "0", "--weight_decay", "1e20"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *flags) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error:") and "Step 2" in last and "vectors" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("saved", [["--save_steps", "1"], ["--save_strategy", "no", "--max_steps", "1"]])
def test_weights_that_are_not_finite_are_not_saved(
    saved: list[str], data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    flags = ["--learning_rate", "1e30", "--warmup_steps", "0", "--max_grad_norm", "0", "--weight_decay", "1e20"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *flags, *saved) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("is no longer finite. Start again with a lower learning rate or without fp16.")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.run/checkpoint-*/complete"))


def test_run_without_a_step_is_an_error(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    same = tmp_path / "same.jsonl"
    same.write_text("".join(json.dumps({"query": text, "positive": "yes"}) + "\n" for text in TEXTS[:64]), "utf-8")
    assert run(tiny_checkpoint, same, tmp_path / "out") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        "error: No step was made: no batch could be filled without repeating a text. Use a smaller --batch-size"
    )
    assert not (tmp_path / "out").exists()


def test_only_the_first_process_logs(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", "--fp16", "1", "--exits", "4") == 2
    assert capsys.readouterr().err == "error: exits has 4. This model allows 1 to 3.\n"
    assert not (tmp_path / "out.run").exists()


def test_existing_output_is_not_overwritten(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    assert run(tiny_checkpoint, data["texts"], tmp_path / "mine") == 2
    assert "is not empty and is never overwritten" in capsys.readouterr().err
    flags = ["--save_steps", "1", "--save_total_limit", "2"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *flags) == 0
    assert sorted(path.name for path in (tmp_path / "out.run").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    capsys.readouterr()
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--resume", "1") == 2
    assert "holds the model of this run, which is finished" in capsys.readouterr().err
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out") == 2
    assert "holds a run up to checkpoint-2. Resume it with --resume 1" in capsys.readouterr().err
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--resume", "1", "--seed", "3") == 2
    assert "was started with seed = 42, got 3" in capsys.readouterr().err
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--resume", "1") == 0
    for file in ("model.safetensors", "projection.safetensors"):
        same = [(tmp_path / name / file).read_bytes() for name in ("out", "elsewhere")]
        assert same[0] == same[1], file


def test_a_folder_that_cannot_be_made_is_found_out_before_training(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    assert run(tiny_checkpoint, data["texts"], tmp_path / "file" / "out") == 2
    err = capsys.readouterr().err
    assert "error: Cannot write" in err and "step" not in err


def test_full_disk_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MB of free space. Checkpoints and model need [\d,]{9,} MB"):
        open_run(tmp_path / "out", {}, False, model_bytes=1 << 60, kept=1)


def test_held_out_data_gives_a_loss_and_scored_pairs_a_correlation(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    unseen = ["--valid_name_or_path", str(data["A"]), "--eval_steps", "1"]
    scored = ["--valid_name_or_path_for_callback", str(data["A"])]
    assert run(tiny_checkpoint, data["A"], tmp_path / "out", *unseen, *scored) == 0
    err = capsys.readouterr().err
    assert "eval_loss" in err and "spearman" in err
    assert read_checkpoint(str(tmp_path / "out.run/best-checkpoint")).trained_exits == [1, 2, 3]
    assert run(tiny_checkpoint, data["C"], tmp_path / "other", *scored[:0], "--valid_name_or_path", str(data["A"])) == 2


def test_best_score_is_kept_when_a_run_resumes(data: dict[str, Path], tmp_path: Path) -> None:
    saved: list[Path] = []
    arguments, control = TrainingArguments(output_dir=str(tmp_path), report_to=[]), TrainerControl()

    def epoch(step: int, score: float) -> None:
        callback = SpearmanEachEpoch(load_data([str(data["A"])]), saved.append)
        callback.on_train_begin(arguments, TrainerState(global_step=step), control)
        callback._evaluator = Scores(score)  # type: ignore[assignment]
        callback.on_epoch_end(arguments, TrainerState(), control, model=torch.nn.Identity())  # type: ignore[arg-type]

    for step, score, writes in ((0, 0.8, 1), (2, 0.7, 1), (2, 0.9, 2), (0, 0.1, 3)):
        epoch(step, score)
        assert len(saved) == writes


class Scores:
    """An evaluator that finds one score whatever the model is."""

    primary_metric = "spearman"

    def __init__(self, score: float) -> None:
        self._score = score

    def __call__(self, model: Any) -> dict[str, float]:
        return {self.primary_metric: self._score}


def test_prompts_are_stored_in_the_checkpoint(data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path) -> None:
    prompts = ["--query_prompt", "q: {text}", "--doc_prompt", "d: {text}"]
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *prompts) == 0
    assert read_checkpoint(str(tmp_path / "out")).prompts == {"query": "q: ", "document": "d: "}


def test_requested_pooling_is_used_and_logged(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", "--pooling_strategy", "cls") == 0
    assert "pools by 'mean'. It is trained with 'cls' as requested" in capsys.readouterr().err
    assert read_checkpoint(str(tmp_path / "out")).pooling == "cls"
    with pytest.raises(InputError, match=r"Unknown pooling 'cls_avg'\. Choose one of: "):
        load_model(str(tiny_checkpoint), "cls_avg")


def test_plain_folder_pools_by_cls_by_default(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for path in tiny_checkpoint.iterdir():
        if path.is_file() and path.name != "modules.json" and "sentence" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_model(str(tmp_path), None).pooling == "cls"
    loaded = load_model(str(tmp_path), "avg")
    assert loaded.pooling == "mean" and len(loaded.model) == 2
    assert loaded.model.encode(["a text"]).shape == (1, 32)


def test_gradient_accumulation_averages_batches(data: dict[str, Path], tmp_path: Path) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = load_model(str(make_checkpoint(tmp_path / "still", **still)), None).model
    rows = load_data([str(data["C"])])
    collator = Collator(model, rows.layout.texts, {}, 32, 0)
    seen: list[dict[str, Any]] = []
    gradients: list[torch.Tensor] = []

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append(collator(batch))
        return dict(seen[-1])

    steps = {"max_steps": 1, "batch_size": 6, "gradient_accumulation_steps": 3, "max_grad_norm": 0, "workers": 0}
    settings = build_settings({"model": "m", "out": "s", "train": "t", "use_cpu": True, **steps})
    arguments = training_arguments(settings, tmp_path / "run", len(rows.dataset), label_free=False)
    loss = AngleLoss(model, AngleObjective())
    collate.valid_label_columns = ["label"]  # type: ignore[attr-defined]
    trainer = EseTrainer(model=model, args=arguments, train_dataset=rows.dataset, loss=loss, data_collator=collate)
    step = trainer.training_step

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = step(*args, **kwargs)
        gradients[:] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return result

    trainer.training_step = recorded
    start = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    model.load_state_dict(start)
    model.zero_grad()
    for batch in seen[:3]:
        features, labels = trainer.collect_features(batch)
        (sum(loss(features, labels).values()) / 3).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(expected) == len(gradients) > 10
    for one, other in zip(expected, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_model_equals_the_exit_and_reloads_equal(name: str, tmp_path: Path) -> None:
    model_type, settings = BACKBONES[name]
    folder = make_checkpoint(tmp_path / "full", model_type, **settings)
    edit_json(folder / "1_Pooling/config.json", word_embedding_dimension=64)
    checkpoint = read_checkpoint(str(folder))
    model = load_model(str(folder), None).model.eval()
    batch = model.preprocess(["hello there my good old friend", "no"])
    mask = batch["attention_mask"]
    with torch.no_grad():
        states = exit_states(load_backbone(checkpoint), checkpoint.architecture, batch["input_ids"], mask)
        truncate_model(model, 2)
        cut = model[0](dict(batch))["token_embeddings"]
        model.save_pretrained(str(tmp_path / "cut"), create_model_card=False)
        again = load_model(str(tmp_path / "cut"), None)
        reloaded = again.model.eval()[0](dict(batch))["token_embeddings"]
    assert again.depth == 2
    assert (cut - states[2])[mask.bool()].abs().max() < 1e-5
    assert torch.equal(reloaded, cut)
    kinds = [value for value in vars(again.model[0].auto_model.config).values() if isinstance(value, list)]
    assert all(len(value) != 3 for value in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNCATED)
def test_unfused_attention_gives_equal_states(name: str, tmp_path: Path) -> None:
    model_type, settings = BACKBONES[name]
    folder = make_checkpoint(tmp_path / "full", model_type, **settings)
    model = load_model(str(folder), None).model.eval()
    batch = model.preprocess(["hello there my good old friend", "no"])
    implementation = model[0].auto_model.config._attn_implementation
    with torch.no_grad():
        before = model[0](dict(batch))["token_embeddings"]
        with unfused_attention(model, wanted=True):
            after = model[0](dict(batch))["token_embeddings"]
            assert model[0].auto_model.config._attn_implementation == "eager"
        again = model[0](dict(batch))["token_embeddings"]
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(after[mask], before[mask], rtol=1e-4, atol=1e-5)
    assert model[0].auto_model.config._attn_implementation == implementation
    assert torch.equal(again, before)


def test_truncate_to_writes_a_shallower_model(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--exits", "1,2") == 0
    capsys.readouterr()
    cut = ["--model", str(tmp_path / "out"), "--truncate-to", "2", "--out", str(tmp_path / "cut")]
    assert main(["train", *cut]) == 0
    assert "Wrote" in capsys.readouterr().err
    checkpoint = read_checkpoint(str(tmp_path / "cut"))
    assert (checkpoint.depth, checkpoint.trained_exits) == (2, [1, 2])
    assert run(tiny_checkpoint, data["texts"], tmp_path / "one", "--truncate_to", "1") == 0
    assert read_checkpoint(str(tmp_path / "one")).depth == 1
    assert main(["train", *cut]) == 2
    assert "is not empty and is never overwritten" in capsys.readouterr().err
    assert run(tiny_checkpoint, data["texts"], tmp_path / "no", "--truncate_to", "4") == 2
    assert "cannot be truncated to depth 4. It has 3 layers" in capsys.readouterr().err


@pytest.mark.slow
def test_truncated_model_exports_its_projection_and_cannot_be_trained(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    warning = "other tools ignore the projection of this depth. Exports apply it."
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", "--truncate_to", "2") == 0
    assert warning in capsys.readouterr().err
    report = export_bundle(ExportRequest(str(tmp_path / "out"), tmp_path / "bundle", [Target(2, 32)]))
    assert report.bundle.manifest.targets[0].quality[0].value > 0.999
    assert run(tmp_path / "out", data["texts"], tmp_path / "again") == 2
    assert "Train the whole model and truncate it afterwards" in capsys.readouterr().err
    assert run(tiny_checkpoint, data["texts"], tmp_path / "plain", "--truncate_to", "2", "--projections", "0") == 0
    assert warning not in capsys.readouterr().err


@pytest.mark.slow
def test_model_truncated_below_its_trained_exits_exports_its_depth(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    flags = ["--exits", "3", "--truncate_to", "1"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *flags) == 0
    assert capsys.readouterr().err.endswith("/out: 1 layers\n")
    report = export_bundle(ExportRequest(str(tmp_path / "out"), tmp_path / "bundle"))
    assert {entry.depth for entry in report.bundle.manifest.targets} == {1}


def test_truncation_expands_the_home_folder_and_overwrites_nothing(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    cut = ["--model_name_or_path", str(tiny_checkpoint), "--truncate_to", "2", "--save_dir", "~/mine"]
    assert main(["train", *cut]) == 2
    assert "mine is not empty and is never overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label_free", "1", "--apply_ese", "0"], "Training without ESE needs labels"),
        (["--ese_variant", "paper", "--label_free", "1"], "needs labelled data"),
        (["--exits", "4"], "exits has 4. This model allows 1 to 3"),
        (["--dims", "4,16"], "dims has 4. This model allows 8 to 32"),
        (["--projections=1", "--projection-texts=20"], "need 64 different texts, and --projection-texts is 20"),
        (["--model_name_or_path", "nowhere/at/all"], "There is no folder nowhere/at/all"),
        (["--train_name_or_path", "/nowhere.jsonl"], "There is no file /nowhere.jsonl"),
        (["--wandb_project", "mine"], "needs wandb: pip install wandb"),
    ],
)
def test_unsupported_combinations_are_one_line_errors(
    flags: list[str], message: str, data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *flags) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


@pytest.mark.parametrize("kept", range(1, 8))
def test_requested_number_of_checkpoints_is_kept(tmp_path: Path, kept: int) -> None:
    for step in range(1, 11):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        finish_checkpoint(folder, kept)
        steps = sorted(int(one.name.split("-")[1]) for one in tmp_path.iterdir())
        assert steps == list(range(max(1, step - kept + 1), step + 1))


def test_held_out_data_smaller_than_a_batch_is_evaluated(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{text}\n" for text in data["texts"].read_text("utf-8").splitlines()[:5]), "utf-8")
    unseen = ["--valid_name_or_path", str(few), "--eval_steps", "1"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *unseen) == 0
    assert capsys.readouterr().err.count("eval_loss") == 2


@pytest.mark.slow
def test_bundle_of_a_model_truncated_at_an_untrained_depth_is_marked_untrained(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--exits", "1", "--align_w", "0.5", "--projections", "0", "--truncate-to", "2"]
    assert run(tiny_checkpoint, data["texts"], tmp_path / "out", *flags) == 0
    targets = [Target(1, 16), Target(2, 16)]
    report = export_bundle(ExportRequest(str(tmp_path / "out"), tmp_path / "bundle", targets))
    found = [(entry.trained, entry.space) for entry in report.bundle.manifest.targets]
    assert (found, report.untrained) == ([(True, "aligned"), (False, "exit02")], [2])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--maxlen", "2"], "--max-length: '2' is not a whole number of at least 8"),
        (["--epochs", "0"], "--epochs: '0' is not a number above 0"),
        (["--train_split_name", "validation"], "is a local file, which has no subsets or splits"),
    ],
)
def test_bad_options_are_errors(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, flags: list[str], message: str
) -> None:
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err


def test_unused_options_are_logged(
    data: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    paper = ["--ese_variant", "paper", "--ese_compression_size", "16", "--ese_kl_temperature", "0", "--spans", "1"]
    assert run(tiny_checkpoint, data["C"], tmp_path / "out", *paper) == 0
    err = capsys.readouterr().err
    assert "warning: The variant paper does not use kl_temperature." in err
    assert "warning: Spans are not used: there are no plain texts." in err
    assert "kl_temperature" not in read_checkpoint(str(tmp_path / "out")).contract.settings
