"""Running a bundle. Needs numpy, tokenizers, msgspec and an inference engine, but neither torch nor transformers."""

from ese_deploy.runtime.encoder import Encoder
from ese_deploy.runtime.options import EncodeOptions, Usage

__all__ = ["EncodeOptions", "Encoder", "Usage"]
