"""From an exit's full vector to the components that a target keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from ese_deploy.bundle.manifest import Calibration
from ese_deploy.projections.projection import Projection

__all__ = ["FITTED", "PROJECTIONS", "TRAINED", "Fitted", "append_cut", "fitted_space"]

TRAINED = "trained"
PROJECTIONS = ("prefix", "pca", "aligned", TRAINED)

FITTED = frozenset({"pca", "aligned"})
"""Projections that are fitted on texts."""

# As in torch's normalize: a zero vector stays zero.
_NORM_FLOOR = 1e-12


@dataclass(frozen=True)
class Fitted:
    """Projections that were fitted.

    Attributes:
        kind: ``pca``, ``aligned`` or ``trained``.
        calibration: what on; None for those that training left.
        maps: for each exit its map.
    """

    kind: str
    calibration: Calibration | None
    projections: Mapping[int, Projection]


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


def fitted_space(depth: int, kind: str, calibration: Calibration) -> str:
    """Name of the space of a fitted projection, which is of the texts that it was fitted on.

    Principal components are an exit's own; exits that were aligned share one.
    """
    fitted = f"{kind}-{calibration.sha256[:8]}"
    return fitted if kind == "aligned" else f"exit{depth:02d}.{fitted}"
