"""Maps of shallow exits into the space of the full model, by ridge regression.

What a model has computed up to an exit tells more of the full model's vectors than the exit's own cosines show; the
map puts it where the full model has it. Shallow targets then rank more like the full model, and all share one space.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ese_deploy.projections.pca import Moments, fit_pca, mean_squares
from ese_deploy.projections.projection import Projection, unit_rows

__all__ = ["CrossMoments", "align_exits", "fit_alignment"]

Rows = NDArray[np.floating]

# A share of the mean eigenvalue of what a map reads (docs/alignment.md).
_RIDGE = 1e-3
_ROWS = 512


@dataclass
class CrossMoments:
    """Products of what an exit's map reads with itself and with the full model's vectors, over a stream of texts.

    Sums are in float64.

    Attributes:
        inputs: dimensions of what the map reads.
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

    def add(self, read: NDArray[np.floating], full: NDArray[np.floating]) -> None:
        """Add what was read of texts, [n, inputs], and the full model's vectors of them, [n, width], at any scale."""
        self.count += len(read)
        self._waiting.append((read, full))
        # Sums as wide as this are memory to read and write: few rows at a time would be mostly that.
        if sum(len(rows) for rows, _ in self._waiting) >= _ROWS:
            self._join()

    def _join(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(rows).astype(np.float64) for rows in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._own += x.T @ x
        self._cross += unit_rows(y).T @ x

    def solve(self, ridge: float) -> NDArray[np.float64]:
        """The matrix M, [width, inputs], of the least sum of |M x - y|^2 + ridge * trace(X) / inputs * |M|^2."""
        self._join()
        weighted = self._own + ridge * np.trace(self._own) / self.inputs * np.eye(self.inputs)
        solution: NDArray[np.float64] = np.linalg.solve(weighted, self._cross.T).T
        return solution

    def mean_squares(self, matrix: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean square of each component of what a map, [width, inputs], makes of the texts."""
        self._join()
        return mean_squares(matrix, self._own / self.count)


def fit_alignment(moments: CrossMoments, components: Projection, ridge: float = _RIDGE) -> NDArray[np.float64]:
    """The matrix of an exit's map nearest to the full model's vectors.

    Args:
        moments: of the texts to fit on.
        components: turns the full model's vectors onto their principal components, by falling variance, so that a
            prefix of the map's output is the best of its length.
        ridge: share of the mean eigenvalue of what was read.
    """
    matrix: NDArray[np.float64] = components.matrix.astype(np.float64) @ moments.solve(ridge)
    return matrix


def align_exits(
    full: int,
    width: int,
    read: Mapping[int, tuple[int, ...]],
    batches: Iterable[tuple[Mapping[int, Rows], Rows]],
    *,
    trained: Mapping[int, Projection] = MappingProxyType({}),
    share: float = 1.0,
    restore: bool = True,
    turn: Projection | None = None,
) -> dict[int, Projection]:
    """Fit the maps of several exits in one pass over texts.

    Regression makes small what it cannot foretell, the later components most. Their mean squares are then made those of
    the full model's vectors again, which ranks better than the least error does.

    Args:
        full: the full depth, whose map is the turn onto the principal components of its vectors.
        width: dimensions of its vectors.
        read: for each other exit the states that its map reads.
        batches: of texts, for each exit what is read, [n, inputs], and the full model's vectors, [n, width].
        trained: maps of all these exits, which the fitted ones are mixed with; that of the full depth stays.
        share: of the fitted ones in that, 0 to 1.
        restore: give components the mean squares of the full model's.
        turn: the full depth's map, where it was fitted before.

    Raises:
        InputError: there are too few texts.
    """
    own = Moments(width)
    moments: dict[int, CrossMoments] = {}
    for joined, target in batches:
        own.add(target)
        for depth, rows in joined.items():
            moments.setdefault(depth, CrossMoments(rows.shape[1], width)).add(rows, target)
    components = trained.get(full, turn) or fit_pca(own)
    wanted = own.mean_squares(components.matrix)
    projections = {full: components}
    for depth, states in read.items():
        matrix = fit_alignment(moments[depth], components)
        if trained:
            matrix = (1 - share) * trained[depth].matrix + share * matrix
        if restore:
            found = moments[depth].mean_squares(matrix)
            matrix *= np.sqrt(np.divide(wanted, found, out=np.ones(width), where=found > 0))[:, None]
        projections[depth] = Projection(np.ascontiguousarray(matrix, np.float32), states)
    return projections
