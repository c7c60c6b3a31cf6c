"""What is measured: ours on each engine, and PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu.cases import Case, Shape
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.engines import Engine
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.target import Target

__all__ = ["ENGINES", "Runner", "ours", "pytorch"]

ENGINES = ("onnxruntime-cuda", "tensorrt", "onnxruntime-tensorrt", "pytorch-eager", "pytorch-compiled")

Batch = Mapping[str, NDArray[np.int64]]


class Runner(Protocol):
    """Makes of a case a function that computes it once, and returns when it is done."""

    def __call__(self, case: Case) -> Callable[[], object]:
        """Prepare a case; tokens are on the GPU afterwards, and vectors stay there."""
        ...


class _Prepares(Protocol):
    @property
    def inputs(self) -> list[str]: ...
    def prepare(self, inputs: Batch) -> Callable[[], None]: ...


def ours(engine: Engine, bundle: Bundle, target: Target, threads: int = 4) -> Runner:
    """A target of a bundle."""
    session: Any = engine.load(engine_input(bundle, choose_entry(bundle, target)), threads)
    prepares: _Prepares = session

    def prepare(case: Case) -> Callable[[], object]:
        batch = _batch(case)
        return prepares.prepare({name: batch[name] for name in prepares.inputs})

    return prepare


def pytorch(folder: str, shape: Shape, depth: int, dtype: torch.dtype, compiled: bool, device: str) -> Runner:
    """The same model in transformers with SDPA, mean pooling and normalisation included.

    Rows without padding need no mask, and PyTorch is spared it: that is when it is fastest.
    """
    from transformers import AutoModel

    with quiet_transformers():  # it would report the weights of the blocks left out
        model = AutoModel.from_pretrained(
            folder, num_hidden_layers=depth, dtype=dtype, attn_implementation="sdpa", add_pooling_layer=False
        )
    module = _Pooled(model).eval().to(device)
    if compiled:
        torch._dynamo.config.recompile_limit = 64
        module = torch.compile(module, dynamic=False)  # type: ignore[assignment]

    def prepare(case: Case) -> Callable[[], object]:
        ids = torch.from_numpy(_batch(case)["input_ids"]).to(device)

        def run() -> None:
            with torch.inference_mode():
                module(ids)
                if device == "cuda":
                    torch.cuda.synchronize()

        return run

    return prepare


class _Pooled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        states = self.model(input_ids=ids).last_hidden_state
        return nn.functional.normalize(states.mean(1).float(), dim=-1)


def _batch(case: Case) -> dict[str, NDArray[np.int64]]:
    shape = (case.batch, case.length)
    ids = np.random.default_rng(0).integers(5, 600, shape)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64), "token_type_ids": np.zeros(shape, np.int64)}
