"""``argmin over (S, O)`` of the squared error of a distribution: ternary search in S nested in a search over O.

The error has several valleys (clip more on this side or on that; heavy tails; values that happen to lie well), so it
starts from a spread of ranges, keeps the best of different zero points, and narrows all of them at once: around each
zero point its neighbours at a step that shrinks, for each of these the scale by sections of eight (a ternary search
that asks seven questions a round instead of two: look-ups of many candidates at once cost less than more rounds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.calibrate.clipping import clipping
from graphopt.calibrate.density import Density
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.parameters import Constraint, covering

FINE = 4096
"""Levels above which rounding is taken to be ``S^2 / 12``."""

_SHARES = np.array([1, 0.85, 0.7, 0.56, 0.44, 0.34, 0.25, 0.17, 0.11, 0.07, 0.04, 0.02])
_STARTS = 3
_SECTIONS = np.arange(1, 8) / 8
_FEW = 17  # zero points that are all tried
_JAGGED = 400_000  # numbers below which the error has valleys of its own making everywhere
_VERY_JAGGED = 20_000  # numbers below which these are deep
_PEAK = 0.002  # part of the numbers in one bin (those that a Clip ended) from which on it matters where that bin lies
_PEAKS = 3
_CLOSE = 16  # candidates that are tried with levels on the peaks

Errors = Callable[[np.ndarray, np.ndarray, Grid], np.ndarray]


def best(d: Density, grid: Grid, constraint: Constraint, count: int) -> tuple[float, int]:
    """Return scale (in bins) and zero point of the least error, for ``count`` numbers of which some are not zero."""
    zeros = constraint.zeros(grid, d.low, d.high)
    smooth = zeros.size > 1 and count >= _JAGGED and 2 * d.bend.max() <= _PEAK
    # Rounding is S^2 / 12 where levels are many, and close to it where they are not few and nothing stands out.
    rough = not grid.floating and (grid.levels > 256 or (grid.levels == 256 and smooth))
    errors = clipping(d).error if rough else d.error
    exact = errors if grid.levels > FINE and not grid.floating else d.error
    search = _Search(d, grid, zeros, np.ldexp(constraint.largest(grid, zeros), -d.exponent), errors)
    found = search.narrowed(search.spread())
    if grid.levels <= 1024 and (rough or not smooth):
        if count < _VERY_JAGGED:
            scale, zero = search.nearby(found[0], 0.15, 1201, 5)
        else:
            scale, zero = search.nearby(found[0], *((0.25, 801, 0) if zeros.size == 1 else (0.08, 161, 2)))
    else:
        scale, zero = np.array([one.scale for one in found]), np.array([one.zero for one in found])
    error = exact(scale, zero, grid)
    if not grid.floating and (peaks := _peaks(d)).size:
        close = np.argsort(error, kind="stable")[:_CLOSE]
        scale, zero = search.on_levels(scale[close], zero[close], peaks)
        error = exact(scale, zero, grid)
    at = int(np.argmin(error))
    return float(scale[at]), int(zero[at])


def _peaks(d: Density) -> np.ndarray:
    """Return where the highest few peaks lie, in bins: the ends where numbers were clipped, or the middle of a bin."""
    high = np.flatnonzero(2 * d.bend > _PEAK)
    high = high[np.argsort(-d.bend[high], kind="stable")[:_PEAKS]]
    return np.clip(d.first + high + 0.5, d.low, d.high)


@dataclass(frozen=True)
class _Candidate:
    scale: float
    zero: int
    error: float


@dataclass(frozen=True)
class _Search:
    """One search: ``zeros`` are the consecutive zero points to try, ``limits`` the largest scale with each of them."""

    density: Density
    grid: Grid
    zeros: np.ndarray
    limits: np.ndarray
    errors: Errors

    def capped(self, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Return the scales, none above what is allowed with its zero point."""
        return np.minimum(scale, self.limits[np.clip(zero - self.zeros[0], 0, self.zeros.size - 1)])

    def spread(self) -> list[_Candidate]:
        """Return the best of many ranges: every zero point where they are few, else clipped on either side."""
        grid, low, high = self.grid, min(self.density.low, 0.0), max(self.density.high, 0.0)
        if grid.floating or self.zeros.size <= _FEW:
            shares = 2.0 ** np.arange(-6, 7, 0.1) if grid.floating else 1.03 * 0.9 ** np.arange(40)
            ends = np.full(self.zeros.shape, low), np.full(self.zeros.shape, high)
            scale = np.outer(covering(*ends, self.zeros, grid), shares).ravel()
            zero = np.repeat(self.zeros, shares.size)
        else:
            a, b = (x.ravel() for x in np.meshgrid(_SHARES, _SHARES))
            scale = (b * high - a * low) / (grid.high - grid.low)
            zero = np.clip(np.rint(grid.low - a * low / scale), grid.low, grid.high).astype(np.int64)
        scale = self.capped(scale, zero)
        return _apart(scale, zero, self.errors(scale, zero, grid), max(1, self.zeros.size // 64))

    def narrowed(self, seeds: list[_Candidate]) -> list[_Candidate]:
        """Return the bottoms of the valleys in which the seeds lie, best first."""
        alone = self.zeros.size == 1
        step, width = max(1, self.zeros.size // 32), 1.35
        while True:
            near = np.zeros(1, np.int64) if alone else np.arange(-2, 3) * step
            scale, zero, error = self._around(seeds, near, width)
            apart = 0 if alone else 2 * step
            seeds = [one for one in _apart(scale, zero, error, apart) if one.error <= 1.05 * error.min()]
            if step == 1:
                return seeds
            step, width = max(step // 4, 1), max(1.06, width**0.5)

    def _around(
        self, seeds: list[_Candidate], near: np.ndarray, width: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best scale for each zero point near a seed, and its error."""
        start = np.array([one.scale for one in seeds])[:, None]
        middle = np.array([one.zero for one in seeds])[:, None]
        zero = np.clip(middle + near, self.zeros[0], self.zeros[-1])
        # Between keeping the upper end of the range in its place and keeping the lower one.
        with np.errstate(divide="ignore", invalid="ignore"):
            upper = (self.grid.high - middle) / (self.grid.high - zero)
            lower = (middle - self.grid.low) / (zero - self.grid.low)
        upper, lower = (np.where(np.isfinite(r) & (r > 0), r, 1.0) for r in (upper, lower))
        left = (start * np.minimum(upper, lower) / width).ravel()
        right = (start * np.maximum(upper, lower) * width).ravel()
        zero = zero.ravel()
        scale, error = np.repeat(start, near.size, 1).ravel(), np.full(zero.size, np.inf)
        rows, every = np.arange(zero.size), np.repeat(zero[:, None], _SECTIONS.size, 1)
        for _ in range(3):
            tried = self.capped(left[:, None] + (right - left)[:, None] * _SECTIONS, every)
            errors = self.errors(tried.ravel(), every.ravel(), self.grid).reshape(tried.shape)
            at = np.argmin(errors, axis=1)
            scale = np.where(errors[rows, at] < error, tried[rows, at], scale)
            error = np.minimum(error, errors[rows, at])
            reach = (right - left) / 8
            left, right = tried[rows, at] - reach, tried[rows, at] + reach
        return scale, zero, error

    def on_levels(self, scale: np.ndarray, zero: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the candidates, and each of them with a scale that puts a level exactly on a peak."""
        low, high = self.grid.low - zero, self.grid.high - zero
        scales, zeros = [scale], [zero]
        for peak in peaks[peaks != 0]:
            level = np.rint(peak / scale)
            for near in (-1, 0, 1):
                on = np.clip(level + near, low, high)
                good = on * peak > 0
                scales.append(peak / on[good])
                zeros.append(zero[good])
        found, every = np.concatenate(scales), np.concatenate(zeros)
        return self.capped(found, every), every

    def nearby(self, one: _Candidate, reach: float, number: int, zeros: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a dense grid of scales and zero points around a candidate, itself the first."""
        # Float types look alike an octave further.
        octave = np.geomspace(0.5, 2.0, 360) if self.grid.floating else np.linspace(1 - reach, 1 + reach, number)
        shares = np.concatenate([[1.0], octave])
        near = np.unique(np.clip(one.zero + np.arange(-zeros, zeros + 1), self.zeros[0], self.zeros[-1]))
        scale, zero = np.repeat(one.scale * shares, near.size), np.tile(near, shares.size)
        return self.capped(scale, zero), zero


def _apart(scale: np.ndarray, zero: np.ndarray, error: np.ndarray, apart: int) -> list[_Candidate]:
    """Return the best few that lie in different valleys, as far as scales and zero points tell."""
    found: list[_Candidate] = []
    for at in np.argsort(error, kind="stable")[:200]:
        one = _Candidate(float(scale[at]), int(zero[at]), float(error[at]))
        if all(abs(one.zero - o.zero) > apart or not 0.8 < one.scale / o.scale < 1.25 for o in found):
            found.append(one)
        if len(found) == _STARTS:
            break
    return found
