"""Rounding for the output's sake: between nearest rounding and the best there is, exactly that where it is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrate.gptq import gptq, loss, rescaled, round_to
from graphopt.calibrate.grid import GRIDS, Grid, grid, levels
from graphopt.calibrate.moments import SecondMoment

INT4 = GRIDS["int4"]


def problem(seed: int, rows: int, k: int, samples: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights ``[rows, k]``, a Hessian of correlated inputs, and min-max scales of int4 for each row."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples or 3 * k + 5, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)
    w = rng.normal(size=(rows, k))
    return w, x.T @ x / len(x), np.abs(w).max(axis=1) / 7


def cost(w: np.ndarray, h: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: int = 0) -> np.ndarray:
    return loss(w - scale[:, None] * (codes - zero), h)


def best(w: np.ndarray, h: np.ndarray, scale: float, kind: Grid) -> float:
    """The smallest loss of one row over all codes there are."""
    every = np.array(list(itertools.product(kind.numbers(), repeat=w.size)))
    return float(loss(w - scale * every, h).min())


@pytest.mark.parametrize("k", [1, 2, 7, 131, 150])
@pytest.mark.parametrize("order", ["activation", "index"])
@pytest.mark.parametrize("refine", [False, True])
def test_no_row_is_worse_than_nearest(k: int, order: str, refine: bool) -> None:
    w, h, scale = problem(k, 5, k)
    codes = gptq(w, h, scale, 0, INT4, order=order, refine=refine)  # type: ignore[arg-type]
    nearest = round_to(w, scale[:, None], np.zeros((5, 1)), INT4)
    assert codes.dtype == np.int64 and codes.min() >= -8 and codes.max() <= 7
    assert (cost(w, h, codes, scale) <= cost(w, h, nearest, scale)).all()
    if k > 2:
        assert cost(w, h, codes, scale).sum() < cost(w, h, nearest, scale).sum()


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["ternary", "int2", "levels5"]))
def test_between_nearest_and_the_best_of_all(seed: int, k: int, name: str) -> None:
    kind = grid(name, signed=True)
    w, h, _ = problem(seed, 3, k)
    scale = np.abs(w).max(axis=1) / max(kind.high, 1)
    found = cost(w, h, gptq(w, h, scale, 0, kind, damping=0), scale)
    nearest = cost(w, h, round_to(w, scale[:, None], np.zeros((3, 1)), kind), scale)
    for row in range(3):
        least = best(w[row], h, float(scale[row]), kind)
        assert least * (1 - 1e-9) - 1e-12 <= found[row] <= nearest[row]


def test_two_inputs_are_solved_exactly_most_of_the_time() -> None:
    # Not a promise of the method, but what tells it from one that does nothing.
    found = 0
    for seed in range(50):
        w, h, scale = problem(seed, 1, 2)
        reached = cost(w, h, gptq(w, h, scale, 0, GRIDS["int3"], damping=0), scale)[0]
        found += reached <= best(w[0], h, float(scale[0]), GRIDS["int3"]) * (1 + 1e-9)
    assert found >= 40


@given(st.integers(0, 10**6), st.integers(1, 13), st.floats(0, 1))
def test_a_diagonal_hessian_leaves_nearest_rounding(seed: int, k: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    w, h = rng.normal(size=(3, k)), np.diag(rng.uniform(0.1, 5, k))
    scale = np.full(3, 0.2)
    codes = gptq(w, h, scale, 1, INT4, damping=damping)
    assert np.array_equal(codes, round_to(w, scale[:, None], np.ones((3, 1)), INT4))


def test_near_miss_a_hessian_that_is_not_diagonal_does_not() -> None:
    w, h, scale = problem(3, 3, 7)
    assert not np.array_equal(gptq(w, h, scale, 0, INT4), round_to(w, scale[:, None], np.zeros((3, 1)), INT4))


def test_inputs_that_are_always_zero_are_rounded_to_nearest() -> None:
    w, h, scale = problem(4, 5, 11)
    dead = [0, 3, 10]
    h[dead] = h[:, dead] = 0
    codes = gptq(w, h, scale, 0, INT4)
    assert np.array_equal(codes[:, dead], round_to(w, scale[:, None], np.zeros((5, 1)), INT4)[:, dead])


@pytest.mark.parametrize("damping", [0, 0.01])
def test_a_hessian_without_a_factor_gets_one(damping: float) -> None:
    w, h, scale = problem(5, 4, 17, samples=3)  # rank 3
    nearest = round_to(w, scale[:, None], np.zeros((4, 1)), INT4)
    codes = gptq(w, h, scale, 0, INT4, damping=damping)
    assert (cost(w, h, codes, scale) <= cost(w, h, nearest, scale)).all()
    assert np.array_equal(gptq(w, np.zeros_like(h), scale, 0, INT4, damping=damping), nearest)


def test_empty() -> None:
    for rows, k in ((0, 3), (3, 0), (0, 0)):
        assert gptq(np.zeros((rows, k)), np.zeros((k, k)), np.ones(rows), 0, INT4).shape == (rows, k)


def test_one_input() -> None:
    w = np.array([[0.31], [-5.0], [0.1]])
    assert gptq(w, np.array([[2.0]]), 0.2, 0, INT4).tolist() == [[2], [-8], [0]]


@given(st.integers(0, 10**6), st.integers(2, 12), st.booleans())
def test_groups_are_solved_as_if_alone(seed: int, k: int, refine: bool) -> None:
    parts = [problem(seed + i, 3, k) for i in range(3)]
    w, h, s = (np.stack([part[i] for part in parts]) for i in range(3))
    together = gptq(w, h, s, 0, INT4, refine=refine)
    for codes, part in zip(together, parts, strict=True):
        assert np.array_equal(codes, gptq(*part, 0, INT4, refine=refine))


@given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_the_unit_of_the_hessian_does_not_matter(seed: int, unit: float) -> None:
    w, h, scale = problem(seed, 3, 7)
    unit = 2.0 ** np.round(np.log2(unit))  # so that nothing is rounded
    assert np.array_equal(gptq(w, h, scale, 0, INT4), gptq(w, h * unit, scale, 0, INT4))


def test_rows_do_not_depend_on_each_other() -> None:
    w, h, scale = problem(9, 6, 40)
    whole = gptq(w, h, scale, 0, INT4)
    assert np.array_equal(whole[2:3], gptq(w[2:3], h, scale[2:3], 0, INT4))


@pytest.mark.parametrize("k", [7, 8, 13])
def test_blocks_have_their_own_scales(k: int) -> None:
    w, h, _ = problem(k, 4, k)
    edges = range(0, k, 4)
    scale = np.stack([np.abs(w[:, start : start + 4]).max(axis=1) / 7 for start in edges], axis=1)
    codes = gptq(w, h, scale, 0, INT4, block=4)
    spread = np.repeat(scale, 4, axis=1)[:, :k]
    nearest = round_to(w, spread, np.zeros(1), INT4)
    assert (loss(w - spread * codes, h) <= loss(w - spread * nearest, h)).all()
    assert loss(w - spread * codes, h).sum() < loss(w - spread * nearest, h).sum()
    same = np.repeat(scale[:, :1], scale.shape[1], axis=1)
    assert np.array_equal(gptq(w, h, same, 0, INT4, block=4), gptq(w, h, scale[:, 0], 0, INT4))


@pytest.mark.parametrize("kind", [GRIDS["uint8"], GRIDS["uint4"], levels(23, signed=False), GRIDS["float8e4m3fn"]])
def test_every_kind_of_grid(kind: Grid) -> None:
    w, h, _ = problem(11, 3, 9)
    zero = 0 if kind.floating else int(kind.high // 3)
    scale = np.abs(w).max(axis=1) * 1.5 / (kind.high - zero)
    codes = gptq(w, h, scale, zero, kind)
    assert np.isin(codes, kind.numbers()).all()
    nearest = round_to(w, scale[:, None], np.array(zero), kind)
    assert (cost(w, h, codes, scale, zero) <= cost(w, h, nearest, scale, zero)).all()


def test_what_does_not_fit_is_an_error() -> None:
    w, h, scale = problem(0, 2, 3)
    with pytest.raises(ValueError, match="do not go with"):
        gptq(w, h[:2, :2], scale, 0, INT4)
    with pytest.raises(ValueError, match="not finite"):
        gptq(w, h * np.nan, scale, 0, INT4)
    with pytest.raises(ValueError, match="a scale is zero"):
        gptq(w, h, 0 * scale, 0, INT4)


def test_the_best_scale_for_the_codes() -> None:
    w, h, scale = problem(21, 4, 9)
    codes = gptq(w, h, scale, 0, INT4)
    found = rescaled(w, h, codes, scale, np.zeros(4))
    for factor in (0.999, 1.001):
        assert (cost(w, h, codes, found) < cost(w, h, codes, found * factor)).all()
    assert (cost(w, h, codes, found) <= cost(w, h, codes, scale)).all()


def test_a_scale_without_codes_stays() -> None:
    w, h, scale = problem(22, 2, 5)
    assert np.array_equal(rescaled(w, h, np.zeros((2, 5)), scale, np.zeros(2)), scale.astype(np.float32))
    assert np.array_equal(rescaled(-w, h, round_to(w, scale[:, None], np.zeros(1), INT4), scale, np.zeros(2)),
                          scale.astype(np.float32))  # fmt: skip


# --- second moments -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 1000), st.sampled_from([None, 255]))
def test_moments_of_integers_are_exact_in_any_order(sizes: list[int], seed: int, largest: int | None) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(-255, 256, (2, size, 5)) for size in sizes]
    found = SecondMoment.zeros(5, 2)
    for part in reversed(parts):
        found += SecondMoment.of(part.astype(np.float32), largest=largest)
    whole = np.concatenate([np.zeros((2, 0, 5), np.int64), *parts], axis=1)
    assert found.count == sum(sizes)
    assert np.array_equal(found.total, whole.sum(axis=1))
    assert np.array_equal(found.matrix, whole.transpose(0, 2, 1) @ whole)


def test_moments_of_many_large_integers_are_exact() -> None:
    rows = np.full((1, 5000, 3), 255)
    assert (SecondMoment.of(rows, largest=255).matrix == 5000 * 255**2).all()
    rows = np.full((1, 5000, 3), 65535)
    assert (SecondMoment.of(rows, largest=65535).matrix == 5000 * 65535**2).all()


def test_covariance_is_that_of_numpy() -> None:
    rows = np.random.default_rng(0).normal(size=(101, 4)) + 3
    np.testing.assert_allclose(SecondMoment.of(rows).covariance()[0], np.cov(rows.T, bias=True), rtol=1e-10, atol=1e-12)
