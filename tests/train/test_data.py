"""Samples are looked at before hours of training."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import GraphoptError
from graphopt.train.data import Data, Split, finite


def split(number: int = 5000) -> Split:
    return Split(torch.zeros(number, 2, 3), torch.zeros(number, dtype=torch.int64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["train", "test"])
def test_numbers_that_are_not_finite_are_counted_and_shown(part: str, bad: float) -> None:
    parts = {"train": split(), "test": split()}
    whole = Data(parts["train"], parts["test"])
    finite(whole)
    finite(Data(Split(torch.zeros(0, 3), torch.zeros(0)), Split(torch.zeros(0, 3), torch.zeros(0))))
    parts[part].inputs[4097, 1, 2] = bad  # behind the first piece
    parts[part].inputs[4999, 0, 0] = bad
    with pytest.raises(GraphoptError, match=rf"2 of 30000 in {part}\.inputs") as caught:
        finite(whole)
    assert (caught.value.where or "").startswith(f"{part}.inputs[4097, 1, 2] is {bad}")


def test_targets_of_whole_numbers_and_other_datasets_are_left_alone() -> None:
    class Own(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[float, float]:
            return math.nan, math.nan

    finite(Data(Own(), split(1)))  # type: ignore[arg-type]
    with pytest.raises(GraphoptError, match=r"1 of 2 in test\.targets"):
        finite(Data(split(1), Split(torch.zeros(2, 1), torch.tensor([0.0, math.nan]))))
