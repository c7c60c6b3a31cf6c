"""Layouts that contain the graph of the target as it is: plain ONNX, fastembed, transformers.js, TEI, Triton."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from ese_deploy.errors import InputError
from ese_deploy.pack.graphs import embed_with_onnxruntime, load_graph, write_graph
from ese_deploy.pack.job import Layout, PackJob, Vectors, write_json, write_settings

__all__ = ["FASTEMBED", "ONNX", "ONNX_EXTERNAL", "TEI", "TRANSFORMERS_JS", "TRITON"]

_MODEL = "model.onnx"
_EXTERNAL = "model.onnx_data"
_TEI_OPSET = 18
_LARGEST_BATCH = 64
# Suffixes by which transformers.js finds the file of a dtype.
_JS_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}
_TRITON_CONFIG = """name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [
{inputs}
]
output [
  {{ name: "{output}", data_type: TYPE_FP32, dims: [ {dim} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: 1000 }}
"""


def _any(job: PackJob) -> None:
    """Every target will do."""


def _embed(place: Callable[[PackJob], str]) -> Callable[[PackJob, Path], dict[str, Vectors]]:
    return lambda job, folder: {job.entry.name: embed_with_onnxruntime(job, folder / place(job))}


def _write_single(place: Callable[[PackJob], str]) -> Callable[[PackJob, Path], None]:
    def write(job: PackJob, folder: Path) -> None:
        write_graph(job, folder / place(job))
        write_settings(job, folder)

    return write


def _model(_: PackJob) -> str:
    return _MODEL


def _write_external(job: PackJob, folder: Path) -> None:
    ir.save(load_graph(job.bundle, job.entry), folder / _MODEL, external_data=_EXTERNAL)
    write_settings(job, folder)


def _js_place(job: PackJob) -> str:
    return f"onnx/model{_JS_SUFFIXES[job.entry.dtype]}.onnx"


def _check_js(job: PackJob) -> None:
    if job.entry.dtype not in _JS_SUFFIXES:
        raise InputError(
            f"transformers.js has no name for dtype {job.entry.dtype}. Choose a target of: {', '.join(_JS_SUFFIXES)}."
        )


def _check_tei(job: PackJob) -> None:
    opset = job.bundle.manifest.opset
    if opset > _TEI_OPSET:
        raise InputError(
            f"text-embeddings-inference runs opset {_TEI_OPSET}, and {job.bundle.path} has opset {opset}. Export the "
            f"bundle with `opset={_TEI_OPSET}`."
        )


def _write_tei(job: PackJob, folder: Path) -> None:
    _write_single(_model)(job, folder)
    # Its ONNX backend takes sentence_embedding as it is, and still wants a pooling to be stated.
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling/config.json",
        {"word_embedding_dimension": job.entry.dim, "pooling_mode_mean_tokens": True},
    )
    limit = {"max_seq_length": job.bundle.manifest.max_seq_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limit)


def _triton_place(job: PackJob) -> str:
    return f"{job.entry.name.replace('.', '_')}/1/{_MODEL}"


def _write_triton(job: PackJob, folder: Path) -> None:
    place = folder / _triton_place(job)
    write_graph(job, place)
    name = place.parents[1].name
    inputs = ",\n".join(
        f'  {{ name: "{name}", data_type: TYPE_INT64, dims: [ -1 ] }}' for name in job.bundle.manifest.inputs
    )
    config = _TRITON_CONFIG.format(
        name=name, batch=_LARGEST_BATCH, inputs=inputs, output=job.bundle.manifest.output, dim=job.entry.dim
    )
    (place.parents[1] / "config.pbtxt").write_text(config)
    (folder / "tokenizer").mkdir()
    write_settings(job, folder / "tokenizer")


ONNX = Layout(
    "onnx", "One model.onnx with its weights, tokenizer and config.", _any, _write_single(_model), _embed(_model)
)
ONNX_EXTERNAL = Layout(
    "onnx-external", "model.onnx with its weights in model.onnx_data.", _any, _write_external, _embed(_model)
)
FASTEMBED = Layout(
    "fastembed", "A custom model of fastembed, with the pooling disabled.", _any, _write_single(_model), _embed(_model)
)
TRANSFORMERS_JS = Layout(
    "transformers.js",
    "onnx/model.onnx for AutoModel of transformers.js.",
    _check_js,
    _write_single(_js_place),
    _embed(_js_place),
)
TEI = Layout("tei", "A model for text-embeddings-inference; opset 18 only.", _check_tei, _write_tei, _embed(_model))
TRITON = Layout(
    "triton",
    "A model repository of Triton with dynamic batching.",
    _any,
    _write_triton,
    _embed(_triton_place),
)
