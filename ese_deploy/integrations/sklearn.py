"""scikit-learn: a transformer from texts to vectors."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from ese_deploy.runtime import Encoder

__all__ = ["TextVectorizer"]


class TextVectorizer(TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Embeds texts as the first step of a pipeline. It learns nothing, and may be pickled and searched over.

    Args:
        encoder: an open encoder.
        dim: components to keep. Default: those of the target.
    """

    def __init__(self, encoder: Encoder, dim: int | None = None) -> None:
        self.encoder = encoder
        self.dim = dim

    def fit(self, X: Sequence[str], y: Any = None) -> Self:  # noqa: N803
        """Nothing to learn."""
        return self

    def transform(self, X: Sequence[str]) -> NDArray[np.float32]:  # noqa: N803
        """Vectors of texts, float32 [n, dim]."""
        return self.encoder.encode(list(X), dim=self.dim)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the components."""
        return np.array([f"ese{index}" for index in range(self.dim or self.encoder.dim)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True
