"""Proving that a bundle computes what PyTorch computes."""

from ese_deploy.verify.emulate import engine_for
from ese_deploy.verify.parity import COSINE_GATE, MAX_ABS_GATE, TargetCheck, check_target
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.save import save_parity
from ese_deploy.verify.targets import check_targets

__all__ = [
    "COSINE_GATE",
    "MAX_ABS_GATE",
    "Reference",
    "TargetCheck",
    "check_target",
    "check_targets",
    "engine_for",
    "save_parity",
]
