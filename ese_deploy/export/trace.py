"""One trace of a backbone gives one ONNX graph with an output for every exit."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ese_deploy.backbones import Checkpoint, Exits
from ese_deploy.backbones.architectures import position_limit, uses_token_types
from ese_deploy.backbones.dense import load_head
from ese_deploy.errors import InputError
from ese_deploy.export.request import OPSET
from ese_deploy.export.simplify import simplify
from ese_deploy.projections.projection import Projection

__all__ = ["input_names", "output_name", "trace"]

# torch.export treats an axis of size 1 as a constant.
_BATCH, _SEQUENCE = 2, 6
_REASON = 160


def output_name(depth: int) -> str:
    """The traced graph's output for an exit."""
    return f"exit{depth}"


def input_names(checkpoint: Checkpoint) -> list[str]:
    """The inputs that the backbone takes."""
    names = ["input_ids", "attention_mask"]
    return [*names, "token_type_ids"] if uses_token_types(checkpoint.config) else names


def trace(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Sequence[int],
    opset: int = OPSET,
    projections: Mapping[int, Projection] | None = None,
) -> ir.Model:
    """Trace a checkpoint once.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded. Some modules are replaced by equal ones that trace to fewer nodes.
        depths: the exits; each is an output [batch, width] of the graph, not normalized.
        opset: a key of :data:`ese_deploy.export.request.MINIMUM_ONNXRUNTIME`.
        projections: the projections of some exits.

    Returns:
        A model in fp32 with symbolic axes ``batch`` and ``sequence``.

    Raises:
        InputError: torch cannot trace the model with symbolic axes.
    """
    simplify(backbone)
    head = load_head(checkpoint.head)
    used = {depth: projection for depth, projection in (projections or {}).items() if depth in depths}
    exits = Exits(backbone, checkpoint.architecture, checkpoint.pooling, depths, head, used)
    module = _Flat(exits).eval()
    names = input_names(checkpoint)
    # torch.export would merge inputs that are the same tensor.
    arguments = tuple(torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64) for _ in names)
    # With the length of the position table, torch needs one attempt instead of two.
    longest = position_limit(checkpoint.architecture, checkpoint.config)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=opset,
                input_names=names,
                output_names=[output_name(depth) for depth in depths],
                dynamic_shapes=(tuple(axes for _ in names),),
                verbose=False,
            )
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"Architecture '{checkpoint.config.model_type}' of {checkpoint.location.model} cannot be exported, because "
            f"PyTorch cannot trace it: {_reason(error)}. docs/reference/backbones.md lists what can."
        ) from error
    if program is None:
        raise InputError(f"PyTorch did not trace {checkpoint.location.model}.")
    model: ir.Model = program.model
    _check_axes(model, checkpoint)
    return model


def _reason(error: BaseException) -> str:
    """The first sentence of the innermost cause. The exporter's own message has pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].partition(". ")[0].rstrip(".") if lines else "no message"
    return f"{type(error).__name__}: {first if len(first) <= _REASON else f'{first[:_REASON]}...'}"


class _Flat(nn.Module):
    """Exits as a flat tuple in the order of the depths."""

    def __init__(self, exits: Exits) -> None:
        super().__init__()
        self.exits = exits

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.exits(*inputs).values())


def _check_axes(model: ir.Model, checkpoint: Checkpoint) -> None:
    for value in model.graph.inputs:
        axes = [str(getattr(axis, "value", axis)) for axis in value.shape or ()]
        if axes != ["batch", "sequence"]:
            raise InputError(
                f"PyTorch traced {checkpoint.location.model} with the axes {axes} for {value.name}, not with "
                "[batch, sequence]: the model fixes a size and cannot be exported."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch logs, warns of and prints about its own internals; a failure prints the whole graph."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
