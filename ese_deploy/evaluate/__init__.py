"""Quality: similarity (STS), retrieval, and agreement with the full model. Nothing else in the package computes it."""

from typing import TYPE_CHECKING

from ese_deploy.bundle.metrics import AGREEMENT
from ese_deploy.system.lazy import lazy_names

if TYPE_CHECKING:
    from ese_deploy.evaluate.api import Baseline, Evaluation, evaluate
    from ese_deploy.evaluate.data import RetrievalData, StsData, read_retrieval, read_sts
    from ese_deploy.evaluate.exits import BundleExits, Exit, ExitModel
    from ese_deploy.evaluate.full_model import agreement, neighbour_overlap
    from ese_deploy.evaluate.grid import AsymmetricCell, Figures, evaluate_grid, with_shares
    from ese_deploy.evaluate.retrieval import RetrievalScore, evaluate_retrieval, score_retrieval
    from ese_deploy.evaluate.sts import CanEncode, StsScore, evaluate_sts, score_sts
else:
    # Scores need scipy and checkpoints need torch; arguments are checked without them.
    __getattr__ = lazy_names(
        __name__,
        {
            "ese_deploy.evaluate.full_model": ["agreement", "neighbour_overlap"],
            "ese_deploy.evaluate.api": ["Baseline", "Evaluation", "evaluate"],
            "ese_deploy.evaluate.data": ["RetrievalData", "StsData", "read_retrieval", "read_sts"],
            "ese_deploy.evaluate.exits": ["BundleExits", "Exit", "ExitModel"],
            "ese_deploy.evaluate.grid": ["AsymmetricCell", "Figures", "evaluate_grid", "with_shares"],
            "ese_deploy.evaluate.retrieval": ["RetrievalScore", "evaluate_retrieval", "score_retrieval"],
            "ese_deploy.evaluate.sts": ["CanEncode", "StsScore", "evaluate_sts", "score_sts"],
        },
    )

__all__ = [
    "AGREEMENT",
    "AsymmetricCell",
    "Baseline",
    "BundleExits",
    "CanEncode",
    "Evaluation",
    "Exit",
    "ExitModel",
    "Figures",
    "RetrievalData",
    "RetrievalScore",
    "StsData",
    "StsScore",
    "agreement",
    "evaluate",
    "evaluate_grid",
    "evaluate_retrieval",
    "evaluate_sts",
    "neighbour_overlap",
    "read_retrieval",
    "read_sts",
    "score_retrieval",
    "score_sts",
    "with_shares",
]
