"""Computes the texts of a batch sorted by length, to spend little on padding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ese_deploy.losses.gather import world_size

__all__ = ["compute_in_pieces"]

# On a CPU, smaller pieces cost more time than they save in padding.
_ROWS = 32

Features = Mapping[str, Any]


def compute_in_pieces(columns: Sequence[Features], compute: Callable[[Features], Tensor]) -> list[Tensor]:
    """Compute the texts of all columns in pieces of similar length.

    On accelerators, where a call costs more than padding, there are as many pieces as columns; likewise with several
    processes, which must all make the same number of calls. Columns that are padded on the left or have different
    features are computed unchanged.

    Args:
        columns: the collator's output for each column of texts.
        compute: from the features of n texts to [n, ...]; a text's result must not depend on the other texts.

    Returns:
        [n, ...] for each column, in the order of its texts.
    """
    if not _can_mix(columns):
        return [compute(column) for column in columns]
    sizes = [len(column["attention_mask"]) for column in columns]
    lengths = torch.cat([column["attention_mask"].sum(1) for column in columns])
    order = lengths.argsort(stable=True)
    by_rows = lengths.device.type == "cpu" and world_size() == 1
    count = -(-len(order) // _ROWS) if by_rows else len(columns)
    joined = _join(columns)
    others = {name: value for name, value in columns[0].items() if name not in joined}
    found = []
    for places in torch.tensor_split(order, count):
        longest = int(lengths[places].max())
        found.append(compute({**others, **{name: rows_[places, :longest] for name, rows_ in joined.items()}}))
    return list(torch.split(torch.cat(found)[order.argsort()], sizes))


def _can_mix(columns: Sequence[Features]) -> bool:
    first = columns[0]
    for column in columns:
        if column.keys() != first.keys() or not bool(column["attention_mask"][:, 0].all()):
            return False
        for name, value in column.items():
            if isinstance(value, Tensor):
                if value.shape != column["attention_mask"].shape:
                    return False
            elif value != first[name]:
                return False
    return True


def _join(columns: Sequence[Features]) -> dict[str, Tensor]:
    """All columns as one, padded on the right with zeros, which the mask excludes."""
    longest = max(column["attention_mask"].shape[1] for column in columns)
    joined = {}
    for name, value in columns[0].items():
        if isinstance(value, Tensor):
            joined[name] = torch.cat([pad(column[name], (0, longest - column[name].shape[1])) for column in columns])
    return joined
