"""ESE losses for sentence-transformers' trainer: learn-to-express and learn-to-compress."""

from ese_deploy.losses.callback import EseCallback, restore_loss, save_contract
from ese_deploy.losses.espresso import EspressoSettings
from ese_deploy.losses.full import AngleLoss
from ese_deploy.losses.loss import EseLoss
from ese_deploy.losses.objective import AngleObjective
from ese_deploy.losses.projections import blank_projections, fit_projections
from ese_deploy.losses.states import ModelStates
from ese_deploy.losses.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "AngleLoss",
    "AngleObjective",
    "EseCallback",
    "EseLoss",
    "EspressoSettings",
    "ModelStates",
    "blank_projections",
    "fit_projections",
    "restore_loss",
    "save_contract",
]
