"""What changes in the course of the training."""

from __future__ import annotations

import math

from torch import nn

from graphopt.train.binary.sign import Sign
from graphopt.train.hooks import Hook


class Course(Hook):
    """Tells every ``Sign`` of a net how much of the training is done, and lets the error module fade.

    ``alpha = start (1 + cos(pi share)) / 2``. What else changes (``n``, the scale, ``k``, ``o``) bases derive from the
    share.
    """

    def __init__(self, net: nn.Module, alpha: float) -> None:
        self._signs = [module for module in net.modules() if isinstance(module, Sign)]
        self._start = alpha

    def at(self, share: float) -> None:
        """Before a step, 0 to 1."""
        alpha = self._start * (1 + math.cos(math.pi * share)) / 2
        for one in self._signs:
            one.share, one.alpha = share, alpha
