"""Linear projections of exits: the file format, PCA, and ridge regression onto the full model."""

from ese_deploy.projections.pca import Moments, fit_pca, minimum_texts
from ese_deploy.projections.projection import (
    PROJECTIONS_FILE,
    Projection,
    decode_projections,
    encode_projections,
    input_states,
)
from ese_deploy.projections.ridge import CrossMoments, fit_ridge, fit_ridge_projections
from ese_deploy.projections.tokens import TOKENS_FILE, TokenFeatures

__all__ = [
    "PROJECTIONS_FILE",
    "TOKENS_FILE",
    "CrossMoments",
    "Moments",
    "Projection",
    "TokenFeatures",
    "decode_projections",
    "encode_projections",
    "fit_pca",
    "fit_ridge",
    "fit_ridge_projections",
    "input_states",
    "minimum_texts",
]
