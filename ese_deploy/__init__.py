"""Export, verify, measure and run sentence-embedding models at any depth and any number of dimensions.

Run a bundle (needs numpy, tokenizers, msgspec and one engine):

    from ese_deploy import Encoder

    vectors = Encoder.open("exports/minilm", "3x128").encode(["a text"])

The commands that make and measure are functions: ``from ese_deploy.export import export``, and likewise
``verify.verify``, ``evaluate.evaluate``, ``choose.choose``, ``bench.bench``, ``report.report`` and ``training.train``.
``ese_deploy.bundle`` reads bundles.
"""

from typing import TYPE_CHECKING

from ese_deploy.errors import BundleError, CheckFailedError, EngineError, EseDeployError, InputError
from ese_deploy.system.lazy import lazy_names
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.bundle import Bundle, open_bundle
    from ese_deploy.runtime import Encoder
else:
    # numpy and tokenizers take longer to load than most commands take to refuse an argument.
    __getattr__ = lazy_names(
        __name__, {"ese_deploy.bundle": ["Bundle", "open_bundle"], "ese_deploy.runtime": ["Encoder"]}
    )

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
