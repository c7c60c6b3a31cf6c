"""The reference: the checkpoint loaded anew at one depth by transformers, which knows nothing of the exporter.

Nothing here comes from ``backbones/exits`` or ``backbones/pooling``, so that a mistake there cannot hide.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ese_deploy.backbones import Checkpoint
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.errors import InputError

__all__ = ["Reference"]


class Reference:
    """A PyTorch model of ``depth`` blocks, in fp32, with eager attention.

    Args:
        checkpoint: the checkpoint to load from.
        depth: number of blocks, from 1.
    """

    def __init__(self, checkpoint: Checkpoint, depth: int) -> None:
        folder = checkpoint.backbone_path
        self._pooling = checkpoint.pooling
        self._max_length = checkpoint.max_seq_length
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokenizer.padding_side = "right"
        self._lower_case = checkpoint.lower_case
        with quiet_transformers():  # it would report the weights of the blocks left out
            self._model: Any = AutoModel.from_pretrained(
                folder,
                config=_truncate(AutoConfig.from_pretrained(folder, local_files_only=True), depth),
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=None if checkpoint.allow_pickle else True,
                local_files_only=True,
            ).eval()
        blocks = _count_blocks(self._model)
        if blocks != depth:
            raise InputError(
                f"transformers built {blocks} blocks where {depth} were asked for; it cannot be a reference"
            )

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, special tokens included, nothing cut."""
        return len(self._tokenizer(self._prepare(text), truncation=False, verbose=False)["input_ids"])

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text as the model gets them."""
        ids: list[int] = self._tokenizer(self._prepare(text), truncation=True, max_length=self._max_length)["input_ids"]
        return ids

    def pool(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts one by one, so that no padding is involved.

        Returns:
            float32 [n, width], not normalised.
        """
        rows = [self._pool(text) for text in texts]
        vectors: NDArray[np.float32] = torch.stack(rows).numpy()
        return vectors

    @staticmethod
    def cut(pooled: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
        """Keep the first ``dim`` columns of [n, width] and scale rows to norm 1."""
        prefix = pooled[:, :dim].astype(np.float64)
        vectors: NDArray[np.float32] = (prefix / np.linalg.norm(prefix, axis=1, keepdims=True)).astype(np.float32)
        return vectors

    def _pool(self, text: str) -> torch.Tensor:
        features = self._tokenizer(
            self._prepare(text), truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        with torch.no_grad():
            states: torch.Tensor = self._model(**features).last_hidden_state[0]
        if self._pooling == "cls":
            return states[0]
        if self._pooling == "mean":
            return states.mean(0)
        raise InputError(f"the reference has no pooling '{self._pooling}'")

    def _prepare(self, text: str) -> str:
        return text.lower() if self._lower_case else text


def _truncate(config: Any, depth: int) -> Any:
    """A copy of the config with ``depth`` blocks; lists with one item per block are cut too."""
    full = config.num_hidden_layers
    truncated = copy.deepcopy(config)
    truncated.num_hidden_layers = depth
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == full and name != "architectures":
            setattr(truncated, name, value[:depth])
    return truncated


def _count_blocks(model: Any) -> int:
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return len(lists[0]) if lists else 0
