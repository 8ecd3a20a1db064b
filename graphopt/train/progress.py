"""What people are told while a net trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor

from graphopt.errors import GraphoptError

Progress = Callable[[str, int, int], None]
"""What is under way, how much is done, of how much."""

_EVERY = 0.1
"""Seconds between two looks at the loss: each waits for a GPU."""


def quiet(label: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Watch:
    """Tells of every step, with a loss that is at most a moment old."""

    def __init__(self, progress: Progress, label: str, before: int, steps: int) -> None:
        self._progress, self._label, self._before, self._steps = progress, label, before, steps
        self._looked, self._text = -math.inf, label

    def __call__(self, loss: Tensor, done: int) -> None:
        """Tell that so many steps are done, the last one with this loss."""
        if self._progress is quiet:
            return
        now = time.monotonic()
        if now - self._looked >= _EVERY:
            self._looked, self._text = now, f"{self._label}, loss {finite(float(loss), self._label):.3f}"
        self._progress(self._text, self._before + done, self._steps)


def finite(loss: float, label: str) -> float:
    """Return the loss.

    Raises:
        GraphoptError: It is not finite.
    """
    if not math.isfinite(loss):
        raise GraphoptError(f"the loss is {loss}", label, "train with a lower rate, or with clip")
    return loss
