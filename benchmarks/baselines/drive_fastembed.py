"""fastembed with a custom model: the graph that optimum exported."""

from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from serve import batch_sizes, serve


def load(request):
    """Register the graph as a custom model; it is read from a folder, and nothing is downloaded."""
    folder = Path(request["cache"]) / "optimum"
    if not (folder / "model.onnx").is_file():
        raise FileNotFoundError("fastembed cannot export. Run the baseline optimum first, whose graph it reads.")
    TextEmbedding.add_custom_model(
        model="local/model",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="file:///local"),
        dim=request["width"],
        model_file="model.onnx",
    )
    model = TextEmbedding(
        "local/model", specific_model_path=str(folder), threads=request["threads"], providers=["CPUExecutionProvider"]
    )

    def encode(texts, setting):
        return np.stack(list(model.embed(texts, batch_size=setting["batch"])))

    return encode, batch_sizes()


serve(["fastembed", "onnxruntime", "tokenizers"], load)
