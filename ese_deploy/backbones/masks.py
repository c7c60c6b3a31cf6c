"""Attention masks of four dimensions: which token attends to which."""

from typing import Any

import torch
from torch import Tensor

from ese_deploy.backbones.architectures import Architecture

__all__ = ["attention_masks"]


def attention_masks(architecture: Architecture, config: Any, attention_mask: Tensor) -> Tensor | dict[str, Tensor]:
    """Build the mask that a backbone takes.

    Args:
        architecture: its row in the table of architectures.
        config: the configuration of transformers.
        attention_mask: int64 [batch, sequence], 1 for a token and 0 for padding.

    Returns:
        ``attention_mask`` itself for a plain architecture. Otherwise bool [batch, 1, sequence, sequence], true where
        the token of the third axis attends to that of the fourth, or a dict of such masks by layer type.
    """
    if architecture.mask == "plain":
        return attention_mask
    batch, sequence = attention_mask.shape
    seen = attention_mask[:, None, None, :].bool()
    positions = torch.arange(sequence, device=attention_mask.device)
    # Positive where the attended token is before the attending one.
    distance = positions[:, None] - positions[None, :]
    if architecture.mask == "causal":
        seen = seen & (distance >= 0)
    full = seen.expand(batch, 1, sequence, sequence)
    if not architecture.masks_by_layer:
        return full
    masks = {"full_attention": full}
    if "sliding_attention" in (config.layer_types or ()):
        near = distance.abs() <= config.sliding_window - (not architecture.window_inclusive)
        masks["sliding_attention"] = full & near
    return masks
