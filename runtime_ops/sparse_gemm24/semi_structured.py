"""2:4 weights: of every four numbers in a row along the contracted axis, two are zero.

A weight ``[K, N]`` is kept as ``values`` ``[N, K / 2]`` and ``indices`` ``[N, ceil(K / 8)]`` (uint8), two bits for each
value, its position among its four: ``weight[4 (v // 2) + (indices[n, v // 4] >> 2 (v % 4)) % 4, n] = values[n, v]``.
The positions of a four ascend; one with fewer than two numbers is filled up with zeros. With 16 bits a number, that is
nine sixteenths of the dense weight.
"""

from __future__ import annotations

import numpy as np

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def violation(weight: np.ndarray) -> str | None:
    """Return why a weight ``[K, N]`` is not 2:4, None if it is; the first four that hold too much are named."""
    if weight.ndim != 2:
        return f"{weight.ndim} axes, not two"
    if weight.shape[0] % 4:
        return f"{weight.shape[0]} rows, not a multiple of four"
    held = np.count_nonzero(weight.reshape(weight.shape[0] // 4, 4, weight.shape[1]), axis=1)
    wrong = np.argwhere(held > 2)
    if not wrong.size:
        return None
    group, column = (int(n) for n in wrong[0])
    return f"rows {4 * group} to {4 * group + 3} of column {column} hold {int(held[group, column])} numbers, not two"


def compact24(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values and indices of a 2:4 weight ``[K, N]``.

    Raises:
        ValueError: It is not 2:4.
    """
    reason = violation(weight)
    if reason is not None:
        raise ValueError(f"not a 2:4 weight: {reason}")
    rows, columns = weight.shape
    fours = np.ascontiguousarray(weight.T).reshape(columns, rows // 4, 4)
    # What is zero goes to the end, the first zeros first; then the two that stay are put in order.
    positions = np.sort(np.argsort(fours == 0, axis=2, kind="stable")[..., :2], axis=2)
    values = np.take_along_axis(fours, positions, axis=2).reshape(columns, rows // 2)
    padded = np.zeros((columns, -(-rows // 8) * 4), np.uint8)
    padded[:, : rows // 2] = positions.reshape(columns, rows // 2)
    indices = np.bitwise_or.reduce(padded.reshape(columns, -(-rows // 8), 4) << _SHIFTS, axis=2)
    return values, indices.astype(np.uint8)


def dense24(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the weight ``[K, N]`` of values and indices."""
    columns, half = values.shape
    positions = (indices[..., None] >> _SHIFTS & 3).reshape(columns, 4 * indices.shape[1])[:, :half]
    at = 4 * (np.arange(half) // 2) + positions
    weight = np.zeros((columns, 2 * half), values.dtype)
    np.put_along_axis(weight, at, values, axis=1)
    return np.ascontiguousarray(weight.T)
