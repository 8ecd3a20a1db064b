"""The least important go first: in each layer, or in all together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.train.prune.selection import select
from graphopt.train.prune.structures import Masks, Single


def chosen(
    scores: dict[str, list[float]], amount: float, scope: str, held: Masks | None = None, normalise: bool = False
) -> dict[str, list[int]]:
    """Which places of each vector go."""
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    pools = [Single(name, values.shape) for name, values in tensors.items()]
    masks = select(pools, tensors, held or {}, amount, scope, normalise=normalise)  # type: ignore[arg-type]
    return {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}


def test_the_smaller_score_goes_first() -> None:
    assert chosen({"a": [3.0, 1.0, 2.0, 0.5]}, 0.5, "layer") == {"a": [1, 3]}
    assert chosen({"a": [3.0, 1.0, 0.9, 0.5]}, 0.5, "layer") == {"a": [2, 3]}


def test_of_equal_scores_the_first_goes() -> None:
    assert chosen({"a": [1.0] * 5}, 0.4, "layer") == {"a": [0, 1]}
    assert chosen({"a": [1.0] * 3, "b": [1.0] * 3}, 0.5, "global") == {"a": [0, 1], "b": [0]}


def test_each_layer_or_all_together() -> None:
    scores = {"a": [1.0, 2.0, 3.0, 4.0], "b": [10.0, 20.0, 30.0, 40.0]}
    assert chosen(scores, 0.5, "layer") == {"a": [0, 1], "b": [0, 1]}
    assert chosen(scores, 0.25, "global") == {"a": [0, 1], "b": []}
    assert chosen(scores, 0.25, "global", normalise=True) == {"a": [0], "b": [0]}


def test_no_layer_is_emptied() -> None:
    assert chosen({"a": [0.0, 0.0], "b": [1.0] * 6}, 0.5, "global") == {"a": [0], "b": [0, 1, 2]}
    assert chosen({"a": [0.0, 0.0], "b": [1.0, 1.0]}, 0.99, "global") == {"a": [0], "b": [0]}
    assert chosen({"a": [1.0]}, 0.99, "layer") == {"a": []}
    assert chosen({"a": [3.0, 1.0, 2.0]}, 0.99, "layer") == {"a": [1, 2]}, "the most important stays"


def test_nothing_is_to_go() -> None:
    assert chosen({"a": [1.0, 2.0]}, 0.0, "layer") == {"a": []}
    assert chosen({"a": [1.0, 2.0, 3.0]}, 0.3, "layer") == {"a": []}, "a third of a unit is no unit"
    assert chosen({"a": []}, 0.5, "layer") == {"a": []}
    assert chosen({"a": [], "b": [1.0, 2.0]}, 0.5, "global") == {"a": [], "b": [0]}
    assert select([], {}, {}, 0.5, "global") == {}


def test_a_tenth_of_ten_is_one() -> None:
    """0.1 and the like are not exact in binary; the share of the units is."""
    for tenths in range(10):
        assert len(chosen({"a": [float(i) for i in range(10)]}, 0.1 * tenths, "layer")["a"]) == tenths


def test_what_is_gone_stays_gone_and_counts() -> None:
    held = {"a": torch.tensor([False, False, True, False])}
    assert chosen({"a": [1.0, 2.0, 9.0, 4.0]}, 0.5, "layer", held) == {"a": [0, 2]}
    assert chosen({"a": [1.0, 2.0, 9.0, 4.0]}, 0.0, "layer", held) == {"a": [2]}
    assert chosen({"a": [1.0, 2.0, 9.0, 4.0]}, 0.0, "global", held) == {"a": [2]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(bad: float) -> None:
    with pytest.raises(GraphoptError, match="not finite"):
        chosen({"a": [1.0, bad]}, 0.5, "layer")


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=1, max_size=4),
    st.lists(st.floats(0, 0.99), min_size=2, max_size=4),
    st.sampled_from(["layer", "global"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_rounds_of_other_scores(
    layers: list[list[int]], amounts: list[float], scope: str, norm: bool, seed: int
) -> None:
    """Every round has the units of the last one, the number asked for where no layer is emptied, and the least."""
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.tensor(values, dtype=torch.float32) for i, values in enumerate(layers)}
    pools = [Single(name, values.shape) for name, values in scores.items()]
    total, most = sum(map(len, layers)), sum(max(len(layer) - 1, 0) for layer in layers)
    held: Masks = {}
    for amount in sorted(amounts):
        masks = select(pools, scores, held, amount, scope, normalise=norm)  # type: ignore[arg-type]
        for name, mask in masks.items():
            fresh = mask & ~held.get(name, torch.zeros_like(mask))
            assert not held or (mask >= held[name]).all()
            assert mask.numel() == 0 or not mask.all()
            if fresh.any():
                assert scores[name][fresh].max() <= scores[name][~mask].min()
        gone = sum(int(mask.sum()) for mask in masks.values())
        if scope == "global":
            assert gone == min(int(amount * total + 1e-9), most)
        held = masks
        scores = {name: torch.rand(values.shape, generator=generator) for name, values in scores.items()}
