"""Inputs of engines for graphs that are in no bundle."""

from pathlib import Path

from ese_deploy.engines import EngineInput
from ese_deploy.system.files import sha256_file

__all__ = ["input_of"]


def input_of(graph: bytes, folder: Path, dtype: str = "fp32", max_length: int = 48) -> EngineInput:
    """A graph whose weights of a dtype lie in a folder."""
    weights = folder / f"weights.{dtype}.data"
    digest = sha256_file(weights) if weights.is_file() else ""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return EngineInput(graph, folder / "graph.onnx", weights, digest, max_length, dtype, names)
