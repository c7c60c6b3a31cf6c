"""TensorRT, native: plans with profiles by length, kept in this machine's cache."""

from ese_deploy.engines.tensorrt.build import BuildSettings
from ese_deploy.engines.tensorrt.engine import TensorRt

__all__ = ["BuildSettings", "TensorRt"]
