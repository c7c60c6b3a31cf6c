"""Making the graphs, the weights and the tokenizer of a bundle draft."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from ese_deploy import __version__
from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.golden import GOLDEN_FILE
from ese_deploy.bundle.manifest import SCHEMA_VERSION, Manifest, Source, TargetEntry, Tokenizer, WeightsEntry
from ese_deploy.bundle.reader import Bundle, bundle_file, check_hash, read_graph, read_tokenizer, weights_of
from ese_deploy.bundle.writer import BundleDraft, describe_file
from ese_deploy.engines import engines_for
from ese_deploy.export.configs import add_configs
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.extract import OUTPUT, extract
from ese_deploy.export.projection import BundleProjections, fitted_space
from ese_deploy.export.request import MINIMUM_ONNXRUNTIME
from ese_deploy.export.trace import input_names
from ese_deploy.export.weights import WeightsFile, external_tensors
from ese_deploy.projections.projection import PROJECTIONS_FILE, encode_projections
from ese_deploy.projections.tokens import TOKENS_FILE, encode_tokens
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["make_graphs"]

_TOKENIZER_FILE = "tokenizer.json"
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "tokenizers")


def make_graphs(
    folder: Path,
    checkpoint: Checkpoint,
    traced: ir.Model,
    targets: Sequence[Target],
    *,
    existing: Bundle | None = None,
    projections: BundleProjections | None = None,
    settings: QuantizationSettings | None = None,
    progress: Progress = silent,
) -> BundleDraft:
    """Write all that an engine needs to run the targets, and describe it.

    Args:
        folder: an empty folder.
        checkpoint: the checkpoint that was traced.
        traced: the graph with every exit of the targets.
        targets: the targets to make, sorted.
        existing: a bundle whose targets are copied byte by byte.
        projections: the projections in the traced graph; None for plain prefixes.
        settings: how products are quantized, if a target needs it.
        progress: called after each target.

    Returns:
        A draft in which the new targets have no parity, quality or golden vectors yet.
    """
    weights: list[WeightsEntry] = []
    made: list[TargetEntry] = []
    kept = list(existing.manifest.targets) if existing else []
    progress("extract", 0, len(targets))
    for dtype in sorted({target.dtype for target in targets} | {entry.dtype for entry in kept}):
        wanted = [target for target in targets if target.dtype == dtype]
        with WeightsFile(folder / f"weights.{dtype}.data", dtype) as file:
            if existing is not None:
                _copy_targets(existing, dtype, folder, file)
            model = convert(traced, dtype, settings) if wanted else traced
            for target in wanted:
                made.append(_write_target(folder, checkpoint, model, target, file, projections))
                progress("extract", len(made), len(targets))
            weights.append(file.entry())
    entries = sorted([*kept, *made], key=lambda entry: (entry.dtype, entry.depth, entry.dim))
    if existing is None:
        tokenizer = checkpoint.tokenizer.to_json(checkpoint.max_seq_length)
        manifest = _new_manifest(checkpoint, tokenizer, traced.opset_imports[""], weights, entries)
    else:
        tokenizer = read_tokenizer(existing)
        manifest = msgspec.structs.replace(existing.manifest, weights=weights, targets=entries)
    (folder / _TOKENIZER_FILE).write_bytes(tokenizer)
    draft = add_configs(BundleDraft(folder, manifest), checkpoint)
    if projections is not None:
        draft = draft.add_file("projection_file", PROJECTIONS_FILE, encode_projections(projections.by_exit)).replace(
            projection=projections.kind, calibration=projections.calibration
        )
        if projections.tokens is not None:
            draft = draft.add_file("tokens", TOKENS_FILE, encode_tokens(projections.tokens))
    draft = draft.replace(
        full_depth_space=_space(checkpoint, checkpoint.depth, projections),
        source_space=_space(checkpoint, checkpoint.depth, None),
    )
    return draft if settings is None else draft.replace(quantization=settings.entry)


def _copy_targets(existing: Bundle, dtype: str, folder: Path, file: WeightsFile) -> None:
    """Copy the graphs of one dtype of an existing bundle, and begin the weights file with its weights.

    Raises:
        BundleError: the weights have another hash than in the manifest.
    """
    entries = [entry for entry in existing.manifest.targets if entry.dtype == dtype]
    tensors: set[tuple[int, int]] = set()
    for entry in entries:
        graph = read_graph(existing, entry)
        (folder / entry.file).write_bytes(graph)
        tensors.update(external_tensors(graph, str(existing.path / entry.file)))
    if entries:
        weights = weights_of(existing, dtype)
        file.extend(bundle_file(existing, weights), sorted(tensors))
        check_hash(existing.path / weights.file, file.entry().sha256, weights.sha256)


def _write_target(
    folder: Path,
    checkpoint: Checkpoint,
    model: ir.Model,
    target: Target,
    weights: WeightsFile,
    projections: BundleProjections | None,
) -> TargetEntry:
    graph = extract(model, target, weights, __version__)
    described = describe_file(f"{target.name}.onnx", graph.onnx)
    (folder / described.file).write_bytes(graph.onnx)
    return TargetEntry(
        file=described.file,
        bytes=described.bytes,
        sha256=described.sha256,
        name=target.name,
        depth=target.depth,
        dim=target.dim,
        dtype=target.dtype,
        space=_space(checkpoint, target.depth, projections),
        trained=target.depth in checkpoint.trained_exits,
        weight_bytes=graph.weight_bytes,
        engines=engines_for(target.dtype),
    )


def _space(checkpoint: Checkpoint, depth: int, projections: BundleProjections | None) -> str:
    if projections is not None and projections.in_source:
        return _space(checkpoint, checkpoint.depth, None)
    if projections is None and checkpoint.projections:
        return f"exit{depth:02d}"  # without the projections that training made, the exits share no space
    if projections is None or projections.calibration is None:
        return checkpoint.space(depth)
    return fitted_space(depth, projections.kind, projections.calibration)


def _new_manifest(
    checkpoint: Checkpoint, tokenizer: bytes, opset: int, weights: list[WeightsEntry], entries: list[TargetEntry]
) -> Manifest:
    described = describe_file(_TOKENIZER_FILE, tokenizer)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        source=Source(
            model=checkpoint.location.model,
            revision=checkpoint.location.revision,
            weights_sha256=checkpoint.weights_sha256(),
        ),
        architecture=checkpoint.architecture.model_type,
        depth=checkpoint.depth,
        hidden_size=checkpoint.hidden_size,
        width=checkpoint.width,
        pooling=checkpoint.pooling,
        projection="prefix",
        prompts=checkpoint.prompts,
        default_prompt_name=checkpoint.default_prompt_name,
        max_seq_length=checkpoint.max_seq_length,
        trained_exits=checkpoint.trained_exits,
        inputs=input_names(checkpoint),
        output=OUTPUT,
        opset=opset,
        minimum_onnxruntime=MINIMUM_ONNXRUNTIME[opset],
        tool_versions={"ese-deploy": __version__, **{name: importlib.metadata.version(name) for name in _TOOLS}},
        tokenizer=Tokenizer(
            file=described.file,
            bytes=described.bytes,
            sha256=described.sha256,
            pad_id=checkpoint.tokenizer.pad_id,
            pad_type_id=checkpoint.tokenizer.pad_type_id,
        ),
        golden=describe_file(GOLDEN_FILE, b""),  # until the golden vectors are known
        weights=weights,
        targets=entries,
    )
