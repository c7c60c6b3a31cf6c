"""Ridge projections: predict the full model's vector from what a model has computed up to an exit.

Shallow targets then rank more like the full model, and all exits share one embedding space.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ese_deploy.projections.pca import Moments, fit_pca, mean_squares
from ese_deploy.projections.projection import Projection, unit_rows

__all__ = ["CrossMoments", "fit_ridge", "fit_ridge_projections", "restore_spread"]

Rows = NDArray[np.floating]

# A share of the mean eigenvalue of the inputs (docs/guides/published-models.md).
_RIDGE = 1e-3
_ROWS = 512


@dataclass
class CrossMoments:
    """Products of the inputs with themselves and with the full model's vectors, summed in float64 over texts.

    Attributes:
        inputs: dimensions of what the projection reads.
        width: dimensions of the full model's vectors.
        count: texts added.
    """

    inputs: int
    width: int
    count: int = 0
    _own: NDArray[np.float64] = field(init=False, repr=False)
    _cross: NDArray[np.float64] = field(init=False, repr=False)
    _waiting: list[tuple[Rows, Rows]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._own = np.zeros((self.inputs, self.inputs))
        self._cross = np.zeros((self.width, self.inputs))

    def add(self, inputs: Rows, full: Rows) -> None:
        """Add the inputs of texts, [n, inputs], and the full model's vectors of them, [n, width], of any norm."""
        self.count += len(inputs)
        self._waiting.append((inputs, full))
        # Adding to the wide sums is bound by memory, so several batches are added at once.
        if sum(len(rows) for rows, _ in self._waiting) >= _ROWS:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(rows).astype(np.float64) for rows in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._own += x.T @ x
        self._cross += unit_rows(y).T @ x

    def part(self, places: NDArray[np.int64]) -> "CrossMoments":
        """The moments of some of the inputs."""
        self._add_waiting()
        part = CrossMoments(len(places), self.width, self.count)
        part._own, part._cross = self._own[np.ix_(places, places)], self._cross[:, places]
        return part

    def solve(self, ridge: float) -> NDArray[np.float64]:
        """The matrix M, [width, inputs], that minimises the sum of |M x - y|^2 + ridge * trace(X) / inputs * |M|^2."""
        self._add_waiting()
        weighted = self._own + ridge * np.trace(self._own) / self.inputs * np.eye(self.inputs)
        solution: NDArray[np.float64] = np.linalg.solve(weighted, self._cross.T).T
        return solution

    def mean_squares(self, matrix: Rows) -> NDArray[np.float64]:
        """Mean square of each component of the projected texts; ``matrix`` is [width, inputs]."""
        self._add_waiting()
        return mean_squares(matrix, self._own / self.count)


def fit_ridge(moments: CrossMoments, components: Projection, ridge: float = _RIDGE) -> NDArray[np.float64]:
    """Fit the ridge projection of one exit, [width, inputs].

    Args:
        moments: of the calibration texts.
        components: the PCA projection of the full model's vectors. Components of the result are in its order, so that
            each prefix of the result is the best of its length.
        ridge: share of the mean eigenvalue of the inputs.
    """
    matrix: NDArray[np.float64] = components.matrix.astype(np.float64) @ moments.solve(ridge)
    return matrix


def restore_spread(
    matrix: NDArray[np.float64], moments: CrossMoments, wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale the components of projected texts to the mean squares that they have in the full model's vectors.

    Regression shrinks what it cannot predict, the last components most. This ranks better than the smallest error does.

    Args:
        matrix: [width, inputs].
        moments: of the inputs.
        wanted: mean squares of the full model's components, [width].
    """
    found = moments.mean_squares(matrix)
    factors = np.sqrt(np.divide(wanted, found, out=np.ones(len(found)), where=found > 0))
    scaled: NDArray[np.float64] = matrix * factors[:, None]
    return scaled


def fit_ridge_projections(
    full: int,
    width: int,
    states: Mapping[int, tuple[int, ...]],
    batches: Iterable[tuple[Mapping[int, Rows], Rows]],
    *,
    trained: Mapping[int, Projection] = MappingProxyType({}),
    share: float = 1.0,
    restore: bool = True,
) -> dict[int, Projection]:
    """Fit the projections of several exits in one pass over texts.

    Args:
        full: the full depth. Its projection is the PCA projection of its vectors.
        width: dimensions of its vectors.
        states: for each other exit the states that its projection reads.
        batches: of texts: for each exit the inputs, [n, inputs], and the full model's vectors, [n, width].
        trained: trained projections of all these exits, to average with. That of the full depth is kept.
        share: weight of the ridge projections in the average, 0 to 1.
        restore: scale components to the mean squares of the full model's.

    Raises:
        InputError: there are too few texts.
    """
    own = Moments(width)
    moments: dict[int, CrossMoments] = {}
    for inputs, target in batches:
        own.add(target)
        for depth, rows in inputs.items():
            moments.setdefault(depth, CrossMoments(rows.shape[1], width)).add(rows, target)
    components = trained.get(full) or fit_pca(own)
    wanted = own.mean_squares(components.matrix)
    projections = {full: components}
    for depth, read in states.items():
        matrix = fit_ridge(moments[depth], components)
        if trained:
            matrix = (1 - share) * trained[depth].matrix + share * matrix
        if restore:
            matrix = restore_spread(matrix, moments[depth], wanted)
        projections[depth] = Projection(np.ascontiguousarray(matrix, np.float32), read)
    return projections
