"""Makes batches from rows: draws one text of each list, adds its prompt, tokenizes and truncates it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from ese_deploy.errors import InputError

__all__ = ["Collator", "column_prompts", "kept_prompts"]

_SLOT = "{text}"
_PROMPTS = {"query": "query_prompt", "positive": "doc_prompt", "negative": "doc_prompt"}


@dataclass
class Collator:
    """Makes the trainer's batches: token ids and mask for each text column, and the labels.

    If a row has a list of texts, one is drawn. The draw depends only on the seed and the batch, so that it is the same
    after resuming and with any number of workers, and different in every epoch.

    Attributes:
        model: its tokenizer is used.
        texts: the text columns of all formats, in order.
        prompts: templates with ``{text}``, by column.
        max_length: longest text in tokens.
        seed: seed of the draws.
        valid_label_columns: read by the trainer.
    """

    model: SentenceTransformer
    texts: Sequence[str]
    prompts: Mapping[str, str]
    max_length: int
    seed: int
    valid_label_columns: Sequence[str] = ("label",)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build a batch.

        Returns:
            ``{column}_input_ids`` and ``{column}_attention_mask`` (int64 [batch, sequence]), other inputs of the model,
            and ``label`` (float32 [batch]) if the rows have labels.
        """
        batch: dict[str, Any] = {}
        columns = [column for column in self.texts if column in rows[0]]
        draw = self._draw(rows, columns[0])
        for column in columns:
            texts = [draw.choice(row[column]) if isinstance(row[column], list) else row[column] for row in rows]
            prompted = [self.prompted(column, text) for text in texts]
            for key, value in self.model.preprocess(prompted, max_length=self.max_length).items():
                batch[f"{column}_{key}"] = value
        if "label" in rows[0]:
            batch["label"] = torch.tensor([row["label"] for row in rows], dtype=torch.float32)
        return batch

    def prompted(self, column: str, text: str) -> str:
        """A text in the prompt of its column."""
        return self.prompts.get(column, _SLOT).replace(_SLOT, text)

    def _draw(self, rows: list[dict[str, Any]], column: str) -> random.Random:
        digest = blake2b(str(self.seed).encode())
        for row in rows:
            digest.update(str(row[column]).encode())
        return random.Random(digest.digest())


def column_prompts(texts: Sequence[str], text: str | None, query: str | None, document: str | None) -> dict[str, str]:
    """Templates by column.

    Args:
        texts: the text columns.
        text: for format A and plain texts.
        query: for the column ``query``.
        document: for ``positive`` and ``negative``.

    Raises:
        InputError: a template has no ``{text}``, or its columns are missing.
    """
    given = {"text_prompt": text, "query_prompt": query, "doc_prompt": document}
    names = {column: _PROMPTS.get(column, "text_prompt") for column in texts}
    for name, template in given.items():
        if template is None:
            continue
        if template.count(_SLOT) != 1:
            raise InputError(f"`{name}` is '{template}'. It must contain {_SLOT} once, where the text goes.")
        if name not in names.values():
            fitting = " and ".join(f"`{name}`" for name in dict.fromkeys(names.values()))
            raise InputError(f"`{name}` does not apply to data with {', '.join(texts)}. Use {fitting}.")
    by_column = {column: given[name] for column, name in names.items()}
    return {column: template for column, template in by_column.items() if template is not None}


def kept_prompts(prompts: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The templates that a sentence-transformers folder can store: prefixes by name.

    Returns:
        The prefixes under the names ``query``, ``document`` or ``text``, and the name of the default one, if any.
    """
    names = {"query": "query", "positive": "document", "negative": "document"}
    kept = {
        names.get(column, "text"): template.removesuffix(_SLOT)
        for column, template in prompts.items()
        if template.endswith(_SLOT) and template != _SLOT
    }
    return kept, "text" if "text" in kept else None
