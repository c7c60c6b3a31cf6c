"""Letting mteb score a target, a checkpoint at an exit, or anything else with ``encode``."""

from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray

from ese_deploy.evaluate.sts import CanEncode

__all__ = ["MtebModel"]


class MtebModel(AbsEncoder):  # type: ignore[misc, unused-ignore]
    """A model as mteb wants it; similarity is the cosine.

    Queries and documents of a search go through ``encode_query`` and ``encode_document`` where the model has them, so
    that the model's own prompts are used; prompts that mteb keeps for its tasks are not.

    Args:
        model: an ``Encoder``, a checkpoint at an exit, or anything else with ``encode``.
        name: ``owner/name``, under which mteb files the results.
        revision: such as the bundle's hash.

    Example:
        >>> import mteb
        >>> encoder = Encoder.open("exports/minilm", target="3x128")
        >>> tasks = mteb.get_tasks(tasks=["STSBenchmark"])
        >>> mteb.evaluate(MtebModel(encoder, "me/minilm-3x128"), tasks)
    """

    def __init__(self, model: CanEncode, name: str, revision: str | None = None) -> None:
        self.model = model
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": name, "revision": revision or "none", "similarity_fn_name": ScoringFunction.COSINE}
        )

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **_: Any
    ) -> NDArray[np.float32]:
        """Embed the texts of a loader of batches; float32 [n, dim]."""
        texts = [text for batch in inputs for text in batch["text"]]
        roles = {PromptType.query: "encode_query", PromptType.document: "encode_document"}
        encode = getattr(self.model, roles.get(prompt_type, "encode"), self.model.encode)
        return np.asarray(encode(texts), np.float32)
