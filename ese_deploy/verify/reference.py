"""The reference: a model of one depth that transformers loads from the checkpoint, independent of the exporter.

Nothing here uses ``backbones/exits``, ``backbones/pooling`` or ``export``, so that verification finds mistakes there.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit
from tokenizers import normalizers
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from ese_deploy.backbones import Checkpoint
from ese_deploy.backbones.dense import Dense
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection

__all__ = ["Reference"]

Vector = NDArray[np.float64]

_POOLINGS: dict[str, Callable[[Vector], Vector]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / np.sqrt(len(states)),
    "weightedmean": lambda states: np.average(states, axis=0, weights=np.arange(1, len(states) + 1)),
    "lasttoken": lambda states: states[-1],
}
_ACTIVATIONS: dict[str, Callable[[Vector], Vector]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "SiLU": lambda x: x * expit(x),
    "Sigmoid": expit,
}


class Reference:
    """A PyTorch model of ``depth`` layers in fp32 with eager attention. numpy computes pooling, head and projection.

    The default prompt of the checkpoint, if it has one, is put before every text.

    Args:
        checkpoint: the checkpoint to load from.
        depth: number of layers; 0 for an exit that only looks up token vectors.
        projection: the projection of this exit, if the bundle has one.

    Attributes:
        model: the model of transformers; None for depth 0.

    Raises:
        InputError: transformers did not build ``depth`` layers.
    """

    def __init__(self, checkpoint: Checkpoint, depth: int, projection: Projection | None = None) -> None:
        folder = checkpoint.backbone_path
        self._poolings = checkpoint.pooling.split("+")
        self._prompt = checkpoint.prompts.get(checkpoint.default_prompt_name or "", "")
        self._max_length = checkpoint.max_seq_length
        self._projection = projection
        self._final_norm = checkpoint.architecture.final_norm
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokenizer.padding_side = "right"
        if checkpoint.lower_case:
            backend = self._tokenizer.backend_tokenizer
            own = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        self.model: Any = None
        self._head = [(layer, _load(layer)) for layer in checkpoint.head]
        if depth == 0:
            if projection is None or not projection.is_lookup:
                raise InputError("Depth 0 needs a table of token vectors. Export with `projection=aligned`.")
            return
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        loader: Any = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
        with quiet_transformers():  # it would report the weights of the layers that are left out
            self.model = loader.from_pretrained(
                folder,
                config=_truncate(config, depth),
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=None if checkpoint.allow_pickle else True,
                local_files_only=True,
            ).eval()
        self._arguments = set(inspect.signature(self.model.forward).parameters)
        ids = torch.tensor([[1, 2]])
        with torch.no_grad():
            layers = len(self.model(input_ids=ids, output_hidden_states=True).hidden_states) - 1
        if layers != depth:
            raise InputError(
                f"transformers built {layers} layers instead of {depth}, so that there is no reference to verify with."
            )

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text with special tokens, without truncation."""
        return len(self._tokenizer(self._prompt + text, truncation=False, verbose=False)["input_ids"])

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text, with special tokens and truncated."""
        ids: list[int] = self._tokenizer(self._prompt + text, truncation=True, max_length=self._max_length)["input_ids"]
        return ids

    def pool(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts one by one, without padding.

        Returns:
            float32 [n, inputs], the inputs of the projection; without one [n, width], not normalized.
        """
        options = {"truncation": True, "max_length": self._max_length, "return_tensors": "pt"}
        rows = [self._tokenizer(self._prompt + text, **options) for text in texts]
        vectors: NDArray[np.float32] = np.stack([self._pool(row) for row in rows]).astype(np.float32)
        return vectors

    def pool_ids(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Embed token ids without a tokenizer; see :meth:`pool`."""
        features = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))} for row in rows]
        vectors: NDArray[np.float32] = np.stack([self._pool(row) for row in features]).astype(np.float32)
        return vectors

    def cut(self, pooled: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
        """Project [n, inputs], keep the first ``dim`` columns and scale rows to norm 1."""
        vectors = pooled.astype(np.float64)
        if self._projection is not None:
            vectors = vectors @ self._projection.matrix.astype(np.float64).T
        cut: NDArray[np.float32] = _unit(vectors[:, :dim]).astype(np.float32)
        return cut

    def _pool(self, features: Mapping[str, torch.Tensor]) -> Vector:
        ids = features["input_ids"][0].numpy()
        if self._projection is not None and self._projection.is_lookup:
            return self._table_vector(ids)
        known = {name: value for name, value in features.items() if name in self._arguments}
        with torch.no_grad():
            output = self.model(**known, output_hidden_states=True)
            if self._projection is not None and self._projection.states:
                hidden = [self._state(output, state) for state in self._projection.states]
                pooled = [_unit(self._pooled(state)[None])[0] for state in hidden]
                return np.concatenate([*pooled, *self._of_tokens(ids, hidden)])
        vector = self._pooled(output.last_hidden_state)
        for layer, tensors in self._head:
            vector = _dense(layer, tensors, vector)
        return vector

    def _of_tokens(self, ids: NDArray[np.int64], hidden: Sequence[torch.Tensor]) -> list[Vector]:
        """What the projection reads beside pooled states: their rarity-weighted means, and the table's vector."""
        tokens = self._projection.tokens if self._projection else None
        if tokens is None:
            return []
        found = []
        if tokens.rarity is not None:
            weights = tokens.rarity[ids].astype(np.float64)
            found = [_unit((weights @ states[0].double().numpy())[None])[0] for states in hidden]
        return [*found, self._table_vector(ids)] if tokens.table is not None else found

    def _table_vector(self, ids: NDArray[np.int64]) -> Vector:
        """The sum of the token vectors, scaled to norm 1."""
        tokens = self._projection.tokens if self._projection else None
        assert tokens is not None and tokens.table is not None
        total: Vector = tokens.table[ids].astype(np.float64).sum(0)
        unit: Vector = _unit(total[None])[0]
        return unit

    def _state(self, output: Any, state: int) -> torch.Tensor:
        """The token states after a layer, as a model that ends there gives them; state 0 is before the first layer."""
        if state == len(output.hidden_states) - 1:
            return cast(torch.Tensor, output.last_hidden_state)
        hidden: torch.Tensor = output.hidden_states[state]
        return self.model.get_submodule(self._final_norm)(hidden) if state and self._final_norm else hidden

    def _pooled(self, states: torch.Tensor) -> Vector:
        tokens = states[0].double().numpy()
        return np.concatenate([_POOLINGS[name](tokens) for name in self._poolings])


def _truncate(config: Any, depth: int) -> Any:
    """A copy of the config with ``depth`` layers; lists with one item per layer are truncated too."""
    full = config.num_hidden_layers
    truncated = copy.deepcopy(config)
    truncated.num_hidden_layers = depth
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == full and name != "architectures":
            setattr(truncated, name, value[:depth])
    return truncated


def _load(layer: Dense) -> dict[str, Vector]:
    from safetensors.numpy import load_file

    if layer.weights.suffix == ".safetensors":
        return {name: tensor.astype(np.float64) for name, tensor in load_file(layer.weights).items()}
    loaded = torch.load(layer.weights, map_location="cpu", weights_only=True)
    return {name: tensor.double().numpy() for name, tensor in loaded.items()}


def _dense(layer: Dense, tensors: dict[str, Vector], vector: Vector) -> Vector:
    x = _unit(vector[None])[0] if layer.normalized else vector
    linear = tensors["linear.weight"] @ x + tensors.get("linear.bias", 0)
    y: Vector = _ACTIVATIONS[layer.activation](linear)
    if layer.residual:
        y = y + (tensors["residual.weight"] @ x if "residual.weight" in tensors else x)
    return y


def _unit(vectors: Vector) -> Vector:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A text of special tokens alone has rarity-weighted means of 0.
    rows: Vector = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return rows
