"""Units: their scores, what of them is gone, and their masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphopt.train.prune.groups import Group, Slice
from graphopt.train.prune.structures import Blocks, Runs, Single, Together


def numbered(*shape: int) -> torch.Tensor:
    """0, 1, 2, ... in this shape."""
    return torch.arange(float(np.prod(shape))).reshape(shape)


def picked(units: int, *chosen: int) -> torch.Tensor:
    """These units of so many."""
    mask = torch.zeros(units, dtype=torch.bool)
    mask[list(chosen)] = True
    return mask


def test_single_weights() -> None:
    pool = Single("w", torch.Size((2, 3)))
    assert pool.units == 6
    assert pool.importance({"w": numbered(2, 3)}).tolist() == [0, 1, 2, 3, 4, 5]
    mask = pool.masks(picked(6, 4))["w"]
    assert mask.nonzero().tolist() == [[1, 1]]
    assert pool.gone({"w": mask}).nonzero().tolist() == [[4]]
    assert not pool.gone({}).any() and not pool.gone({"v": mask}).any()


def test_blocks_with_smaller_ones_at_the_edges() -> None:
    pool = Blocks("w", torch.Size((5, 3)), rows=2, columns=2)
    assert pool.units == 6
    worth = pool.importance({"w": numbered(5, 3)})
    assert worth.tolist() == [0 + 1 + 3 + 4, 2 + 5, 6 + 7 + 9 + 10, 8 + 11, 12 + 13, 14]
    mask = pool.masks(picked(6, 1, 4))["w"]
    assert mask.nonzero().tolist() == [[0, 2], [1, 2], [4, 0], [4, 1]]
    assert pool.gone({"w": mask}).tolist() == [False, True, False, False, True, False]
    mask[4, 0] = False
    assert pool.gone({"w": mask}).tolist() == [False, True, False, False, False, False], "half a block is not gone"


def test_blocks_of_a_convolution_have_all_taps() -> None:
    pool = Blocks("w", torch.Size((4, 6, 3, 3)), rows=2, columns=3)
    assert pool.units == 4
    scores = torch.rand(4, 6, 3, 3)
    assert pool.importance({"w": scores})[1].item() == pytest.approx(scores[:2, 3:].sum().item())
    mask = pool.masks(picked(4, 1))["w"]
    assert mask[:2, 3:].all() and mask.sum() == 2 * 3 * 9
    turned = Blocks("w", torch.Size((6, 4, 3, 3)), rows=2, columns=3, transposed=True)  # inputs first
    assert turned.units == 4
    assert turned.importance({"w": scores.transpose(0, 1)})[2].item() == pytest.approx(scores[:2, 3:].sum().item())


def test_a_block_as_large_as_the_weight_and_larger() -> None:
    for side in (3, 100):
        assert Blocks("w", torch.Size((3, 3)), side, side).units == 1
    assert Blocks("w", torch.Size((3, 3)), 1, 1).units == 9


def group() -> tuple[Group, dict[str, torch.Size]]:
    """Three units of two rows each; a bias; a reader of which each unit has two columns; a norm in another order."""
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    shapes = {
        "a": torch.Size((6, 2)),
        "bias": torch.Size((6,)),
        "norm": torch.Size((6,)),
        "b": torch.Size((2, 6, 3)),
        "tail": torch.Size((2, 4)),
    }
    writes = (Slice("a", 0, pairs), Slice("bias", 0, pairs), Slice("norm", 0, pairs[:, ::-1].copy()))
    reads = (Slice("b", 1, pairs), Slice("tail", 1, np.array([[0], [1], [3]])))
    return Group("a", "head", 3, writes, reads), shapes


def test_the_score_of_a_unit_is_that_of_the_weights_that_write_it() -> None:
    pool = Together(*group())
    scores = {"a": numbered(6, 2), "b": torch.full((2, 6, 3), 1e6), "bias": torch.full((6,), 1e6)}
    assert pool.importance(scores).tolist() == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11]


def test_a_unit_goes_with_all_of_its_slices() -> None:
    pool = Together(*group())
    masks = pool.masks(picked(3, 1))
    assert masks["a"].nonzero()[:, 0].unique().tolist() == [2, 3] and masks["a"].sum() == 4
    assert masks["bias"].nonzero().flatten().tolist() == [2, 3]
    assert masks["norm"].nonzero().flatten().tolist() == [2, 3]
    assert masks["b"][:, 2:4].all() and masks["b"].sum() == 2 * 2 * 3
    assert masks["tail"].nonzero().tolist() == [[0, 1], [1, 1]]
    assert pool.gone(masks).tolist() == [False, True, False]
    masks["norm"][2] = False
    assert not pool.gone(masks).any(), "a norm that still adds something"
    assert not any(mask.any() for mask in pool.masks(picked(3)).values())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 5)])
@pytest.mark.parametrize(("shape", "axis"), [((3, 20), 1), ((2, 20, 3, 1), 1), ((20, 3, 2), 0)])
def test_exactly_n_of_m_stay(n: int, m: int, shape: tuple[int, ...], axis: int) -> None:
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    mask = Runs("w", torch.Size(shape), n, m, axis).select({"w": scores}, {}, 1.0)["w"]
    runs = mask.movedim(axis, -1).unflatten(-1, (-1, m))
    assert ((~runs).sum(-1) == n).all()
    worth = scores.movedim(axis, -1).unflatten(-1, (-1, m))
    assert (worth.masked_fill(~runs, 0).amax(-1) < worth.masked_fill(runs, 2).amin(-1)).all(), "the smallest went"


def test_what_m_does_not_divide_stays() -> None:
    mask = Runs("w", torch.Size((2, 7)), 2, 4).select({"w": torch.zeros(2, 7)}, {}, 1.0)["w"]
    assert mask.tolist() == [[True, True, False, False, False, False, False]] * 2, "of equal ones the first"
    assert not Runs("w", torch.Size((2, 3)), 2, 4).select({"w": torch.zeros(2, 3)}, {}, 1.0)["w"].any()


def test_runs_on_the_way_keep_what_is_held() -> None:
    runs = Runs("w", torch.Size((5, 8)), 1, 4)
    held: dict[str, torch.Tensor] = {}
    for round_, share in enumerate((0.4, 0.7, 1.0), 1):
        scores = {"w": torch.rand(5, 8, generator=torch.Generator().manual_seed(round_))}  # they change their mind
        mask = runs.select(scores, held, share)
        assert (mask["w"].unflatten(1, (2, 4)).sum(2) == round_).all()
        assert "w" not in held or (mask["w"] >= held["w"]).all()
        held = mask
    assert not runs.select({"w": torch.rand(5, 8)}, {}, 0.0)["w"].any()
