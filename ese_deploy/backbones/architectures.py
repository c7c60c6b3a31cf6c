"""The table of architectures, and the structure of backbones that are not in it."""

import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ese_deploy.errors import InputError

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "backbone_class",
    "find_architecture",
    "find_layers",
    "position_limit",
    "uses_token_types",
]


@dataclass(frozen=True)
class Architecture:
    """What export and training need to know about a backbone of transformers.

    The table states what the structure of a model does not show. :func:`find_architecture` reads the rest from the
    structure, so most model types that are not in the table work too.

    Attributes:
        model_type: as in the checkpoint's ``config.json``.
        mask: ``bidirectional`` or ``causal`` if the backbone takes a mask of four dimensions, which traces to fewer
            nodes; ``plain`` if transformers builds its own from the mask of two dimensions.
        window_inclusive: in a sliding window of w, a token attends to the one w positions before it.
        masks_by_layer: the backbone takes a dict of masks by layer type.
        padding_positions: positions are counted from ``pad_token_id + 1``, as in RoBERTa, so that inputs are that many
            tokens shorter than the position table.
        shared_layers: all layers share one set of weights, as in ALBERT.
        final_norm: path of the norm after the last layer of a pre-norm model. transformers applies it to the last
            hidden state only, so the other exits apply it themselves.
        rotary: the backbone has rotary position embeddings. It is given positions of the shape [batch, sequence]: with
            its own, of the shape [1, sequence], engines fail for batches larger than 1.
    """

    model_type: str
    mask: str = "plain"
    window_inclusive: bool = False
    masks_by_layer: bool = False
    padding_positions: bool = False
    shared_layers: bool = False
    final_norm: str | None = None
    rotary: bool = False


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("albert", mask="bidirectional", shared_layers=True),
        Architecture("bert", mask="bidirectional"),
        Architecture("camembert", mask="bidirectional", padding_positions=True),
        Architecture("deberta-v2"),
        Architecture("distilbert", mask="bidirectional"),
        Architecture("electra", mask="bidirectional"),
        Architecture("eurobert", mask="bidirectional"),
        Architecture("gemma3_text", mask="causal", masks_by_layer=True),
        Architecture("gte", mask="bidirectional"),
        Architecture("jina_embeddings_v3", mask="bidirectional"),
        Architecture("llama", mask="causal"),
        Architecture("modernbert", mask="bidirectional", window_inclusive=True, masks_by_layer=True),
        Architecture("mpnet", padding_positions=True),
        Architecture("nomic_bert", mask="bidirectional"),
        Architecture("qwen2", mask="causal", masks_by_layer=True),
        Architecture("qwen3", mask="causal", masks_by_layer=True),
        Architecture("roberta", mask="bidirectional", padding_positions=True),
        Architecture("t5"),
        Architecture("xlm-roberta", mask="bidirectional", padding_positions=True),
    )
}

# Names of the final norm in the pre-norm models of transformers; others are found by their place.
_FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "final_layernorm", "ln_f", "ln")
# Their norm beside the layers is that of the relative positions.
_OTHER_NORMS = ("deberta", "deberta-v2")
# The config of these encoders no longer shows that the model had a decoder.
_ENCODER_ONLY = ("t5", "mt5", "umt5")
_MASKED_LAYERS = {"full_attention", "sliding_attention"}


