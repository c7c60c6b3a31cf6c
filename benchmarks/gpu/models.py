"""Checkpoints of random weights, and the bundles made of them: python -m benchmarks.gpu.models --help.

The kit runs this program in the background, while the first steps measure.
"""

import argparse
import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.shapes import Shape, shapes
from benchmarks.gpu.step import Skip, Step

__all__ = ["DTYPES", "bundle_folder", "export_model", "is_made", "make_model", "model_folder", "require_model"]

DTYPES = ("fp32", "fp16", "bf16")
MAX_LENGTH = 512

# The sample corpus gives about this many whole words and parts of words.
_TOKENS = 8000
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def model_folder(work: Path, name: str) -> Path:
    """A folder that transformers and sentence-transformers read."""
    return work / name / "model"


def bundle_folder(work: Path, name: str) -> Path:
    """The bundle of the same model."""
    return work / name / "bundle"


def _state_file(work: Path, name: str) -> Path:
    return work / f"{name}.json"


def is_made(work: Path, name: str) -> bool:
    """Whether a model's export has ended, well or not."""
    return _state_file(work, name).is_file()


def require_model(step: Step, name: str) -> Path:
    """Wait for a model's bundle.

    Returns:
        The bundle's folder.

    Raises:
        Skip: it was not made, or not in time for this step.
    """
    path = _state_file(step.work, name)
    while not path.is_file():
        if step.late:
            raise Skip(f"{name} was not exported in time")
        time.sleep(0.2)
    reason = json.loads(path.read_text())["error"]
    if reason:
        raise Skip(f"{name} was not exported: {reason}")
    return bundle_folder(step.work, name)


def make_model(shape: Shape, folder: Path) -> None:
    """Save random weights with a tokenizer, in the layout of sentence-transformers."""
    import torch
    from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    settings = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "pad_token_id": 0,
    }
    if shape.decoder:
        settings |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
        model = Qwen3Model(Qwen3Config(**settings, max_position_embeddings=MAX_LENGTH, use_cache=False))
    else:
        model = BertModel(BertConfig(**settings, max_position_embeddings=MAX_LENGTH), add_pooling_layer=False)
    model.eval().save_pretrained(folder)
    _make_tokenizer(folder)
    _describe_modules(shape, folder)


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from ese_deploy.texts.sample import sample_corpus

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=_TOKENS, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((item.text for item in sample_corpus()), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **names)
    fast.save_pretrained(folder)


def _describe_modules(shape: Shape, folder: Path) -> None:
    """Write the files by which sentence-transformers, of any release, finds pooling and normalisation."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    pooling = {
        "word_embedding_dimension": shape.hidden,
        "pooling_mode_mean_tokens": not shape.decoder,
        "pooling_mode_lasttoken": shape.decoder,
    }
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": MAX_LENGTH, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1))
    (folder / "2_Normalize").mkdir(exist_ok=True)


def export_model(shape: Shape, model: Path, out: Path, dtypes: Sequence[str] = DTYPES) -> None:
    """Export all exits without verification; the step ``correctness`` compares them with PyTorch on the device."""
    from ese_deploy.backbones import load_backbone, read_checkpoint
    from ese_deploy.bundle.golden import GOLDEN_FILE, Golden, encode_golden
    from ese_deploy.export.convert import QuantizationSettings
    from ese_deploy.export.graphs import make_graphs
    from ese_deploy.export.observe import calibrate_int8, describe_quantization
    from ese_deploy.export.trace import trace
    from ese_deploy.target import DTYPES as KINDS
    from ese_deploy.target import Target

    out.mkdir(parents=True)
    checkpoint = read_checkpoint(str(model))
    traced = trace(checkpoint, load_backbone(checkpoint), list(shape.depths))
    settings = None
    if any(KINDS[dtype].quantized for dtype in dtypes):
        settings = QuantizationSettings(describe_quantization(None, bits=8), calibrate_int8(checkpoint, traced, None))
    targets = [Target(depth, shape.hidden, dtype) for depth in shape.depths for dtype in dtypes]
    draft = make_graphs(out, checkpoint, traced, sorted(targets), settings=settings)
    draft.add_file("golden", GOLDEN_FILE, encode_golden(Golden([], [], {}))).write_manifest(out.name)


def _make(shape: Shape, work: Path) -> None:
    """Make one model and its bundle; a file beside them says that they are ready, or why not."""
    start, found = time.monotonic(), {"error": "", "model_seconds": 0.0, "export_seconds": 0.0}
    try:
        make_model(shape, model_folder(work, shape.name))
        found["model_seconds"] = round(time.monotonic() - start, 2)
        export_model(shape, model_folder(work, shape.name), bundle_folder(work, shape.name))
        found["export_seconds"] = round(time.monotonic() - start - found["model_seconds"], 2)
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}".partition("\n")[0]
    path = _state_file(work, shape.name)
    path.with_suffix(".part").write_text(json.dumps(found))
    path.with_suffix(".part").replace(path)


def main() -> None:
    """Make models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="+", choices=shapes(tiny=False))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    for name in options.names:
        _make(shapes(options.tiny)[name], options.work)


if __name__ == "__main__":
    main()
