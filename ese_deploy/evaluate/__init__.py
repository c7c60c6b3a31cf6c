"""What a target is worth: the only place where quality is computed."""

from ese_deploy.evaluate.agreement import AGREEMENT, agreement, neighbour_overlap
from ese_deploy.evaluate.data import RetrievalData, StsData, read_retrieval, read_sts
from ese_deploy.evaluate.exits import BundleExits, Exit, ExitModel
from ese_deploy.evaluate.grid import AsymmetricCell, Figures, evaluate_grid, with_shares
from ese_deploy.evaluate.retrieval import RetrievalScore, evaluate_retrieval, score_retrieval
from ese_deploy.evaluate.sts import CanEncode, StsScore, evaluate_sts, score_sts

__all__ = [
    "AGREEMENT",
    "AsymmetricCell",
    "BundleExits",
    "CanEncode",
    "Exit",
    "ExitModel",
    "Figures",
    "RetrievalData",
    "RetrievalScore",
    "StsData",
    "StsScore",
    "agreement",
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
