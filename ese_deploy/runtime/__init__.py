"""Running a bundle: numpy, tokenizers, msgspec and one inference engine; no torch, no transformers."""

from ese_deploy.runtime.encoder import Encoder

__all__ = ["Encoder"]
