"""A bundle of fewer targets, with only the weights that they read."""

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from ese_deploy.bundle.golden import GOLDEN_FILE, encode_golden
from ese_deploy.bundle.manifest import Manifest, TargetEntry, WeightsEntry
from ese_deploy.bundle.ranges import RANGES_FILE, decode_ranges, encode_ranges
from ese_deploy.bundle.reader import open_bundle, read_config, read_projection, read_ranges_file, read_tokenizer
from ese_deploy.bundle.spaces import full_depth_space, source_space
from ese_deploy.bundle.writer import BundleDraft, describe_file
from ese_deploy.export.weights import WeightsFile
from ese_deploy.pack.graphs import load_graph
from ese_deploy.pack.job import Layout, PackJob, Vectors
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, encode_projections, read_exit_matrix
from ese_deploy.runtime import Encoder

__all__ = ["ESE"]


def _any(job: PackJob) -> None:
    """Every target will do."""


def _write(job: PackJob, folder: Path) -> None:
    manifest = job.bundle.manifest
    weights: list[WeightsEntry] = []
    entries: list[TargetEntry] = []
    for dtype in sorted({entry.dtype for entry in job.entries}):
        with WeightsFile(folder / f"weights.{dtype}.data", dtype) as file:
            same = [entry for entry in job.entries if entry.dtype == dtype]
            entries.extend(_write_target(job, entry, folder, file) for entry in same)
            weights.append(file.entry())
    (folder / manifest.tokenizer.file).write_bytes(read_tokenizer(job.bundle))
    for further in (manifest.config, manifest.tokenizer_config):
        content = read_config(job.bundle, further)
        if further is not None and content is not None:
            (folder / further.file).write_bytes(content)
    draft = BundleDraft(folder, _manifest(manifest, weights, entries))
    names = {entry.name for entry in entries}
    kept = {name: rows for name, rows in job.golden.vectors.items() if name in names}
    draft = draft.add_file("golden", GOLDEN_FILE, encode_golden(msgspec.structs.replace(job.golden, vectors=kept)))
    if (stored := read_ranges_file(job.bundle)) is not None:
        ranges = {name: found for name, found in decode_ranges(stored, RANGES_FILE).items() if name in names}
        draft = draft.add_file("ranges", RANGES_FILE, encode_ranges(ranges))
    draft = _add_rotation(job, draft)
    draft.write_manifest(job.name)


def _write_target(job: PackJob, entry: TargetEntry, folder: Path, file: WeightsFile) -> TargetEntry:
    model = load_graph(job.bundle, entry)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = file.place(value.const_value)
    graph = ir.to_proto(model).SerializeToString(deterministic=True)
    (folder / entry.file).write_bytes(graph)
    described = describe_file(entry.file, graph)
    return msgspec.structs.replace(entry, bytes=described.bytes, sha256=described.sha256)


def _manifest(manifest: Manifest, weights: list[WeightsEntry], entries: list[TargetEntry]) -> Manifest:
    quantized = any(entry.fidelity is not None for entry in entries)
    return msgspec.structs.replace(
        manifest,
        weights=weights,
        targets=entries,
        profiles=None,
        ranges=None,
        projection_file=None,
        tokens=None,
        quantization=manifest.quantization if quantized else None,
        full_depth_space=full_depth_space(manifest),
        source_space=source_space(manifest),
    )


def _add_rotation(job: PackJob, draft: BundleDraft) -> BundleDraft:
    """Keep the rotation between the embedding spaces; the graphs contain the projections of their exits."""
    stored = read_projection(job.bundle)
    full = job.bundle.manifest.depth
    matrix = None if stored is None else read_exit_matrix(stored, full, str(job.bundle.path))
    if matrix is None:
        return draft
    return draft.add_file("projection_file", PROJECTIONS_FILE, encode_projections({full: Projection(matrix)}))


def _embed(job: PackJob, folder: Path) -> dict[str, Vectors]:
    packed = open_bundle(folder)
    vectors = {}
    for entry in job.entries:
        found = Encoder.open(packed, entry.target, threads=1).encode(job.golden.texts, batch_size=1)
        vectors[entry.name] = np.asarray(found, np.float32)
    return vectors


ESE = Layout("ese", "A bundle of the named targets only.", _any, _write, _embed, several=True)
