"""Rounding of weights that minimises ``(w - w')^T H (w - w')``, the squared error of a layer's output, row by row.

``H = E[x x^T]`` of the layer's input. Rounding to nearest is the best for a diagonal H only; where inputs are
correlated, the error of one weight is made good by the others. With ``H = L L^T``, L lower triangular, the form is
``sum over i of (L_ii e_i + sum over j > i of L_ji e_j)^2``: going down from the last weight, each is rounded so that
its own term is as small as it can be (Frantar et al. 2022, "GPTQ", arXiv 2210.17323, in the equivalent form of Babai's
nearest plane, which needs no inverse). Then single weights are moved to other levels as long as that helps, and a row
that is no better than when rounded to nearest is rounded to nearest.

The same input gives the same codes; H enters only through sums (``moments.py``), so that it does not depend on batches,
and not on their order either where those sums are exact.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from graphopt.calibrate.grid import Grid

Order = Literal["activation", "index"]

_TOGETHER = 128
"""Columns whose effect on the rest is added up first, so that it is one matrix product."""

_SWEEPS = 8
"""How often all weights are looked at once more, at most; most rows settle in three."""


def gptq(
    weights: np.ndarray,
    hessian: np.ndarray,
    scale: np.ndarray | float,
    zero: np.ndarray | int,
    grid: Grid,
    *,
    block: int = 0,
    damping: float = 0.01,
    order: Order = "activation",
    refine: bool = True,
) -> np.ndarray:
    """Return codes q with ``(w - S (q - O))^T H (w - S (q - O))`` small in each row, and never above nearest rounding.

    Args:
        weights: ``[rows, K]``, or ``[groups, rows, K]`` with a Hessian for each group.
        hessian: ``[K, K]`` or ``[groups, K, K]``: symmetric, positive semidefinite, in any unit.
        scale: A number, ``[..., rows]``, or with ``block`` ``[..., rows, ceil(K / block)]``; not zero
            (below zero, the levels lie the other way round).
        zero: Zero points, of a shape like that of the scale.
        grid: The type.
        block: So many neighbouring columns share a scale; 0: the whole row does.
        damping: This times the mean of the diagonal is added to the diagonal while codes are looked for. More trusts
            the data less. It is raised by itself where the Hessian has no factor.
        order: Columns are rounded by falling diagonal (the inputs that matter most first), or as they come.
        refine: Move single weights while that helps.

    Returns:
        Codes in the shape of the weights: int64, float64 for float8.

    Raises:
        ValueError: Shapes do not fit, or numbers are not finite.
    """
    single = np.ndim(weights) == 2
    w, h = _grouped(weights), _grouped(hessian)
    if h.shape != (w.shape[0], w.shape[2], w.shape[2]):
        raise ValueError(f"weights {np.shape(weights)} do not go with a Hessian {np.shape(hessian)}")
    if not (np.isfinite(w).all() and np.isfinite(h).all()):
        raise ValueError("weights or Hessian are not finite")
    s, o = (_columns(parameter, w.shape, block) for parameter in (scale, zero))
    if not (np.isfinite(s).all() and (s != 0).all()):
        raise ValueError("a scale is zero or not finite")
    nearest = round_to(w, s, o, grid)
    if not w.size:
        return nearest[0] if single else nearest
    damped, factor, places = _factored(h, damping, order)
    ordered = [_permuted(x, places) for x in (w, s, o)]
    found = _unpermuted(_babai(ordered[0], ordered[1], ordered[2], factor, grid), places)
    if refine:
        found = _descend(w, damped, found, s, o, grid)
    better = loss(w - s * (found - o), h) < loss(w - s * (nearest - o), h)
    codes = np.where(better[:, :, None], found, nearest)
    return codes[0] if single else codes


def round_to(w: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the codes of the nearest numbers, ``clip(round_half_even(w / S) + O)``; all arrays broadcast."""
    if not grid.floating:
        return np.clip(np.rint(w / scale) + zero, grid.low, grid.high).astype(np.int64)
    numbers = grid.numbers()
    scaled = np.clip(w / scale, grid.low, grid.high)
    above = np.clip(np.searchsorted(numbers, scaled), 1, numbers.size - 1)
    return np.where(numbers[above] - scaled < scaled - numbers[above - 1], numbers[above], numbers[above - 1])


