"""Checkpoints of random weights, and the bundles made of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.gpu.cases import Shape
from ese_deploy.backbones import Checkpoint, load_backbone, read_checkpoint
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.export.convert import Recipe
from ese_deploy.export.graphs import write_graphs
from ese_deploy.export.observe import calibrate_int8, describe_recipe
from ese_deploy.export.trace import trace
from ese_deploy.target import DTYPES, Target
from ese_deploy.texts.sample import sample_corpus

__all__ = ["checkpoint_of", "depths_of", "export_shape", "make_checkpoint"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_POSITIONS = 512


def depths_of(shape: Shape) -> list[int]:
    """Half of the blocks, and all of them."""
    return [shape.depth // 2, shape.depth]


def make_checkpoint(shape: Shape, folder: Path) -> Path:
    """Save a BERT of random weights with a tokenizer, as a folder of transformers; nothing is downloaded."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=_POSITIONS,
    )
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((item.text for item in sample_corpus()), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=_POSITIONS, **names)
    fast.save_pretrained(folder)
    return folder


def checkpoint_of(shape: Shape, work: Path) -> Checkpoint:
    """A shape's checkpoint in ``work``; one that is there from an earlier piece is used again."""
    model = work / shape.name / "model"
    if not (model / "tokenizer.json").exists():
        make_checkpoint(shape, model)
    return read_checkpoint(str(model), pooling="mean")


def export_shape(shape: Shape, checkpoint: Checkpoint, dtypes: Sequence[str], work: Path) -> Bundle:
    """Make a checkpoint's bundle in ``work``; what is there from an earlier piece is used again, or stays in it."""
    out = work / shape.name / "bundle"
    wanted = {Target(depth, shape.hidden, dtype) for depth in depths_of(shape) for dtype in dtypes}
    if out.exists():
        held = open_bundle(out)
        targets = {entry.target for entry in held.manifest.targets}
        if targets >= wanted:
            return held
        wanted |= targets
        shutil.rmtree(out)
    out.mkdir(parents=True)
    traced = trace(checkpoint, load_backbone(checkpoint), depths_of(shape))
    recipe = None
    if any(DTYPES[target.dtype].quantized for target in wanted):
        recipe = Recipe(describe_recipe(None, bits=8), calibrate_int8(checkpoint, traced, None))
    write_graphs(out, checkpoint, traced, sorted(wanted), recipe=recipe)
    return open_bundle(out)
