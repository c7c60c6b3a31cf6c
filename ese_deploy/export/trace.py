"""One trace of a backbone gives one ONNX graph with an output for every (depth, dim)."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ese_deploy.backbones import Checkpoint, Exits, load_backbone
from ese_deploy.backbones.architectures import uses_token_types
from ese_deploy.errors import InputError
from ese_deploy.export.projection import project

__all__ = ["OPSET", "input_names", "output_name", "trace"]

# The lowest opset with the standard Attention operator, which ONNX Runtime runs as fast as its own fused one.
OPSET = 23

# Example sizes of at least 2, or torch.export takes an axis for a constant.
_BATCH, _SEQUENCE = 2, 6


def output_name(depth: int, dim: int) -> str:
    """The traced graph's output for a (depth, dim)."""
    return f"d{depth}_k{dim}"


def input_names(checkpoint: Checkpoint) -> list[str]:
    """The inputs that the backbone takes."""
    names = ["input_ids", "attention_mask"]
    return [*names, "token_type_ids"] if uses_token_types(checkpoint.config) else names


def trace(checkpoint: Checkpoint, sizes: Sequence[tuple[int, int]]) -> ir.Model:
    """Trace a checkpoint once.

    Args:
        checkpoint: the checkpoint; its weights are loaded here.
        sizes: the (depth, dim) wanted, each an output of the graph.

    Returns:
        A model in fp32 with symbolic axes ``batch`` and ``sequence``.

    Raises:
        InputError: the weights cannot be loaded, or torch cannot trace the model with symbolic axes.
    """
    backbone = load_backbone(checkpoint)
    depths = sorted({depth for depth, _ in sizes})
    module = _Targets(Exits(backbone, checkpoint.architecture, checkpoint.pooling, depths), sizes).eval()
    names = input_names(checkpoint)
    # Each input a tensor of its own: torch.export takes one tensor given twice for one input.
    arguments = tuple(torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64) for _ in names)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[output_name(*size) for size in sizes],
            dynamic_shapes=(tuple(axes for _ in names),),
            verbose=False,
        )
    if program is None:
        raise InputError(f"torch did not trace {checkpoint.location.model}")
    model: ir.Model = program.model
    _check_axes(model, checkpoint)
    return model


class _Targets(nn.Module):
    """Exits with their projections, as a flat tuple in the order of the sizes."""

    def __init__(self, exits: Exits, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.exits = exits
        self.sizes = tuple(sizes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        vectors = self.exits(*inputs)
        return tuple(project(vectors[depth], dim) for depth, dim in self.sizes)


def _check_axes(model: ir.Model, checkpoint: Checkpoint) -> None:
    for value in model.graph.inputs:
        axes = [str(getattr(axis, "value", axis)) for axis in value.shape or ()]
        if axes != ["batch", "sequence"]:
            raise InputError(
                f"torch traced {checkpoint.location.model} with the axes {axes} for {value.name}, not with "
                "[batch, sequence]: the model fixes a size and cannot be exported"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's notes on its own internals from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
