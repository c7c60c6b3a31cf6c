"""What makes a run of the tests faster without changing what they check: kept traces, and tracing without coverage."""

import functools
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import onnx_ir as ir
import torch
from torch import nn
from transformers import PreTrainedModel

from ese_deploy.backbones import Checkpoint
from ese_deploy.export.request import OPSET
from ese_deploy.export.trace import trace
from ese_deploy.projections.projection import Projection

__all__ = ["kept_traces", "pytorch_untraced", "without_coverage"]

# Traces of larger models would fill the memory.
_MOST_WEIGHTS = 8_000_000


@contextmanager
def pytorch_untraced() -> Iterator[None]:
    """Measure no coverage inside ``torch.onnx.export`` and inside the backbones of transformers.

    Below Python 3.14 coverage is called for each line of each library. That doubles the time of an export, and takes a
    third more for tests that run a backbone.
    """
    with (
        mock.patch.object(torch.onnx, "export", without_coverage(torch.onnx.export)),
        mock.patch.object(PreTrainedModel, "__call__", without_coverage(PreTrainedModel.__call__)),
    ):
        yield


def without_coverage(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function during which this thread measures no coverage."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **named)
        finally:
            sys.settrace(tracer)

    return call


@contextmanager
def kept_traces() -> Iterator[None]:
    """Let exports reuse what an earlier export of this process traced of the same model.

    The key is the content of the model and of the projections, so a trace is never stale. Each export gets a copy.
    """
    kept: dict[str, ir.Model] = {}

    def look_up(
        checkpoint: Checkpoint,
        backbone: nn.Module,
        depths: Sequence[int],
        opset: int = OPSET,
        projections: Mapping[int, Projection] | None = None,
    ) -> ir.Model:
        if sum(parameter.numel() for parameter in backbone.parameters()) > _MOST_WEIGHTS:
            return trace(checkpoint, backbone, depths, opset, projections)
        key = _key(checkpoint, backbone, depths, opset, projections)
        if key not in kept:
            kept[key] = trace(checkpoint, backbone, depths, opset, projections)
        # A test may change what it exports.
        return kept[key].clone()

    with mock.patch("ese_deploy.export.pipeline.trace", look_up):
        yield


def _key(checkpoint: Checkpoint, backbone: nn.Module, *settings: Any) -> str:
    digest = hashlib.sha256(pickle.dumps((checkpoint.pooling, checkpoint.head, settings)))
    for module in checkpoint.head:
        digest.update(module.weights.read_bytes())
    digest.update(checkpoint.config.to_json_string(use_diff=False).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
