"""TensorRT itself: plans with an optimization profile for each range of lengths, in the cache of this machine."""

from ese_deploy.engines.tensorrt.build import BuildSettings
from ese_deploy.engines.tensorrt.engine import TensorRt

__all__ = ["BuildSettings", "TensorRt"]
