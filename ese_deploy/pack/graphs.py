"""The graph of one target with only the weights that it reads, and running it without the bundle."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, bundle_file, read_graph, verify_weights, weights_of
from ese_deploy.engines.onnxruntime_cpu import SLOW_FUSIONS, import_onnxruntime, session_options
from ese_deploy.errors import InputError
from ese_deploy.pack.job import PackJob, Vectors

__all__ = ["embed_with_onnxruntime", "golden_batch", "load_graph", "write_graph"]

# The limit of protobuf, with room for what is not a weight.
_LARGEST_FILE = 2**31 - 2**24


def load_graph(bundle: Bundle, entry: TargetEntry) -> ir.Model:
    """The graph of a target, with its weights in the weights file of the bundle.

    Raises:
        BundleError: a file is missing or was changed.
    """
    weights = weights_of(bundle, entry.dtype)
    verify_weights(bundle, weights)
    file = bundle_file(bundle, weights)
    model = ir.from_proto(onnx.load_from_string(read_graph(bundle, entry)))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.ExternalTensor(
                location=file.name,
                offset=tensor.offset,
                length=tensor.length,
                dtype=tensor.dtype,
                shape=tensor.shape,
                name=tensor.name,
                base_dir=str(file.parent),
            )
    return model


def write_graph(job: PackJob, path: Path) -> None:
    """Write the graph of the target as one file.

    Raises:
        InputError: the file would be larger than protobuf allows.
    """
    if job.entry.weight_bytes > _LARGEST_FILE:
        raise InputError(
            f"Target {job.entry.target} has {job.entry.weight_bytes / 1e9:.1f} GB of weights, and one ONNX file holds "
            "2 GB. Choose the layout onnx-external."
        )
    model = load_graph(job.bundle, job.entry)
    ir.external_data.load_to_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def golden_batch(job: PackJob, row: int) -> dict[str, np.ndarray]:
    """The inputs of the graph for one golden text, int64 [1, sequence]."""
    ids = np.array([job.golden.token_ids[row]], np.int64)
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: arrays[name] for name in job.bundle.manifest.inputs}


def embed_with_onnxruntime(job: PackJob, path: Path) -> Vectors:
    """The vectors of the golden texts, float32 [n, dim], with ONNX Runtime and the file as another tool opens it."""
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime, path.parent, 1)
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
    )
    output = job.bundle.manifest.output
    rows = [session.run([output], golden_batch(job, row))[0][0] for row in range(len(job.golden.texts))]
    return np.stack(rows).astype(np.float32)
