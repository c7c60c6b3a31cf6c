"""Dense modules of sentence-transformers, which come after the pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from ese_deploy.backbones.classes import ACTIVATIONS, activation_name
from ese_deploy.backbones.files import require_integer
from ese_deploy.backbones.source import find_weight_files
from ese_deploy.errors import InputError

__all__ = ["ACTIVATIONS", "Dense", "load_head", "read_dense", "without_projection"]

_VECTOR = "sentence_embedding"
_KEYS = {
    *("in_features", "out_features", "bias", "activation_function", "use_residual"),
    *("module_input_name", "module_output_name"),
}
_LINEAR = ("Identity", False, False)  # activation, bias, residual


@dataclass(frozen=True)
class Dense:
    """A module y = activation(W x + b), plus x or R x if it is residual.

    Attributes:
        weights: the file with ``linear.weight`` and the rest.
        in_features: dimensions of x.
        out_features: dimensions of y.
        activation: a name of :data:`ACTIVATIONS`.
        bias: whether there is a b.
        residual: whether x, or R x if the widths differ, is added.
        normalized: whether x is scaled to norm 1 first.
    """

    weights: Path
    in_features: int
    out_features: int
    activation: str
    bias: bool
    residual: bool
    normalized: bool


def read_dense(folder: Path, config: dict[str, Any], normalized: bool, allow_pickle: bool) -> Dense:
    """Read the settings of a Dense module.

    Args:
        folder: the module's folder.
        config: its ``config.json``.
        normalized: whether a Normalize module comes before it.
        allow_pickle: accept weights in a pickle file.

    Raises:
        InputError: it has no weights, or its activation, input or output is not supported.
    """
    # The default of sentence-transformers is Tanh.
    path = folder / "config.json"
    activation = activation_name(config.get("activation_function", "torch.nn.Tanh"), path)
    unknown = sorted(set(config) - _KEYS)
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]} is not known, and may change what is computed. Remove it if it does not."
        )
    reads, writes = config.get("module_input_name") or _VECTOR, config.get("module_output_name")
    if reads != _VECTOR or (writes or reads) != _VECTOR:
        raise InputError(f"{folder} reads '{reads}' and writes '{writes}'. Supported: '{_VECTOR}'.")
    (weights,) = find_weight_files(folder, allow_pickle)
    return Dense(
        weights=weights,
        in_features=require_integer(config, "in_features", path),
        out_features=require_integer(config, "out_features", path),
        activation=activation,
        bias=bool(config.get("bias", True)),
        residual=bool(config.get("use_residual", False)),
        normalized=normalized,
    )


def load_head(layers: Sequence[Dense]) -> nn.Module:
    """Load Dense modules as one module from [batch, pooled] to [batch, width], in evaluation mode.

    Raises:
        InputError: the weights cannot be read or do not fit.
    """
    return nn.Sequential(*(_load(layer) for layer in layers)).eval().requires_grad_(False)


def without_projection(head: tuple[Dense, ...], folder: Path, matrix: NDArray[np.float32] | None) -> tuple[Dense, ...]:
    """Take off the last module of a head, which is the full depth's projection.

    Args:
        head: the Dense modules after the pooling.
        folder: the module's folder, which ``ese.json`` names.
        matrix: the projection in ``projection.safetensors``; None if there is none.

    Raises:
        InputError: the module is missing or is not that projection.
    """
    last = head[-1] if head and head[-1].weights.parent == folder else None
    if last is not None and matrix is not None and (last.activation, last.bias, last.residual) == _LINEAR:
        weight = _load(last).linear.weight.detach().numpy()
        if weight.shape == matrix.shape and (weight == matrix).all():
            return head[:-1]
    raise InputError(
        f"{folder} is not the full depth's projection in projection.safetensors, as ese.json says. Copy or train the "
        "checkpoint again. To use the model without trained projections, delete ese.json and projection.safetensors."
    )


class _Dense(nn.Module):
    def __init__(self, layer: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
        self.activation = ACTIVATIONS[layer.activation]()
        self.normalized = layer.normalized
        self.is_residual = layer.residual
        if layer.residual and layer.in_features != layer.out_features:
            self.residual = nn.Linear(layer.in_features, layer.out_features, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        x = normalize(vectors, dim=-1) if self.normalized else vectors
        y: Tensor = self.activation(self.linear(x))
        if not self.is_residual:
            return y
        return y + (self.residual(x) if hasattr(self, "residual") else x)


def _load(layer: Dense) -> _Dense:
    import torch
    from safetensors.torch import load_file

    module = _Dense(layer)
    try:
        if layer.weights.suffix == ".safetensors":
            tensors = load_file(layer.weights)
        else:
            tensors = torch.load(layer.weights, map_location="cpu", weights_only=True)
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"Cannot load the weights in {layer.weights}: {reason}") from error
    if not all(tensor.isfinite().all() for tensor in module.state_dict().values()):
        raise InputError(f"The weights in {layer.weights} have a value that is NaN or infinite. Copy them again.")
    return module
