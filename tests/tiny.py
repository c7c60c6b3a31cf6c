"""Small checkpoints made on the spot: real architectures with random, non-trivial weights and a real tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from ese_deploy.texts import collection

HIDDEN = 32
LAYERS = 3
MAX_LENGTH = 48
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_SMALL = {
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
_DISTILBERT = {"dim": HIDDEN, "n_heads": 4, "n_layers": LAYERS, "hidden_dim": 48, "pad_token_id": 0}
_CONFIGS: dict[str, dict[str, Any]] = {
    "distilbert": _DISTILBERT,
    "electra": {**_SMALL, "embedding_size": 16},
}


def wordpiece_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer trained on the shipped collection."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((item.text for item in collection()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        **{"model_max_length": MAX_LENGTH, **settings},
    )


def make_backbone(model_type: str = "bert", **settings: Any) -> torch.nn.Module:
    """A small backbone whose every weight, norms and biases included, differs from its neutral value."""
    small = {**_CONFIGS.get(model_type, _SMALL), "vocab_size": 600, "max_position_embeddings": 64, **settings}
    config = AutoConfig.for_model(model_type, **small)
    torch.manual_seed(7)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.15 if parameter.ndim > 1 else 0.3
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn_like(parameter) * scale + float(is_norm_weight))
    return model


def make_checkpoint(
    folder: Path,
    model_type: str = "bert",
    *,
    pooling: str = "mean",
    max_seq_length: int | None = MAX_LENGTH,
    prompts: dict[str, str] | None = None,
    lower_case: bool = False,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **settings: Any,
) -> Path:
    """Save a small backbone as a sentence-transformers folder."""
    make_backbone(model_type, **settings).save_pretrained(folder)
    (tokenizer or wordpiece_tokenizer()).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    config = {"word_embedding_dimension": HIDDEN, f"pooling_mode_{_legacy(pooling)}": True}
    if pooling != "mean":
        config["pooling_mode_mean_tokens"] = False
    write_json(folder / "1_Pooling/config.json", config)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": lower_case})
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts or {}, "default_prompt_name": None})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text("utf-8")), **changes})


def names(folder: Path) -> list[str]:
    """Names of what lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def _legacy(pooling: str) -> str:
    return {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
