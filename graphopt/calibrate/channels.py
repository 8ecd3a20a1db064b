"""What each channel of a value holds: count, sum, sum of squares, smallest and largest, over all of the data.

Streams like a histogram: memory does not depend on how much data there is. Sums are float64 of float32 numbers, so that
other batches of the same data change them in the sixteenth digit at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.watch import watch

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Channels:
    """Statistics of each channel, ``[channels]`` float64; ``a + b`` is that of both.

    Attributes:
        count: How many numbers each channel had.
        total: Their sum.
        squares: The sum of their squares.
        low: The smallest; inf where there was none.
        high: The largest; -inf where there was none.
    """

    count: int
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Return ``E[x]``; 0 where nothing was seen."""
        return self.total / max(self.count, 1)

    @property
    def power(self) -> np.ndarray:
        """Return ``E[x^2]``."""
        return self.squares / max(self.count, 1)

    def __add__(self, other: Channels) -> Channels:
        return Channels(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


def channels(array: np.ndarray, axis: int) -> Channels:
    """Return the statistics of one array along one of its axes."""
    axis %= array.ndim
    if array.dtype.kind != "f":  # integers have no infinity to begin with
        array = array.astype(np.float64)
    rest = tuple(i for i in range(array.ndim) if i != axis)
    size = array.shape[axis]
    letters = "abcdefghijklmnop"[: array.ndim]
    return Channels(
        array.size // size if size else 0,
        array.sum(rest, dtype=np.float64),
        # The products are made in small buffers: no copy of the whole in float64.
        np.einsum(f"{letters},{letters}->{letters[axis]}", array, array, dtype=np.float64),
        array.min(rest, initial=np.inf).astype(np.float64),
        array.max(rest, initial=-np.inf).astype(np.float64),
    )


def measure(
    model: ir.Model,
    axes: Mapping[str, int],
    batches: Iterable[Mapping[str, Any]],
    *,
    progress: Progress | None = None,
) -> dict[str, Channels]:
    """Return the statistics of the channels of each named value, over all batches.

    Args:
        model: A float model; not changed.
        axes: The axis of each value along which its channels lie.
        batches: Feeds of the model.
        progress: Called with (what, batches done, 0).

    Raises:
        ModelError: The model does not run.
        UsageError: There is no such value.
    """
    found: dict[str, Channels] = {}
    for number, arrays in enumerate(watch(model, list(axes), batches)):
        for name, array in arrays.items():
            one = channels(array, axes[name])
            found[name] = found[name] + one if name in found else one
        if progress is not None:
            progress("measuring channels", number + 1, 0)
    return found
