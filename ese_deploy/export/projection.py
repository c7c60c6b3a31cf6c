"""The projections of a bundle, and the nodes that reduce an exit's vector to a target's dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from ese_deploy.bundle.manifest import Calibration
from ese_deploy.bundle.spaces import invert
from ese_deploy.projections.projection import Projection
from ese_deploy.projections.tokens import TokenFeatures

__all__ = ["BundleProjections", "append_truncation", "fitted_space"]

# As in torch's normalize: a zero vector stays zero.
_NORM_FLOOR = 1e-12


@dataclass(frozen=True)
class BundleProjections:
    """The projections that the graphs of a bundle apply.

    Attributes:
        kind: ``pca``, ``aligned`` or ``trained``.
        calibration: the texts that they were fitted on; None for those that training made.
        by_exit: the projection of each exit.
        in_source: whether they lead into the source space, not onto principal components.
    """

    kind: str
    calibration: Calibration | None
    by_exit: Mapping[int, Projection]
    in_source: bool = False

    @property
    def tokens(self) -> TokenFeatures | None:
        """The token features that the projections read."""
        return next((one.tokens for one in self.by_exit.values() if one.tokens is not None), None)

    def to_source(self, full: int) -> "BundleProjections":
        """The projections with the inverse of the full depth's after each; the full depth then needs none.

        Args:
            full: the full depth.

        Raises:
            BundleError: the projection of the full depth cannot be inverted.
        """
        if full not in self.by_exit:
            return replace(self, in_source=True)
        inverse = invert(self.by_exit[full].matrix, "the export").astype(np.float64)
        rotated = {
            depth: replace(projection, matrix=np.ascontiguousarray(inverse @ projection.matrix, np.float32))
            for depth, projection in self.by_exit.items()
            if depth != full
        }
        return replace(self, by_exit=rotated, in_source=True)


def append_truncation(graph: ir.Graph, dim: int) -> None:
    """Make a graph keep the first ``dim`` components of its one output, and scale rows to norm 1.

    The nodes are added to the traced graph, so that another dim needs no other trace.

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
    """Name of the embedding space of a fitted projection; other texts give another space.

    ``pca`` gives each exit a space of its own, ``aligned`` gives all exits the same.
    """
    fitted = f"{kind}-{calibration.sha256[:8]}"
    return fitted if kind == "aligned" else f"exit{depth:02d}.{fitted}"