def find_architecture(config: Any) -> Architecture:
    """Describe the backbone of a config.

    Args:
        config: the configuration of transformers.

    Raises:
        InputError: the backbone has no exits that can be exported.
    """
    model_type = str(config.model_type)
    known = ARCHITECTURES.get(model_type, Architecture(model_type))
    stated = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if getattr(config, "sub_configs", None) or None in stated:
        raise _refusal(model_type, "it consists of several models. Save the text backbone alone")
    if known.shared_layers and (config.num_hidden_groups > 1 or config.inner_group_num > 1):
        raise _refusal(model_type, "its layers form several groups, and a truncated model would group them differently")
    if getattr(config, "is_decoder", False):
        # transformers builds the causal mask that this setting asks for.
        known = replace(known, mask="plain")
    if getattr(config, "is_causal", None) is (known.mask != "causal") and known.mask != "plain":
        # The config turns the direction of the architecture around, which transformers follows.
        known = replace(known, mask="plain")
    if getattr(config, "use_bidirectional_attention", False):
        known = replace(known, mask="bidirectional" if known.mask == "causal" else known.mask)
    if not set(getattr(config, "layer_types", None) or ()) <= _MASKED_LAYERS:
        known = replace(known, mask="plain")
    skeleton = _skeleton(config)
    layers = 1 if known.shared_layers else int(config.num_hidden_layers)
    return replace(known, final_norm=_final_norm(skeleton, model_type, layers), rotary=_is_rotary(skeleton))


def backbone_class(config: Any) -> Any:
    """The model class of transformers without a head; of an encoder-decoder, the encoder.

    Raises:
        InputError: transformers has no such class.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    decoder = bool(getattr(config, "is_encoder_decoder", False)) or config.model_type in _ENCODER_ONLY
    found = (MODEL_FOR_TEXT_ENCODING_MAPPING if decoder else MODEL_MAPPING).get(type(config), None)
    if found is None:
        reason = "transformers has no class for its encoder alone" if decoder else "transformers has no class for it"
        raise _refusal(config.model_type, reason)
    return found[0] if isinstance(found, tuple) else found


def find_layers(backbone: nn.Module, model_type: str, count: int) -> str:
    """Find the path of the list of layers in a backbone.

    Args:
        backbone: a model of transformers without a head, with or without weights.
        model_type: as in its config, for the error message.
        count: number of layers; 1 if all share their weights.

    Raises:
        InputError: there is no such list.
    """
    for path, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return str(path)
    raise _refusal(model_type, f"it has no list of {count} layers, so it has no exits")


def position_limit(architecture: Architecture, config: Any) -> int | None:
    """Longest input in tokens that the positions allow; None if they are relative and set no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    return int(limit) - int(config.pad_token_id) - 1 if architecture.padding_positions else int(limit)


def uses_token_types(config: Any) -> bool:
    """Whether the backbone has token types, which tell the two texts of a pair apart."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def _skeleton(config: Any) -> nn.Module:
    """Build the backbone without weights."""
    import torch

    built = backbone_class(config)
    try:
        with torch.device("meta"):
            # A copy, because the class of T5 changes its config.
            skeleton: nn.Module = built(copy.deepcopy(config))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise _refusal(config.model_type, f"transformers cannot build it from its config: {reason}") from error
    return skeleton


def _final_norm(skeleton: nn.Module, model_type: str, layers: int) -> str | None:
    """Path of the norm beside the list of layers, None for a post-norm model."""
    parent, _, own = find_layers(skeleton, model_type, layers).rpartition(".")
    children = dict(skeleton.get_submodule(parent).named_children())
    # Modules are listed in the order of their use: a norm before the layers is that of the embeddings.
    after = list(children)[list(children).index(own) + 1 :]
    norms = [name for name in after if "Norm" in type(children[name]).__name__ and model_type not in _OTHER_NORMS]
    named = [name for name in _FINAL_NORMS if name in children]
    if len(norms) > 1 and not named:
        raise _refusal(model_type, f"several norms follow its layers ({', '.join(norms)})")
    name = next(iter([*named, *norms]), None)
    return name and f"{parent}.{name}".lstrip(".")


def _is_rotary(skeleton: nn.Module) -> bool:
    return any("Rotary" in type(module).__name__ for module in skeleton.modules())


def _refusal(model_type: str, reason: str) -> InputError:
    listed = ", ".join(ARCHITECTURES)
    return InputError(f"Cannot export architecture '{model_type}': {reason}. Tested architectures: {listed}.")
