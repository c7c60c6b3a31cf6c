"""Pooling equals sentence-transformers' own, under padding on either side, in torch and in ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from ese_deploy.backbones import POOLINGS, pool
from ese_deploy.errors import InputError

MODES = (*POOLINGS, "cls+max+mean", "lasttoken+weightedmean")


def _states(side: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    lengths = torch.tensor([1, 4, 6])[:, None]
    mask = (torch.arange(6)[None] < lengths).long()
    return torch.randn(3, 6, 8) - 2, mask if side == "right" else mask.flip(1)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_sentence_transformers(mode: str, side: str) -> None:
    states, mask = _states(side)
    theirs = Pooling(8, pooling_mode=tuple(mode.split("+")))
    expected = theirs({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(pool(states, mask, mode), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("opset", [18, 23])
def test_exports_with_symbolic_axes(opset: int, tmp_path: Path) -> None:
    class AllPoolings(nn.Module):
        def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            return tuple(pool(states, mask, mode) for mode in MODES)

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(
        AllPoolings().eval(),
        (torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.int64)),
        dynamo=True,
        opset_version=opset,
        input_names=["states", "mask"],
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    assert program is not None
    # ONNX Runtime's CUDA provider has no kernel for it, and the engine refuses graphs that compute on the CPU.
    assert "ArgMax" not in {node.op_type for node in program.model_proto.graph.node}
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for side in ("right", "left"):
        states, mask = _states(side)
        found = session.run(None, {"states": states.numpy(), "mask": mask.numpy()})
        for mode, vectors in zip(MODES, found, strict=True):
            np.testing.assert_allclose(vectors, pool(states, mask, mode).numpy(), atol=1e-6, err_msg=mode)


def test_an_unknown_mode_is_refused() -> None:
    states, mask = _states("right")
    with pytest.raises(InputError, match="Unknown pooling 'median'"):
        pool(states, mask, "mean+median")
