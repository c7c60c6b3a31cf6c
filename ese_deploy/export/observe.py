"""Calibrating int8: the traced graph runs on texts, and each activation gets the best scale for them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import Quantization
from ese_deploy.engines.onnxruntime_cpu import import_onnxruntime, session_options
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.activation import choose_activation
from ese_deploy.export.quantize import LEVELS, Activation, find_activations, weight_of
from ese_deploy.export.texts import CalibrationTexts, calibration_half
from ese_deploy.export.trace import input_names
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads
from ese_deploy.texts.reader import chunks
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus_sha256

__all__ = ["calibrate_int8", "describe_quantization"]

# Texts that run, and tokens that are sampled of each activation: more of either changed no choice that mattered.
_MOST_TEXTS = 1024
_TOKENS = 512
_BATCH_SIZE, _BATCH_TOKENS = 16, 1024
_SEED = 0


def describe_quantization(calibration: CalibrationTexts | None, bits: int) -> Quantization:
    """The quantization settings that the manifest lists."""
    if calibration is None:
        data, sha256, count = SAMPLE_CORPUS_NAME, sample_corpus_sha256(), len(calibration_half())
    else:
        entry = calibration.entry
        data, sha256, count = entry.file, entry.sha256, min(entry.texts, _MOST_TEXTS)
    return Quantization(weight_bits=bits, data=data, data_sha256=sha256, n=count)


def calibrate_int8(
    checkpoint: Checkpoint,
    traced: ir.Model,
    calibration: CalibrationTexts | None,
    bits: int = 8,
    progress: Progress = silent,
) -> dict[str, Activation]:
    """Choose how every activation of the traced graph is quantized.

    Memory use does not grow with the number of texts: 512 tokens of each activation are sampled.

    Args:
        checkpoint: where the graph comes from.
        traced: the graph with every exit, in fp32.
        calibration: the user's texts, of which the first 1024 are used; None: half of the sample corpus.
        bits: bits of a weight; a key of :data:`ese_deploy.export.quantize.LEVELS`.
        progress: called after each batch, and after each activation.
    """
    products = find_activations(traced)
    if not products:
        return {}
    samples = _observe(checkpoint, traced, list(products), _texts(calibration), progress)
    chosen = {}
    for done, (name, nodes) in enumerate(products.items(), start=1):
        weights = [weight_of(node) for node in nodes]
        chosen[name] = choose_activation(samples.pop(name), weights, LEVELS[bits])
        progress("choose ranges", done, len(products))
    return chosen


def _texts(calibration: CalibrationTexts | None) -> list[str]:
    if calibration is None:
        return calibration_half()
    first = next(chunks(calibration.texts, _MOST_TEXTS))
    return [row.text for row in first]


def _observe(
    checkpoint: Checkpoint, traced: ir.Model, names: Sequence[str], texts: Sequence[str], progress: Progress
) -> dict[str, NDArray[np.float32]]:
    """A sample of each value at tokens that are not padding, float32 [tokens, channels]."""
    batches = list(_batches(checkpoint, texts))
    most = -(-_TOKENS // len(batches))
    random = np.random.default_rng(_SEED)
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        session = _session(traced, names, Path(folder))
        for done, batch in enumerate(batches, start=1):
            real = np.flatnonzero(batch["attention_mask"])
            rows = np.sort(random.choice(real, min(most, len(real)), replace=False))
            for name, value in zip(names, session.run(list(names), batch), strict=True):
                kept[name].append(value.reshape(-1, value.shape[-1])[rows])
            progress("calibrate int8", done, len(batches))
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _batches(checkpoint: Checkpoint, texts: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.int64]]]:
    tokenizer = text_tokenizer(checkpoint)
    prefix = checkpoint.prompts.get(checkpoint.default_prompt_name or "", "")
    tokens = tokenizer([prefix + text for text in texts])
    for places in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
        yield tokenizer.collate([tokens.encodings[place] for place in places], input_names(checkpoint))


def _session(traced: ir.Model, names: Sequence[str], folder: Path) -> Any:
    """The traced graph with other outputs; its weights are in a file, because a protobuf message is limited to 2 GB."""
    model = traced.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in names)
    path = folder / "observed.onnx"
    ir.save(model, path, external_data="observed.data")
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime, folder, available_threads())
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
