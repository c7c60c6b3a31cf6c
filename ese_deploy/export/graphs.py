"""Writing graphs, weights, tokenizer and a first manifest into a folder."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from ese_deploy import __version__
from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.golden import GOLDEN_FILE, GOLDEN_TEXTS, Golden, encode_golden
from ese_deploy.bundle.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    Source,
    TargetEntry,
    Tokenizer,
    WeightsEntry,
    encode_manifest,
)
from ese_deploy.bundle.ranges import RANGES_FILE
from ese_deploy.bundle.reader import (
    MANIFEST_FILE,
    Bundle,
    check_hash,
    read_golden,
    read_graph,
    read_ranges_file,
    read_tokenizer,
    weights_of,
)
from ese_deploy.engines import engines_for
from ese_deploy.export.convert import Recipe, convert
from ese_deploy.export.extract import OUTPUT, extract
from ese_deploy.export.projection import Fitted, fitted_space
from ese_deploy.export.trace import MINIMUM_ONNXRUNTIME, input_names
from ese_deploy.export.weights import WeightsFile, external_tensors
from ese_deploy.projections.projection import PROJECTIONS_FILE, encode_projections
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["describe_file", "write_graphs"]

_TOKENIZER_FILE = "tokenizer.json"
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "tokenizers")


def write_graphs(
    folder: Path,
    checkpoint: Checkpoint,
    traced: ir.Model,
    targets: Sequence[Target],
    existing: Bundle | None = None,
    fitted: Fitted | None = None,
    recipe: Recipe | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Make a folder that opens as a bundle, whose new targets have no parity, quality or golden vectors yet.

    Args:
        folder: an empty folder.
        checkpoint: where the graphs come from.
        traced: the graph with every exit of the targets.
        targets: the targets to carve, sorted.
        existing: a bundle whose targets are taken over byte by byte.
        fitted: the projections that the traced graph holds, None for plain prefixes.
        recipe: how int8 is made, where a target wants it.
        progress: called after each target.
    """
    kept = list(existing.manifest.targets) if existing else []
    weights: list[WeightsEntry] = []
    made: list[TargetEntry] = []
    progress("extract", 0, len(targets))
    for dtype in sorted({target.dtype for target in targets} | {entry.dtype for entry in kept}):
        wanted = [target for target in targets if target.dtype == dtype]
        with WeightsFile(folder / f"weights.{dtype}.data", dtype) as file:
            if existing is not None:
                _take_over(existing, dtype, folder, file)
            model = convert(traced, dtype, recipe) if wanted else traced
            for target in wanted:
                made.append(_write_target(folder, checkpoint, model, target, file, fitted))
                progress("extract", len(made), len(targets))
            weights.append(file.entry())
    entries = sorted([*kept, *made], key=lambda entry: (entry.dtype, entry.depth, entry.dim))
    if existing is None:
        manifest = _new_manifest(folder, checkpoint, traced.opset_imports[""], weights, entries)
    else:
        (folder / _TOKENIZER_FILE).write_bytes(read_tokenizer(existing))
        (folder / GOLDEN_FILE).write_bytes(read_golden(existing))
        if (ranges := read_ranges_file(existing)) is not None:
            (folder / RANGES_FILE).write_bytes(ranges)
        manifest = msgspec.structs.replace(existing.manifest, weights=weights, targets=entries, profiles=None)
    if fitted is not None:
        (folder / PROJECTIONS_FILE).write_bytes(encode_projections(fitted.projections))
        manifest = msgspec.structs.replace(
            manifest,
            projection=fitted.kind,
            calibration=fitted.calibration,
            projection_file=describe_file(folder / PROJECTIONS_FILE),
        )
    if recipe is not None:
        manifest = msgspec.structs.replace(manifest, quantization=recipe.entry)
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def describe_file(path: Path) -> FileEntry:
    """Name, size and hash of a small file."""
    data = path.read_bytes()
    return FileEntry(file=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _take_over(existing: Bundle, dtype: str, folder: Path, file: WeightsFile) -> None:
    """Copy an existing bundle's graphs of one dtype, and begin the weights file with its weights.

    Raises:
        BundleError: the weights are not those that were exported.
    """
    entries = [entry for entry in existing.manifest.targets if entry.dtype == dtype]
    tensors: set[tuple[int, int]] = set()
    for entry in entries:
        graph = read_graph(existing, entry)
        (folder / entry.file).write_bytes(graph)
        tensors.update(external_tensors(graph, str(existing.path / entry.file)))
    if entries:
        held = weights_of(existing, dtype)
        file.extend(existing.path / held.file, sorted(tensors))
        check_hash(existing.path / held.file, file.entry().sha256, held.sha256)


def _write_target(
    folder: Path,
    checkpoint: Checkpoint,
    model: ir.Model,
    target: Target,
    weights: WeightsFile,
    fitted: Fitted | None,
) -> TargetEntry:
    graph = extract(model, target, weights, __version__)
    path = folder / f"{target.name}.onnx"
    path.write_bytes(graph.onnx)
    described = describe_file(path)
    return TargetEntry(
        file=described.file,
        bytes=described.bytes,
        sha256=described.sha256,
        name=target.name,
        depth=target.depth,
        dim=target.dim,
        dtype=target.dtype,
        space=_space(checkpoint, target.depth, fitted),
        trained=target.depth in checkpoint.trained_exits,
        weight_bytes=graph.weight_bytes,
        engines=engines_for(target.dtype),
    )


def _space(checkpoint: Checkpoint, depth: int, fitted: Fitted | None) -> str:
    if fitted is None and checkpoint.projections:
        return f"exit{depth:02d}"  # the maps that would have brought the exits together are left out
    if fitted is None or fitted.calibration is None:
        return checkpoint.space(depth)
    return fitted_space(depth, fitted.kind, fitted.calibration)


def _new_manifest(
    folder: Path, checkpoint: Checkpoint, opset: int, weights: list[WeightsEntry], entries: list[TargetEntry]
) -> Manifest:
    (folder / _TOKENIZER_FILE).write_bytes(checkpoint.tokenizer.to_json(checkpoint.max_seq_length))
    (folder / GOLDEN_FILE).write_bytes(encode_golden(Golden(list(GOLDEN_TEXTS), [], {})))
    tokenizer = describe_file(folder / _TOKENIZER_FILE)
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
            file=tokenizer.file,
            bytes=tokenizer.bytes,
            sha256=tokenizer.sha256,
            pad_id=checkpoint.tokenizer.pad_id,
            pad_type_id=checkpoint.tokenizer.pad_type_id,
        ),
        golden=describe_file(folder / GOLDEN_FILE),
        weights=weights,
        targets=entries,
    )
