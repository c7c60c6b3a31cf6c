"""Running a bundle. Needs numpy, tokenizers, msgspec and an inference engine, but neither torch nor transformers."""

from ese_deploy.runtime.encoder import Encoder

__all__ = ["Encoder"]
