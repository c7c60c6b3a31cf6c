"""From rows to a batch: one text out of each list, its prompt around it, cut to the length of training."""

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
_PROMPT_FLAGS = {"query": "--query_prompt", "positive": "--doc_prompt", "negative": "--doc_prompt"}


@dataclass
class Collator:
    """Makes the trainer's batches: for each text column its token ids and mask, and the labels.

    Where a row has a list of texts, one is drawn. The draw depends on the seed and on the batch alone, so that it is
    the same after a resume and in every number of workers, and another in every epoch.

    Attributes:
        model: tokenises.
        texts: the text columns, in order; of several formats, each row has those of one.
        prompts: a template with ``{text}`` for columns that have one.
        max_length: longest text in tokens.
        seed: of the draws.
        valid_label_columns: the trainer asks for it.
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
            ``{column}_input_ids`` and ``{column}_attention_mask`` (int64 [batch, sequence]) and what else the model
            takes; ``label`` (float32 [batch]) where the rows have one.
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
        """A text with the prompt of its column around it."""
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
        text: ``--text_prompt``, for format A and plain texts.
        query: ``--query_prompt``, for the column ``query``.
        document: ``--doc_prompt``, for ``positive`` and ``negative``.

    Raises:
        InputError: a template has no ``{text}``, or is for columns that are not there.
    """
    given = {"--text_prompt": text, "--query_prompt": query, "--doc_prompt": document}
    flags = {column: _PROMPT_FLAGS.get(column, "--text_prompt") for column in texts}
    for flag, template in given.items():
        if template is None:
            continue
        if template.count(_SLOT) != 1:
            raise InputError(f"{flag} is '{template}'; it must have {_SLOT} once, where the text goes")
        if flag not in flags.values():
            fitting = " and ".join(dict.fromkeys(flags.values()))
            raise InputError(f"{flag} is not for data with {', '.join(texts)}; use {fitting}")
    by_column = {column: given[flag] for column, flag in flags.items()}
    return {column: template for column, template in by_column.items() if template is not None}


def kept_prompts(prompts: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """What of the templates a sentence-transformers folder can keep: prefixes by name.

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
