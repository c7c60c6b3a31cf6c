"""optimum: ``ORTModelForFeatureExtraction``, batches sorted by length, mean pooling."""

from pathlib import Path

import numpy as np
import onnxruntime
from optimum.onnxruntime import ORTModelForFeatureExtraction
from serve import batch_sizes, serve
from transformers import AutoTokenizer


def load(request):
    """Load optimum's own export, cached after the first run; fastembed reads it too."""
    folder = Path(request["cache"]) / "optimum"
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    if not (folder / "model.onnx").is_file():
        ORTModelForFeatureExtraction.from_pretrained(request["model"], export=True).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    model = ORTModelForFeatureExtraction.from_pretrained(
        folder, session_options=options, provider="CPUExecutionProvider"
    )
    longest = request["max_seq_length"]

    def encode(texts, setting):
        tokens = tokenizer(texts, truncation=True, max_length=longest)
        order = np.argsort([-len(ids) for ids in tokens["input_ids"]], kind="stable")
        found = [None] * len(texts)
        for start in range(0, len(texts), setting["batch"]):
            rows = order[start : start + setting["batch"]]
            batch = tokenizer.pad({key: [tokens[key][row] for row in rows] for key in tokens}, return_tensors="np")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].astype(np.float32)
            vectors = (hidden * mask).sum(1) / mask.sum(1)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            for row, vector in zip(rows, vectors, strict=True):
                found[row] = vector
        return np.stack(found)

    return encode, batch_sizes()


serve(["optimum-onnx", "optimum", "onnxruntime", "transformers", "tokenizers"], load)
