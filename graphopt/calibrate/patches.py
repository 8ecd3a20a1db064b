"""What a row of a weight is multiplied with: the input of a convolution or product as rows ``[groups, n, K]``.

A convolution is a product with patches of its padded input (im2col). Where there are more patches in a sample than are
needed to estimate second moments, the same ones of every sample are taken, drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

POSITIONS = 256
"""Patches of a sample that are looked at."""

_BYTES = 1 << 25
"""Patches that are alive at a time."""


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution; sequences have one entry for each spatial axis.

    Attributes:
        kernel: Taps along each axis.
        strides: Steps between windows.
        dilations: Steps between taps.
        pads: Zeros before and after each axis: all the befores, then all the afters (as ONNX has them).
        automatic: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``; all but the first override ``pads``.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    automatic: str = "NOTSET"
    groups: int = 1

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return (before, after) for each spatial axis of an input of these sizes."""
        rank = len(self.kernel)
        if self.automatic == "VALID":
            return [(0, 0)] * rank
        if self.automatic == "NOTSET":
            return [(self.pads[i], self.pads[i + rank]) for i in range(rank)]
        found = []
        for size, taps, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            missing = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
            less, more = missing // 2, missing - missing // 2
            found.append((less, more) if self.automatic == "SAME_UPPER" else (more, less))
        return found


def patches(x: np.ndarray, window: Window, *, positions: int = POSITIONS) -> Iterator[np.ndarray]:
    """Yield ``[groups, n, K]`` rows of ``x [N, C, ...]`` with ``K = C / groups * taps``, a few samples at a time.

    At most ``positions`` rows of each sample; 0: all. Columns are in the order of the weight ``[M, C / groups, ...]``.
    Zeros of the padding are zeros: where x holds codes, the zero point is to be subtracted before.
    """
    rank = len(window.kernel)
    count, channels, *sizes = x.shape
    padding = window.padding(sizes)
    spans = [(taps - 1) * dilation + 1 for taps, dilation in zip(window.kernel, window.dilations, strict=True)]
    places = [
        (size + sum(pad) - span) // stride + 1
        for size, pad, span, stride in zip(sizes, padding, spans, window.strides, strict=True)
    ]
    total = math.prod(max(place, 0) for place in places)
    if not total or not count:
        return
    chosen = np.arange(total)
    if 0 < positions < total:
        chosen = np.sort(np.random.default_rng(0).permutation(total)[:positions])
    at = np.unravel_index(chosen, places)
    k = channels * math.prod(window.kernel)
    together = max(_BYTES // max(chosen.size * k * 4, 1), 1)
    for start in range(0, count, together):
        part = np.pad(x[start : start + together], [(0, 0), (0, 0), *padding])
        views = np.lib.stride_tricks.sliding_window_view(part, spans, axis=tuple(range(2, 2 + rank)))
        views = views[(slice(None), slice(None), *(slice(None, None, s) for s in window.strides))]
        views = views[(..., *(slice(None, None, d) for d in window.dilations))]
        rows = views[(slice(None), slice(None), *at)]  # [n, C, positions, *kernel]
        rows = rows.reshape(len(part), window.groups, channels // window.groups, chosen.size, -1)
        yield rows.transpose(1, 0, 3, 2, 4).reshape(window.groups, len(part) * chosen.size, -1)


def flat(x: np.ndarray, *, positions: int = POSITIONS) -> Iterator[np.ndarray]:
    """Yield ``[1, n, K]`` rows of ``x [..., K]``; of each sample (its first axis) at most ``positions``; 0: all."""
    if not x.size:
        return
    rows = x.reshape(len(x) if x.ndim > 2 else 1, -1, x.shape[-1])
    if x.ndim > 2 and 0 < positions < rows.shape[1]:
        rows = rows[:, np.sort(np.random.default_rng(0).permutation(rows.shape[1])[:positions])]
    yield rows.reshape(1, -1, x.shape[-1])
