"""What ese_deploy is compared with: PyTorch with transformers, and sentence-transformers."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.step import Skip
from benchmarks.gpu.texts import token_batch

__all__ = ["ATTENTIONS", "TORCH_DTYPES", "reference", "sentence_transformer", "torch_tokens"]

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What a contender is called, and what transformers calls its attention.
ATTENTIONS = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}

Vectors = NDArray[np.float32]


def sentence_transformer(
    folder: Path, shape: Shape, depth: int, dtype: str, device: str, attention: str = "sdpa", compiler: str = ""
) -> Any:
    """The model as sentence-transformers runs it, cut to ``depth`` layers.

    Raises:
        Skip: flash attention is not installed.
    """
    _require(attention)
    from sentence_transformers import SentenceTransformer

    settings = {"dtype": TORCH_DTYPES[dtype], "attn_implementation": ATTENTIONS[attention]}
    model = SentenceTransformer(str(folder), device=device, model_kwargs=settings, local_files_only=True).eval()
    backbone = model[0].auto_model
    _cut(backbone, shape, depth)
    if compiler:
        backbone.forward = torch.compile(backbone.forward, dynamic=False, backend=compiler)
    return model


def torch_tokens(
    folder: Path, shape: Shape, depth: int, dtype: str, device: str, attention: str = "sdpa", compiler: str = ""
) -> Callable[[int, int], Callable[[], Vectors]]:
    """The model in transformers with pooling and normalisation, from token ids to vectors.

    Rows have no padding, and the model is given no mask: that is when PyTorch is fastest.

    Returns:
        A function of batch and length that gives a function to time, which includes copies to the device and back.
    """
    _require(attention)
    backbone = _load(folder, shape, depth, TORCH_DTYPES[dtype], ATTENTIONS[attention])
    module: Any = _Pooled(backbone, last=shape.decoder).eval().to(device)
    if compiler:
        module = torch.compile(module, dynamic=False, backend=compiler)

    def prepare(batch: int, length: int) -> Callable[[], Vectors]:
        ids = torch.from_numpy(token_batch(batch, length, ["input_ids"])["input_ids"])

        def run() -> Vectors:
            with torch.inference_mode():
                vectors: Vectors = module(ids.to(device)).cpu().numpy()
            return vectors

        return run

    return prepare


def reference(folder: Path, shape: Shape, depth: int, texts: Sequence[str], device: str) -> Vectors:
    """Vectors of PyTorch in fp32 with eager attention and without TF32, one text at a time, so without padding."""
    from tokenizers import Tokenizer

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    backbone = _load(folder, shape, depth, torch.float32, "eager")
    module = _Pooled(backbone, last=shape.decoder).eval().to(device)
    with torch.inference_mode():
        rows = [module(torch.tensor([tokenizer.encode(text).ids], device=device)).cpu().numpy() for text in texts]
    return np.concatenate(rows)


class _Pooled(nn.Module):
    def __init__(self, backbone: nn.Module, last: bool) -> None:
        super().__init__()
        self.backbone, self.last = backbone, last

    def forward(self, ids: Tensor) -> Tensor:
        states = self.backbone(input_ids=ids).last_hidden_state
        pooled = states[:, -1] if self.last else states.float().mean(1)
        return nn.functional.normalize(pooled.float(), dim=-1)


def _load(folder: Path, shape: Shape, depth: int, dtype: torch.dtype, attention: str) -> nn.Module:
    from transformers import AutoModel

    logging.getLogger("transformers").setLevel(logging.ERROR)
    pooler = {} if shape.decoder else {"add_pooling_layer": False}
    model: nn.Module = AutoModel.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, local_files_only=True, **pooler
    )
    _cut(model, shape, depth)
    return model


def _cut(model: nn.Module, shape: Shape, depth: int) -> None:
    """Keep the first layers of a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == shape.layers:
                setattr(module, name, child[:depth])
                model.config.num_hidden_layers = depth
                return
    raise ValueError(f"{shape.name} has no list of {shape.layers} layers")


def _require(attention: str) -> None:
    if attention == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise Skip("flash_attn is not installed")
