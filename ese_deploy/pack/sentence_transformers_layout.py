"""The target as a model of sentence-transformers: the first layers in PyTorch, and a Dense module that cuts."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from ese_deploy.backbones import Checkpoint, read_checkpoint
from ese_deploy.backbones.architectures import backbone_class
from ese_deploy.backbones.modules import LEGACY_POOLINGS
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.errors import InputError
from ese_deploy.pack.job import Layout, PackJob, Vectors, write_json, write_settings
from ese_deploy.projections.projection import Projection

__all__ = ["SENTENCE_TRANSFORMERS"]

_TYPES = "sentence_transformers.models."


def _check(job: PackJob) -> None:
    entry = job.entry
    if entry.dtype != "fp32":
        raise InputError(
            f"sentence-transformers runs the PyTorch model, which is fp32. Choose {entry.depth}x{entry.dim}."
        )
    projection = _projection(job)
    if projection is not None and (projection.states or projection.is_lookup):
        raise InputError(
            f"The projection of depth {entry.depth} reads the states of several layers, and sentence-transformers has "
            f"no module for that. Choose depth {job.bundle.manifest.depth}, or the layout onnx."
        )
    _checkpoint(job)


def _projection(job: PackJob) -> Projection | None:
    return (bundle_projections(job.bundle) or {}).get(job.entry.depth)


def _checkpoint(job: PackJob) -> Checkpoint:
    """The checkpoint that the bundle was made of.

    Raises:
        InputError: it is not there, was changed, or ends in Dense modules.
    """
    source = job.bundle.manifest.source
    hub = source.revision if source.revision and not source.model.startswith("package:") else None
    checkpoint = read_checkpoint(source.model, pooling=job.bundle.manifest.pooling, revision=hub)
    if checkpoint.weights_sha256() != source.weights_sha256:
        raise InputError(f"{source.model} has other weights than the bundle. Export the bundle again.")
    if checkpoint.head:
        raise InputError(f"{source.model} ends in Dense modules, which this layout does not support. Choose onnx.")
    return checkpoint


def _write(job: PackJob, folder: Path) -> None:
    from safetensors.numpy import save_file

    manifest, entry = job.bundle.manifest, job.entry
    checkpoint = _checkpoint(job)
    write_settings(job, folder)
    _truncated(checkpoint, entry.depth).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    projection = _projection(job)
    if projection is not None or entry.dim < manifest.width:
        matrix = np.eye(manifest.width, dtype=np.float32) if projection is None else projection.matrix
        modules.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir()
        cut = np.ascontiguousarray(matrix[: entry.dim])
        save_file({"linear.weight": cut}, folder / "2_Dense/model.safetensors", {"format": "pt"})
        identity = "torch.nn.modules.linear.Identity"
        shape = {"in_features": manifest.width, "out_features": entry.dim}
        write_json(folder / "2_Dense/config.json", {**shape, "bias": False, "activation_function": identity})
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    (folder / modules[-1][0]).mkdir()
    poolings = manifest.pooling.split("+")
    flags = {flag: mode in poolings for flag, mode in LEGACY_POOLINGS.items()}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": manifest.hidden_size, **flags})
    limit = {"max_seq_length": manifest.max_seq_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limit)
    prompts = {"prompts": manifest.prompts, "default_prompt_name": manifest.default_prompt_name}
    write_json(folder / "config_sentence_transformers.json", prompts)
    listed = [{"idx": i, "name": str(i), "path": path, "type": _TYPES + kind} for i, (path, kind) in enumerate(modules)]
    write_json(folder / "modules.json", listed)


def _truncated(checkpoint: Checkpoint, depth: int) -> Any:
    """The first layers as a model of transformers."""
    config = copy.deepcopy(checkpoint.config)
    full = config.num_hidden_layers
    config.num_hidden_layers = depth
    for name, value in vars(checkpoint.config).items():
        if isinstance(value, list) and len(value) == full and name != "architectures":
            setattr(config, name, value[:depth])
    with quiet_transformers():  # it would report the layers that are left out
        return backbone_class(config).from_pretrained(
            checkpoint.backbone_path, config=config, use_safetensors=True, local_files_only=True
        )


def _embed(job: PackJob, folder: Path) -> dict[str, Vectors]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return {job.entry.name: np.asarray(model.encode(job.golden.texts, batch_size=1), np.float32)}


SENTENCE_TRANSFORMERS = Layout(
    "sentence-transformers", "The first layers in PyTorch, for sentence-transformers.", _check, _write, _embed
)
