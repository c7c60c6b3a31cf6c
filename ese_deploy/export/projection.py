"""From an exit's full vector to the components that a target keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.tape import Tape
from torch import Tensor, nn
from torch.nn.functional import linear

from ese_deploy.manifest import Calibration
from ese_deploy.pca import Pca

__all__ = ["PROJECTIONS", "Fitted", "Rotation", "append_cut", "fitted_space"]

PROJECTIONS = ("prefix", "pca")

# As in torch's normalize: a zero vector stays zero.
_NORM_FLOOR = 1e-12


@dataclass(frozen=True)
class Fitted:
    """Projections that were fitted.

    Attributes:
        calibration: what on.
        pcas: for each exit its principal components.
    """

    calibration: Calibration
    pcas: Mapping[int, Pca]


class Rotation(nn.Module):
    """Turns the vectors of every exit onto their principal components; leaves an exit without them as it is.

    Args:
        pcas: for each exit its principal components; none of them for plain prefixes.
    """

    def __init__(self, pcas: Mapping[int, Pca]) -> None:
        super().__init__()
        for depth, pca in pcas.items():
            self.register_buffer(f"components_{depth}", torch.from_numpy(pca.components.copy()))

    def forward(self, vectors: Tensor, depth: int) -> Tensor:
        """Rotate [batch, width] of exit ``depth``; one matrix serves all targets of the exit."""
        components: Tensor | None = getattr(self, f"components_{depth}", None)
        return vectors if components is None else linear(vectors, components)


def append_cut(graph: ir.Graph, dim: int) -> None:
    """Let a graph keep the first ``dim`` components of its one output, and scale rows to norm 1.

    Written in the graph's own terms, so that a further dim costs no further trace.

    Args:
        graph: its output is [batch, width]; it becomes [batch, dim].
        dim: at most width.
    """
    (vectors,) = graph.outputs
    axes = list(vectors.shape or ())

    def constant(name: str, value: NDArray[Any]) -> ir.Value:
        initializer = ir.Value(name=name, const_value=ir.tensor(value, name=name))
        graph.register_initializer(initializer)
        return initializer

    nodes = Tape()
    kept = vectors
    axis = constant("cut_axis", np.array([1]))
    if axes[-1] != dim:
        bounds = (constant("cut_start", np.array([0])), constant("cut_end", np.array([dim])))
        kept = nodes.op("Slice", [vectors, *bounds, axis])
    norms = nodes.op("ReduceL2", [kept, axis], {"keepdims": 1})
    bounded = nodes.op("Max", [norms, constant("cut_floor", np.array(_NORM_FLOOR, np.float32))])
    unit = nodes.op("Div", [kept, bounded])
    unit.dtype = ir.DataType.FLOAT
    unit.shape = ir.Shape([*axes[:-1], dim])
    graph.extend(nodes.nodes)
    graph.outputs[0] = unit


def fitted_space(depth: int, calibration: Calibration) -> str:
    """Name of the space of principal components: they are an exit's own, and of the texts that they were fitted on."""
    return f"exit{depth:02d}.pca-{calibration.sha256[:8]}"
