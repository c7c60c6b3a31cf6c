"""OpenVINO on the bundle's full graph: fp32, bf16, or int8 by NNCF's post-training quantization."""

import json
import os
from pathlib import Path

import numpy as np
from serve import serve
from tokenizers import Tokenizer

os.environ["OPENVINO_TELEMETRY_CONSENT"] = "0"


def load(request):
    """Compile the graph for latency and for throughput; both are tried with each batch size."""
    import openvino

    tokenizer = Tokenizer.from_file(request["tokenizer"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(request["max_seq_length"])
    dtype = request["options"]["dtype"]
    core = openvino.Core()
    model = _quantize(core, request, tokenizer) if dtype == "int8" else core.read_model(request["graph"])
    names = [port.any_name for port in model.inputs]
    compiled = {}
    for hint in ("latency", "throughput"):
        config = {
            "PERFORMANCE_HINT": hint.upper(),
            "INFERENCE_NUM_THREADS": request["threads"],
            # By default OpenVINO computes fp32 graphs in bf16 on a processor with bf16 units.
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bf16" else "f32",
        }
        compiled[hint] = core.compile_model(model, "CPU", config)
    queues = {hint: openvino.AsyncInferQueue(one) for hint, one in compiled.items()}

    def encode(texts, setting):
        encodings = tokenizer.encode_batch_fast(texts)
        order = np.argsort([-len(one) for one in encodings], kind="stable")
        found = [None] * len(texts)

        def take(job, rows):
            for row, vector in zip(rows, np.array(job.get_output_tensor().data), strict=True):
                found[row] = vector

        queue = queues[setting["mode"]]
        queue.set_callback(take)
        for start in range(0, len(texts), setting["batch"]):
            rows = order[start : start + setting["batch"]]
            queue.start_async(_collate([encodings[row] for row in rows], names), rows)
        queue.wait_all()
        return np.stack(found)

    sizes = (4, 8, 16, 32, 64)
    return encode, [{"batch": size, "mode": hint} for hint in compiled for size in sizes]


def _collate(encodings, names):
    shape = (len(encodings), max(map(len, encodings)))
    arrays = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, one in enumerate(encodings):
        for name, values in zip(arrays, (one.ids, one.attention_mask, one.type_ids), strict=True):
            arrays[name][row, : len(one)] = values
    return {name: arrays[name] for name in names}


def _quantize(core, request, tokenizer):
    """Quantize once and cache the result; calibrated on texts of the bench, which favours its cosines."""
    path = Path(request["cache"]) / "openvino-int8.xml"
    if not path.is_file():
        import nncf
        import openvino

        model = core.read_model(request["graph"])
        names = [port.any_name for port in model.inputs]
        texts = json.loads(Path(request["calibration"]).read_text("utf-8"))
        batches = [_collate([tokenizer.encode(text)], names) for text in texts]
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(quantized, str(path))
    return core.read_model(str(path))


serve(["openvino", "nncf", "tokenizers"], load)
