import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules.dense import Dense

from ese_deploy.backbones.dense import ACTIVATIONS, load_head, read_dense
from ese_deploy.verify import reference


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_module_computes_what_sentence_transformers_computes(tmp_path: Path, name: str, bias: bool) -> None:
    torch.manual_seed(3)
    module = Dense(12, 5, bias=bias, activation_function=getattr(torch.nn, name)())
    module.save(str(tmp_path))
    layer = read_dense(tmp_path, json.loads((tmp_path / "config.json").read_text()), False, allow_pickle=False)
    vectors = torch.randn(7, 12)
    with torch.no_grad():
        expected = module({"sentence_embedding": vectors})["sentence_embedding"].numpy()
    np.testing.assert_allclose(load_head([layer])(vectors).numpy(), expected, atol=1e-6)
    tensors = reference._load(layer)
    apart = [reference._dense(layer, tensors, row) for row in vectors.double().numpy()]
    np.testing.assert_allclose(np.stack(apart), expected, atol=1e-6)
