"""Second moments ``sum of x x^T`` of a layer's inputs: stream, merge, memory ``[groups, K, K]`` whatever the data.

Of integers (codes minus their zero point) the sums are exact in float64 as long as they stay below 2**53 (1.4e11 rows
of 8-bit codes), so that they depend neither on batches nor on their order nor on who adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ELEMENTS = 1 << 22
"""Elements that are converted to float64 at a time."""

_EXACT = 1 << 24
"""float32 holds every integer up to here."""

_WORTH = 128
"""Rows in a product from which float32 pays, although its results are added up in float64."""


@dataclass(frozen=True)
class SecondMoment:
    """Sums over rows; ``a + b`` is that of both.

    Attributes:
        count: Rows in each group.
        total: ``[groups, K]`` float64, the sum of the rows.
        matrix: ``[groups, K, K]`` float64, the sum of their outer products.
    """

    count: int
    total: np.ndarray
    matrix: np.ndarray

    @classmethod
    def zeros(cls, k: int, groups: int = 1) -> SecondMoment:
        """Return the moment of nothing."""
        return cls(0, np.zeros((groups, k)), np.zeros((groups, k, k)))

    @classmethod
    def of(cls, rows: np.ndarray, *, largest: float | None = None) -> SecondMoment:
        """Return the moment of ``[n, K]`` or ``[groups, n, K]`` rows of any real type.

        Args:
            rows: The rows.
            largest: They hold integers of at most this magnitude: float32 adds up so few of their products at a time
                that it does so exactly, in half the time.
        """
        rows = rows[None] if rows.ndim == 2 else rows
        groups, n, k = rows.shape
        total, matrix = np.zeros((groups, k)), np.zeros((groups, k, k))
        short = 0 if largest is None else int(_EXACT // max(largest, 1) ** 2)
        dtype, at_once = (np.float32, short) if short >= _WORTH else (np.float64, max(_ELEMENTS // (groups * k), 1))
        for start in range(0, n, at_once):
            part = rows[:, start : start + at_once].astype(dtype)
            total += part.sum(axis=1, dtype=np.float64)
            matrix += part.transpose(0, 2, 1) @ part
        return cls(n, total, matrix)

    def __add__(self, other: SecondMoment) -> SecondMoment:
        return SecondMoment(self.count + other.count, self.total + other.total, self.matrix + other.matrix)

    @property
    def mean(self) -> np.ndarray:
        """Return ``[groups, K]``; zeros where there were no rows."""
        return self.total / max(self.count, 1)

    def covariance(self) -> np.ndarray:
        """Return ``[groups, K, K]``: the mean of ``(x - mean) (x - mean)^T``, what counts where a bias is corrected."""
        centred = self.matrix / max(self.count, 1)
        centred -= self.mean[:, :, None] * self.mean[:, None, :]
        return centred
