"""PyTorch: transformers' model, batches sorted by length, mean pooling."""

import numpy as np
import torch
from serve import batch_sizes, serve
from transformers import AutoModel, AutoTokenizer


def load(request):
    """Load the model in fp32 or bf16."""
    torch.set_num_threads(request["threads"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[request["options"]["dtype"]]
    model = AutoModel.from_pretrained(request["model"], dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    longest = request["max_seq_length"]

    @torch.inference_mode()
    def encode(texts, setting):
        tokens = tokenizer(texts, truncation=True, max_length=longest)
        order = np.argsort([-len(ids) for ids in tokens["input_ids"]], kind="stable")
        found = [None] * len(texts)
        for start in range(0, len(texts), setting["batch"]):
            rows = order[start : start + setting["batch"]]
            batch = tokenizer.pad({key: [tokens[key][row] for row in rows] for key in tokens}, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
            for row, vector in zip(rows, vectors, strict=True):
                found[row] = vector
        return np.stack(found)

    return encode, batch_sizes()


serve(["torch", "transformers", "tokenizers"], load)
