"""Writes a graph of every backbone, pooling, head, opset and dtype of the tests into a folder.

``ese_deploy/bundle/operators.py`` lists what these graphs contain. After a change of the exporter:
``PYTHONPATH=.:tests python -m hostile.exported_graphs FOLDER && PYTHONPATH=.:tests python -m hostile.operators FOLDER``
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from helpers.tiny import BACKBONES, LAYERS, make_checkpoint, write_json
from safetensors.torch import save_file

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.backbones.dense import ACTIVATIONS
from ese_deploy.backbones.pooling import POOLINGS
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.extract import extract
from ese_deploy.export.observe import calibrate_int8, describe_quantization
from ese_deploy.export.request import MINIMUM_ONNXRUNTIME, OPSET
from ese_deploy.export.trace import trace
from ese_deploy.export.weights import WeightsFile
from ese_deploy.projections.projection import Projection
from ese_deploy.target import DTYPES, Target

_HIDDEN = 64


def add_dense(folder: Path, activation: str, bias: bool, residual: bool) -> None:
    """Put a scaled Dense module behind the pooling of a checkpoint."""
    tensors = {"linear.weight": torch.randn(_HIDDEN, _HIDDEN) / 8}
    if bias:
        tensors["linear.bias"] = torch.randn(_HIDDEN) / 8
    (folder / "3_Dense").mkdir()
    save_file(tensors, folder / "3_Dense/model.safetensors")
    write_json(
        folder / "3_Dense/config.json",
        {
            "in_features": _HIDDEN,
            "out_features": _HIDDEN,
            "bias": bias,
            "use_residual": residual,
            "activation_function": f"torch.nn.modules.{activation}",
        },
    )
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"), ("3_Dense", "Dense"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)


def write_graphs(folder: Path, out: Path, name: str, dtypes: Sequence[str] = tuple(DTYPES)) -> None:
    """Write the graphs of a checkpoint for both opsets, at the first exit and the last. int8 has one opset."""
    checkpoint = read_checkpoint(str(folder))
    states = torch.randn(_HIDDEN, 3 * checkpoint.width)
    projections = {LAYERS: Projection(states.numpy(), (0, 1, LAYERS))} if checkpoint.width == _HIDDEN else {}
    for opset in MINIMUM_ONNXRUNTIME:
        model = trace(checkpoint, load_backbone(checkpoint), (1, LAYERS), opset, projections)
        for dtype in dtypes:
            quantized = DTYPES[dtype].quantized
            if quantized and opset < OPSET:
                continue
            settings = None
            if quantized:
                activations = calibrate_int8(checkpoint, model, None)
                settings = QuantizationSettings(describe_quantization(None, 8), activations)
            converted = convert(model, dtype, settings)
            with WeightsFile(out / f"{name}.{opset}.{dtype}.data", dtype) as weights:
                for depth, dim in ((1, 16), (LAYERS, _HIDDEN)):
                    graph = extract(converted, Target(depth, dim, dtype), weights, "test").onnx
                    (out / f"{name}.{opset}.{depth}x{dim}.{dtype}.onnx").write_bytes(graph)
                weights.entry()


def main(out: Path, wanted: Sequence[str] = ()) -> None:
    """Write all graphs into ``out``, or those of some backbones."""
    out.mkdir(parents=True, exist_ok=True)
    poolings = [*POOLINGS, "cls+mean"]
    for place, (title, (model_type, settings)) in enumerate(BACKBONES.items()):
        name = title.lower().replace(" ", "-")
        if wanted and name not in wanted:
            continue
        folder = make_checkpoint(out / f"{name}.model", model_type, **settings)
        if title == "BERT":
            for pooling in poolings:
                modes = {"embedding_dimension": _HIDDEN, "pooling_mode": pooling.split("+")}
                write_json(folder / "1_Pooling/config.json", modes)
                write_graphs(folder, out, f"{name}.{pooling}", ("fp32", "fp16"))
        modes = {"embedding_dimension": _HIDDEN, "pooling_mode": [poolings[place % len(POOLINGS)]]}
        write_json(folder / "1_Pooling/config.json", modes)
        write_graphs(folder, out, name)
        print(name, flush=True)
    for activation in ACTIVATIONS if not wanted or "dense" in wanted else ():
        name = f"dense-{activation.lower()}"
        folder = make_checkpoint(out / f"{name}.model", *BACKBONES["BERT"][:1], **BACKBONES["BERT"][1])
        add_dense(folder, activation, bias=activation != "Identity", residual=activation in ("GELU", "Identity"))
        write_graphs(folder, out, name, ("fp32", "fp16"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
