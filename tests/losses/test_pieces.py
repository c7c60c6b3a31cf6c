"""Texts of a batch computed in the order of their lengths."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ese_deploy.losses.pieces import compute_in_pieces


def column(lengths: list[int], left: bool = False) -> dict[str, Any]:
    """Texts whose tokens tell them apart, padded to the longest."""
    longest = max(lengths)
    ids, mask = torch.full((len(lengths), longest), 9999), torch.zeros(len(lengths), longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        places = slice(longest - length, longest) if left else slice(0, length)
        ids[row, places] = torch.arange(length) + 100 * row + 10_000 * length
        mask[row, places] = 1
    return {"input_ids": ids, "attention_mask": mask, "modality": "text"}


class Counted:
    """Sums the tokens of each text, and notes the shapes that it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, features: Any) -> Tensor:
        assert features["modality"] == "text"
        self.shapes.append(tuple(features["input_ids"].shape))
        return (features["input_ids"] * features["attention_mask"]).sum(1, keepdim=True)


def test_pieces_give_equal_vectors_for_fewer_tokens() -> None:
    columns = [column([64, *[5] * 31]), column([7, 3] * 16), column([*range(1, 33)])]
    alone, pieces = Counted(), Counted()
    wanted = [alone(one) for one in columns]
    found = compute_in_pieces(columns, pieces)
    assert [torch.equal(one, other) for one, other in zip(found, wanted, strict=True)] == [True] * 3
    padded = [sum(rows * longest for rows, longest in counted.shapes) for counted in (pieces, alone)]
    assert padded[0] < 0.75 * padded[1]
    assert sum(rows for rows, _ in pieces.shapes) == 96


@pytest.mark.parametrize(
    "columns",
    [
        [column([3, 9], left=True), column([2, 5])],
        [column([3, 9]), column([2, 5]) | {"modality": "text", "token_type_ids": torch.zeros(2, 5)}],
    ],
    ids=["left", "other keys"],
)
def test_columns_that_cannot_be_mixed_are_computed_unchanged(columns: list[dict[str, Any]]) -> None:
    counted = Counted()
    found = compute_in_pieces(columns, counted)
    assert counted.shapes == [(2, 9), (2, 5)]
    assert [len(one) for one in found] == [2, 2]
