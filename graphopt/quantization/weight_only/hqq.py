"""Blocks whose large errors count less: half-quadratic quantization (Badri and Shaji 2023).

``argmin over (S, O) of sum |w - S (q - O)|^p`` with ``p = 0.7``: an outlier may be far off, if that brings the others
nearer. The norm is split off by a variable ``e`` for the error (half-quadratic): in turn ``e`` is the error, shrunk by
``|x| - |x|^(p-1) / beta``, and zero point and scale are the best ones for ``w - e`` in the sense of least squares,
which have closed forms; ``beta`` grows. No data is needed. As published, the scale stays what covers the range, and the
zero point is any real number; here it is an integer, so that an eighth as much is stored of it, and the scale follows.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid

CHUNK = 1 << 16


def refined(
    blocks: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    grid: Grid,
    *,
    symmetric: bool,
    norm: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.05,
    rounds: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, zero point) of every block, ``[n]``: nowhere a larger ``sum |w - w'|^p`` than what is given.

    Args:
        blocks: ``[n, B]``.
        scale: ``[n]``, not zero.
        zero: ``[n]`` integers.
        grid: The type.
        symmetric: The zero point stays.
        norm: ``p``.
        beta: How near ``e`` is to the error at first, for weights of size 1.
        growth: What ``beta`` is multiplied with.
        rounds: So often.
    """
    scale, zero = scale.astype(np.float32).copy(), zero.astype(np.float32)
    count = max(1, CHUNK // max(1, blocks.shape[1]))
    for first in range(0, len(blocks), count):
        part = slice(first, first + count)
        w = np.ascontiguousarray(blocks[part], np.float32)
        state = _Blocks(w, scale[part], zero[part], grid, norm)
        state.run(symmetric, beta, growth, rounds)
        scale[part], zero[part] = state.scale, state.zero
    return scale, zero.astype(np.int64)


class _Blocks:
    """Blocks, and the best scale and zero point of each so far."""

    def __init__(self, w: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid, norm: float) -> None:
        self.w, self.scale, self.zero, self.grid, self.norm = w, scale.copy(), zero.copy(), grid, norm
        self.least = self.loss(self.scale, self.zero)

    def codes(self, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Return integers, as float32."""
        return np.clip(np.rint(self.w / scale[:, None] + zero[:, None]), self.grid.low, self.grid.high)

    def loss(self, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Return ``sum |w - S (q - O)|^p``."""
        back = (self.codes(scale, zero) - zero[:, None]) * scale[:, None]
        return (np.abs(self.w - back) ** self.norm).sum(axis=1)

    def keep(self, scale: np.ndarray, zero: np.ndarray) -> None:
        """Keep what is better than what there was; scales must stay what they are stored as: not zero, finite."""
        scale = np.where(np.isfinite(scale) & (scale != 0), scale, self.scale)
        loss = self.loss(scale, zero)
        better = loss < self.least
        self.scale[better], self.zero[better], self.least[better] = scale[better], zero[better], loss[better]

    def run(self, symmetric: bool, beta: float, growth: float, rounds: int) -> None:
        """Alternate."""
        scale, zero = self.scale.copy(), self.zero.copy()
        unit = np.abs(self.w).max(axis=1, keepdims=True)  # beta is for weights of size 1
        unit[unit == 0] = 1
        for _ in range(rounds):
            q = self.codes(scale, zero)
            error = (self.w - (q - zero[:, None]) * scale[:, None]) / unit
            size = np.abs(error)
            shrunk = np.maximum(size - (size + 1e-8) ** (self.norm - 1) / beta, 0) * np.sign(error)
            target = self.w - shrunk * unit
            if not symmetric:
                zero = np.rint((q - target / scale[:, None]).mean(axis=1)).clip(self.grid.low, self.grid.high)
                self.keep(scale, zero)
            centred = q - zero[:, None]
            power = (centred * centred).sum(axis=1)
            best = (centred * target).sum(axis=1) / np.maximum(power, 1)
            scale = np.where((power > 0) & (best != 0), best, scale)
            self.keep(scale, zero)
            beta *= growth
