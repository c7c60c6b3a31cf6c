"""ESE as losses for sentence-transformers' trainer: learn-to-express and learn-to-compress."""

from ese_deploy.losses.callback import EseCallback, restore_loss, save_contract
from ese_deploy.losses.espresso import EspressoSettings
from ese_deploy.losses.full import AngleLoss
from ese_deploy.losses.loss import VARIANTS, EseLoss
from ese_deploy.losses.maps import blank_maps, fit_maps
from ese_deploy.losses.objective import AngleObjective

__all__ = [
    "VARIANTS",
    "AngleLoss",
    "AngleObjective",
    "EseCallback",
    "EseLoss",
    "EspressoSettings",
    "blank_maps",
    "fit_maps",
    "restore_loss",
    "save_contract",
]
