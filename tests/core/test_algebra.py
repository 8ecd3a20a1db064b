"""The algebra under the passes: classes of positions, axes of a reshape, constants that are read once, lazy weights."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import dims
from graphopt.facts.constants import SMALL, Constants
from graphopt.facts.ops.shaping import pair_axes
from graphopt.plan.classes import _Classes
from graphopt.rewrite import weights

PRIME = 257


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_roots_are_the_connected_components(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = case
    classes = _Classes()
    ids = classes.fresh(count)
    for a, b in pairs:
        classes.equal(ids[[a]], ids[[b]])
    found = classes.roots()
    groups = [{i} for i in range(count)]
    for a, b in pairs:
        joined = next(g for g in groups if a in g) | next(g for g in groups if b in g)
        groups = [g for g in groups if not g & joined] + [joined]
    for group in groups:
        assert {int(found[i]) for i in group} == {min(group)}


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(SIZES, st.data())
def test_paired_axes_hold_the_same_elements_in_the_same_order(sizes: list[int], data: st.DataObject) -> None:
    """Every run of a pairing is a reshape of its own: the index along it is the same on both sides."""
    cut = sorted(data.draw(st.sets(st.integers(1, max(1, len(sizes) - 1)))))
    out = [math.prod(sizes[a:b]) for a, b in zip([0, *cut], [*cut, len(sizes)], strict=True) if sizes[a:b]]
    array = np.arange(math.prod(sizes)).reshape(sizes)
    for ins, outs in pair_axes(tuple(sizes), tuple(out)):
        before = np.indices(sizes)
        along = (
            np.ravel_multi_index([before[a] for a in ins], [sizes[a] for a in ins]) if ins else np.zeros(array.shape)
        )
        after = np.indices(out)
        there = np.ravel_multi_index([after[a] for a in outs], [out[a] for a in outs]) if outs else np.zeros(out)
        assert np.array_equal(along.reshape(out), there)


def test_unknown_sizes_pair_with_nothing_and_symbols_with_themselves() -> None:
    assert pair_axes(("N", 3, 4), ("N", 12)) == [((0,), (0,)), ((1, 2), (1,))]
    assert pair_axes((None, 3, 4), (None, 12)) == [((1, 2), (1,))]
    assert pair_axes(("N", 3), ("M", 3)) == [((1,), (1,))]
    assert pair_axes(("N", 4), (2, "N", 2)) == [((0, 1), (0, 1, 2))]
    assert pair_axes((0, 3), (3, 0)) == []
    assert not dims.provably_equal(None, None)


def constant(array: np.ndarray) -> ir.Value:
    """An initializer's value."""
    return ir.Value(name="w", shape=ir.Shape(array.shape), const_value=ir.Tensor(array))


@pytest.mark.parametrize("columns", [0, 1, PRIME, SMALL])
def test_patterns_of_small_and_packed_weights_agree(columns: int) -> None:
    rng = np.random.default_rng(columns)
    array = rng.normal(size=(3, columns, 2)).astype(np.float32) * (rng.random((3, columns, 1)) < 0.5)
    array[0] = 0
    if columns > 1:
        array[1, 1, 1] = np.nan  # not a number is not zero
    value = constant(array.astype(np.float32))
    found = Constants().nonzero(value, 0, 1)
    assert found is not None and np.array_equal(found, (array != 0).any(axis=2))
    turned = Constants().nonzero(value, 1, 0)
    assert turned is not None and np.array_equal(turned, found.T)


def test_uniform_slices_and_single_values() -> None:
    array = np.zeros((2, 3, 2), np.float32)
    array[:, 1] = 5
    array[1, 2, 0] = 1
    mask, fill = Constants().uniform(constant(array), 1) or (None, None)
    assert mask is not None and mask.tolist() == [True, True, False] and fill is not None and fill[1] == 5
    assert Constants().single(constant(array)) is None
    assert Constants().single(constant(np.full((2, 1), 3.0))) == 3
    assert Constants().single(constant(np.full((0, 1), 3.0))) is None
    nan = np.full((2, 2), np.nan, np.float32)
    mask, _ = Constants().uniform(constant(nan), 0) or (None, None)
    assert mask is not None and not mask.any()


@pytest.mark.parametrize("rows", [1, PRIME, SMALL])
def test_cut_weights_are_lazy_when_they_are_large(rows: int) -> None:
    array = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    kept = {0: np.arange(0, rows, 2), 1: np.array([2, 0])}
    tensor = weights.take(ir.Tensor(array), kept)
    assert isinstance(tensor, ir.LazyTensor) == (kept[0].size * 2 > SMALL)
    assert np.array_equal(tensor.numpy(), array[::2][:, [2, 0]])
    assert tensor.shape.numpy() == (kept[0].size, 2)
    cut = weights.take(ir.Tensor(array), {1: np.array([1])}).numpy()
    array[:] = 0
    assert cut.any()  # a copy: nothing keeps the source alive, nothing changes with it
