"""The CUDA kernels of Gather, Scatter, ScatterAdd and GatherGemmScatter on a GPU that is played."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime_ops.gather.reference import gather
from graphopt.runtime_ops.gather_gemm_scatter.reference import gather_gemm_scatter
from graphopt.runtime_ops.scatter_add.reference import scatter_add
from tests.runtime_ops.emulator import moves
from tests.runtime_ops.moving import Drawn, dtype, numbers
from tests.runtime_ops.test_gather_gemm_scatter import blocks_of

SIZES = st.sampled_from((1, 2, 3, 4, 5, 8, 16, 24, 31, 32))
SHAPES = st.lists(SIZES, min_size=1, max_size=3)
DEPTHS, WIDTHS = st.sampled_from((0, 1, 5, 32, 33)), st.sampled_from((1, 7, 64, 65))
KINDS = st.sampled_from(tuple(moves.NUMBERS))


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """The kernels have to be compiled for the processor."""
    if moves.library("gather") is None:
        pytest.skip("there is no g++ here")


def _case(shape: list[int], axis: int, seed: int) -> Drawn:
    rng = np.random.default_rng(seed)
    axis %= len(shape)
    indices = rng.permutation(shape[axis])[: rng.integers(0, shape[axis] + 1)]
    return Drawn(tuple(shape), axis, indices.astype(np.int64), rng)


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    axis=st.integers(0, 2),
    kind=st.sampled_from((*moves.NUMBERS, "int64")),
    many=st.booleans(),
    wide=st.booleans(),
    aligned=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gather(shape: list[int], axis: int, kind: str, many: bool, wide: bool, aligned: bool, seed: int) -> None:
    case = _case(shape, axis, seed)
    count = int(case.rng.choice([1, 3, 8, 16, 40]))
    indices = case.rng.integers(-1, case.size, count)
    data, fill = numbers(case.rng, case.shape, kind), numbers(case.rng, count if many else 1, kind)
    shift = 0 if aligned else data.itemsize
    (expected,) = gather(data, indices, fill, axis=case.axis)
    _same(moves.spread(data, indices, fill, case.axis, wide=wide, shift=shift), expected)


def test_a_computed_index_beyond_the_data_reads_nothing() -> None:
    found = moves.spread(np.ones((3, 4), np.float32), np.array([0, 3, 2**40]), np.full(1, 7, np.float32), 0, wide=True)
    np.testing.assert_array_equal(found[:, 0], [1, 7, 7])


@settings(max_examples=70, deadline=None)
@given(
    shape=SHAPES,
    axis=st.integers(0, 2),
    kind=KINDS,
    fill=st.sampled_from(("nothing", "one", "each")),
    floor=st.booleans(),
    in_place=st.booleans(),
    aligned=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_scatter_add(
    shape: list[int], axis: int, kind: str, fill: str, floor: bool, in_place: bool, aligned: bool, seed: int
) -> None:
    case = _case(shape, axis, seed)
    data, updates = numbers(case.rng, case.shape, kind), numbers(case.rng, case.narrowed(), kind)
    fills = np.full(1, -0.0).astype(dtype(kind))
    if fill != "nothing":
        fills = numbers(case.rng, case.size if fill == "each" else 1, kind)
    least = np.array(2, dtype(kind)) if floor else None
    (expected,) = scatter_add(data, case.indices, updates, fills, least, axis=case.axis)
    sparse = in_place and fill == "nothing" and not floor
    shift = 0 if aligned else data.itemsize
    found = moves.scatter_add(
        data, case.indices, updates, fills, least, case.axis, in_place=in_place, sparse=sparse, shift=shift
    )
    _same(found, expected)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.sampled_from((0, 1, 5, 32, 33)), st.sampled_from((1, 7, 64, 65))), min_size=1, max_size=3
    ),
    share=st.sampled_from(("neither", "rows", "columns")),
    count=st.sampled_from((1, 2, 63, 64, 65)),
    kind=st.sampled_from(("float32", "float16", "bfloat16")),
    bias=st.booleans(),
    floor=st.booleans(),
    ordered=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_product(
    sizes: list[tuple[int, int]],
    share: str,
    count: int,
    kind: str,
    bias: bool,
    floor: bool,
    ordered: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    blocks = blocks_of(sizes, share, rng, ordered=ordered)
    number = dtype(kind)
    y = rng.normal(size=(blocks.n,) if bias else (count, blocks.n)).astype(number)
    x, weights = rng.normal(size=(count, blocks.k)).astype(number), blocks.weights.astype(number)
    least = np.zeros((), number) if floor else None
    together = [[block] for block in range(len(sizes))] if share == "rows" else [list(range(len(sizes)))]
    (expected,) = gather_gemm_scatter(y, x, blocks.columns, blocks.rows, weights, least)
    found = moves.product(y, x, blocks.columns, blocks.rows, weights, least, sets=together)
    # Sums are rounded to the type once a set; in float32 each addition is off by 2^-24 of what is there.
    off = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}[kind] * 8
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=off, atol=off)
