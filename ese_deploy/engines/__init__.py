"""Inference engines: the table of engines, the protocol that each follows, and one file for each engine."""

from ese_deploy.engines.base import Engine, EngineInput, Session, Streaming
from ese_deploy.engines.registry import (
    AUTO_ENGINE,
    DEFAULT_ENGINE,
    ENGINES,
    GPU_ENGINES,
    OPT_IN_ENGINES,
    REGISTRY,
    SHARING_ENGINE,
    Batch,
    EngineRow,
    batch_for,
    engines_for,
    find_engine,
    load_engine,
    require_dtype,
    runs_dtype,
)

__all__ = [
    "AUTO_ENGINE",
    "DEFAULT_ENGINE",
    "ENGINES",
    "GPU_ENGINES",
    "OPT_IN_ENGINES",
    "REGISTRY",
    "SHARING_ENGINE",
    "Batch",
    "Engine",
    "EngineInput",
    "EngineRow",
    "Session",
    "Streaming",
    "batch_for",
    "engines_for",
    "find_engine",
    "load_engine",
    "require_dtype",
    "runs_dtype",
]
