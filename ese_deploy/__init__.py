"""Sentence embeddings that stop at any depth and keep any prefix: export, verification, measurement, runtime."""

from ese_deploy.bundle import Bundle, open_bundle
from ese_deploy.errors import BundleError, CheckFailedError, EngineError, EseDeployError, InputError
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target

__all__ = [
    "Bundle",
    "BundleError",
    "CheckFailedError",
    "Encoder",
    "EngineError",
    "EseDeployError",
    "InputError",
    "Target",
    "__version__",
    "open_bundle",
]

__version__ = "0.1.0"