def loss(error: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return ``e^T H e`` of each row: ``[..., rows]`` from ``[..., rows, K]`` and ``[..., K, K]``."""
    return np.einsum("...k,...k->...", error @ hessian, error)


def rescaled(
    weights: np.ndarray, hessian: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """Return ``argmin over S of (w - S c)^T H (w - S c) = (c^T H w) / (c^T H c)`` with ``c = q - O``, for each row.

    ``[..., rows]`` float32; the scale as it was where the codes are all zero, or the best would not be above zero.
    """
    c = codes - np.asarray(zero)[..., None]
    ch = c @ hessian
    power, match = np.einsum("...k,...k->...", ch, c), np.einsum("...k,...k->...", ch, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(power > 0, match / power, 0).astype(np.float32)
    return np.where(np.isfinite(best) & (best > 0), best, scale).astype(np.float32)


def _grouped(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, np.float64)
    return array[None] if array.ndim == 2 else array


def _columns(parameter: np.ndarray | float, shape: tuple[int, ...], block: int) -> np.ndarray:
    """Return a scale or zero point for every column: ``[groups, rows, 1 or K]`` float64."""
    p = np.asarray(parameter, np.float64)
    groups, rows, k = shape
    if not block:
        return np.broadcast_to(p[..., None] if p.ndim else p, (groups, rows, 1))
    return np.repeat(np.broadcast_to(p, (groups, rows, -(-k // block))), block, axis=2)[:, :, :k]


def _factored(h: np.ndarray, damping: float, order: Order) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the damped Hessian, its factor L in the order of rounding (the first to be rounded last), and that order.

    Inputs that are always zero get a diagonal from the damping alone: their weights are rounded to nearest.
    """
    diagonal = np.einsum("gkk->gk", h)
    mean = diagonal.mean(axis=1)
    mean = np.where(mean > 0, mean, 1.0)
    places = (
        np.argsort(diagonal, axis=1, kind="stable")
        if order == "activation"
        else np.broadcast_to(np.arange(h.shape[1])[::-1], diagonal.shape)
    )
    eye = np.eye(h.shape[1])
    amount = damping
    while True:
        damped = h + (amount * mean)[:, None, None] * eye
        try:
            permuted = np.take_along_axis(_permuted(damped, places), places[:, :, None], axis=1)
            factor = np.linalg.cholesky(permuted)
            if np.isfinite(factor).all() and (np.einsum("gkk->gk", factor) > 0).all():
                return damped, factor, places
        except np.linalg.LinAlgError:
            pass
        amount = max(10 * amount, 1e-8)


def _permuted(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the columns of ``[groups, rows, K]`` in another order; single columns stay."""
    return x if x.shape[2] == 1 else np.take_along_axis(x, places[:, None, :], axis=2)


def _unpermuted(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, np.argsort(places, axis=1)[:, None, :], axis=2)


def _babai(w: np.ndarray, s: np.ndarray, o: np.ndarray, factor: np.ndarray, grid: Grid) -> np.ndarray:
    """Round from the last column to the first: ``w'_i`` nearest to ``w_i + (sum over j > i of L_ji e_j) / L_ii``."""
    w, s, o = (_upright(x) for x in (w, s, o))
    groups, k, rows = w.shape
    codes = np.empty(w.shape, np.float64 if grid.floating else np.int64)
    carried = np.zeros(w.shape)
    for stop in range(k, 0, -_TOGETHER):
        start = max(stop - _TOGETHER, 0)
        errors = np.empty((groups, stop - start, rows))
        for i in range(stop - 1, start - 1, -1):
            scale, zero = _at(s, i), _at(o, i)
            q = round_to(w[:, i] + carried[:, i] / factor[:, i, i, None], scale, zero, grid)
            codes[:, i] = q
            error = errors[:, i - start] = w[:, i] - scale * (q - zero)
            carried[:, start:i] += factor[:, i, start:i, None] * error[:, None]
        carried[:, :start] += factor[:, start:stop, :start].transpose(0, 2, 1) @ errors
    return codes.transpose(0, 2, 1)


def _descend(w: np.ndarray, h: np.ndarray, codes: np.ndarray, s: np.ndarray, o: np.ndarray, grid: Grid) -> np.ndarray:
    """Move one weight after the other to its best level, the others fixed, until none moves.

    The best of weight j is the level nearest to ``w'_j + (H e)_j / H_jj``; the form falls with every move.
    """
    w, s, o, codes = (_upright(x) for x in (w, s, o, codes))
    k = w.shape[1]
    diagonal = np.einsum("gkk->gk", h)[:, :, None]
    pull = h @ (w - s * (codes - o))  # H e

    def moves(at: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the best codes of some columns by themselves, and by how much their numbers move; 0: they stay."""
        scale, zero = (x if x.shape[1] == 1 else x[:, at] for x in (s, o))
        old = scale * (codes[:, at] - zero)
        target = old + pull[:, at] / diagonal[:, at]
        q = round_to(target, scale, zero, grid)
        new = scale * (q - zero)
        return q, np.where(np.abs(old - target) - np.abs(new - target) > 1e-9 * np.abs(scale), new - old, 0)

    for _ in range(_SWEEPS):
        moved = False
        for start in range(0, k, _TOGETHER):
            block = slice(start, min(start + _TOGETHER, k))
            _, first = moves(block)
            if not first.any():
                continue
            moved = True
            steps = np.zeros(first.shape)
            for i in np.flatnonzero(first.any(axis=(0, 2))):
                j = start + int(i)
                q, step = moves(slice(j, j + 1))
                codes[:, j] = np.where(step[:, 0] != 0, q[:, 0], codes[:, j])
                steps[:, i] = step[:, 0]
                pull[:, block] -= h[:, block, j, None] * step
            pull[:, :start] -= h[:, :start, block] @ steps
            pull[:, block.stop :] -= h[:, block.stop :, block] @ steps
        if not moved:
            break
    return codes.transpose(0, 2, 1)


def _upright(x: np.ndarray) -> np.ndarray:
    """Return ``[groups, K, rows]``: what belongs to a column lies together."""
    return np.ascontiguousarray(x.transpose(0, 2, 1))


def _at(parameter: np.ndarray, i: int) -> np.ndarray:
    return parameter[:, i if parameter.shape[1] > 1 else 0]
