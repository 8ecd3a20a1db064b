"""Integers of weights: to the nearest level, or so that the errors of a row add up to nothing.

The inputs of a product mostly have a mean (behind a Relu all are positive), and then the sum of a row's errors comes
out as such: of inputs that are alike, ``E[(sum e x)^2] = sum e^2 var + (sum e)^2 mean^2``. Rounded to nearest, the sum
of K errors is about ``S sqrt(K / 12)``. It vanishes when the few weights that lie nearest to the middle between two
levels go to the other one, which costs next to nothing: 0.03 dB of the weights' error, against 1.5 to 2 dB of the
output's behind a Relu. No data is needed; GPTQ, which has some, does this and more.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.quantization.weight_only.layout import spread

CHUNK = 1 << 20
"""Weights that are worked on at a time, so that the arrays between do not grow with the matrix."""

PRIOR = 0.1
"""The square of the inputs' mean that is assumed, over their variance; 0.47 behind a Relu. Any number does the same."""


def rounded(
    rows: np.ndarray, scale: np.ndarray, zero: np.ndarray, block: int, grid: Grid, *, balanced: bool
) -> np.ndarray:
    """Return integers ``[rows, K]``, int16.

    Args:
        rows: ``[rows, K]``.
        scale: ``[rows, ceil(K / block)]``, not zero.
        zero: Of the same shape.
        block: So many neighbours share a scale.
        grid: The type.
        balanced: Whether the errors of a row are to add up to nothing, where that is nearly free.
    """
    codes = np.empty(rows.shape, np.int16)
    count, size = rows.shape
    step = max(1, CHUNK // max(1, size))
    for first in range(0, count, step):
        part = slice(first, first + step)
        w, s = rows[part].astype(np.float32), spread(scale[part], block, size)
        o = spread(zero[part], block, size)
        q = np.clip(np.rint(w / s) + o, grid.low, grid.high)
        codes[part] = q
        if balanced and size:
            codes[part] += _moves(w - (q - o) * s, s, q, grid)
    return codes


def _moves(error: np.ndarray, scale: np.ndarray, codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Return by how much codes go up or down, cheapest first, while ``sum e^2 + PRIOR (sum e)^2`` of the row falls.

    Moving a weight by ``S`` towards its error ``e`` changes ``e^2`` by ``S^2 - 2 S |e|``, and the sum by ``S``.
    """
    total = error.sum(axis=1, keepdims=True)
    way = np.sign(total) * np.sign(scale)
    toward, step = error * np.sign(total), np.abs(scale)
    possible = (toward > 0) & np.where(way > 0, codes < grid.high, codes > grid.low)
    price = np.where(possible, step - 2 * toward, np.inf)  # of each unit that the sum falls by
    order = np.argsort(price, axis=1)
    price, step = np.take_along_axis(price, order, 1), np.take_along_axis(step, order, 1)
    left = np.abs(total) - np.cumsum(step, axis=1) + step
    good = np.logical_and.accumulate(PRIOR * (2 * left - step) > price, axis=1)
    moved = np.zeros(codes.shape, bool)
    np.put_along_axis(moved, order, good, 1)
    return np.where(moved, way, 0).astype(np.int16)
