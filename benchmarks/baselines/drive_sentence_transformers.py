"""sentence-transformers' ``encode``, with its backend torch or onnx."""

import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from serve import batch_sizes, serve


def load(request):
    """Load the model; the ONNX backend exports it into the cache, as it does on first use by default."""
    torch.set_num_threads(request["threads"])
    backend = request["options"]["backend"]
    folder, arguments = request["model"], {}
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        arguments = {"model_kwargs": {"session_options": options, "provider": "CPUExecutionProvider"}}
        folder = Path(request["cache"]) / "sentence-transformers-onnx"
        if not (folder / "onnx/model.onnx").is_file():
            shutil.copytree(request["model"], folder, dirs_exist_ok=True)
            SentenceTransformer(str(folder), backend="onnx", device="cpu").save_pretrained(str(folder))
    model = SentenceTransformer(str(folder), backend=backend, device="cpu", **arguments)
    model.max_seq_length = request["max_seq_length"]

    def encode(texts, setting):
        return model.encode(texts, batch_size=setting["batch"], normalize_embeddings=True)

    return encode, batch_sizes()


serve(["sentence-transformers", "torch", "transformers", "tokenizers"], load)
