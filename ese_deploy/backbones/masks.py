"""Finished attention masks: which token may see which."""

from typing import Any

import torch
from torch import Tensor

from ese_deploy.backbones.architectures import Architecture

__all__ = ["attention_masks"]


def attention_masks(architecture: Architecture, config: Any, attention_mask: Tensor) -> Tensor | dict[str, Tensor]:
    """The mask in the form that a backbone takes.

    Args:
        architecture: what is special about the backbone.
        config: its configuration.
        attention_mask: int64 [batch, sequence], 1 for a token and 0 for padding.

    Returns:
        ``attention_mask`` itself for a plain architecture; else bool [batch, 1, sequence, sequence], true where a
        token (third axis) may see another (fourth axis), or a dict of such masks by layer type.
    """
    if architecture.mask == "plain":
        return attention_mask
    batch, sequence = attention_mask.shape
    seen = attention_mask[:, None, None, :].bool()
    positions = torch.arange(sequence, device=attention_mask.device)
    # How far the seen token stands before the one that looks.
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
