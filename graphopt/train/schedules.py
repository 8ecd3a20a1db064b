"""Numbers that follow the share of training that is done."""

from __future__ import annotations

import math

from graphopt.train.settings import Settings

_RISING = 0.3
"""Share of the steps in which a one-cycle rate rises."""

_FIRST, _LAST = 25.0, 25e4
"""A one-cycle rate begins at its highest by the former, and ends at its highest by the latter."""


def cubic(start: float, end: float, share: float) -> float:
    """Return ``end + (start - end) (1 - share)^3``: fast at first, slow when little is left.

    The ramp of sparsities in pruning (Zhu and Gupta 2017, "To prune, or not to prune"). Exact at both ends.
    """
    return _between(start, end, (1 - share) ** 3)


def linear(start: float, end: float, share: float) -> float:
    """Return ``end + (start - end) (1 - share)``. Exact at both ends."""
    return _between(start, end, 1 - share)


def cosine(start: float, end: float, share: float) -> float:
    """Return ``end + (start - end) (1 + cos(pi share)) / 2``: slow at both ends, which are exact."""
    return _between(start, end, (1 + math.cos(math.pi * share)) / 2)


def _between(start: float, end: float, left: float) -> float:
    return start * left + end * (1 - left)  # neither end is rounded, unlike end + (start - end) * left


def rate(settings: Settings, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, out of ``steps``.

    ``one-cycle`` is ``torch.optim.lr_scheduler.OneCycleLR`` with the momentum left alone: up from a 25th in the first
    0.3 of the steps, then down to a 250,000th, both along a cosine (Smith and Topin 2018, "Super-convergence").
    """
    if settings.schedule == "constant":
        return settings.rate
    if settings.schedule == "one-cycle":
        return _one_cycle(settings.rate, step, steps)
    rising = round(settings.warmup * steps)
    if step < rising:
        return settings.rate * (step + 1) / (rising + 1)
    share = (step - rising) / (steps - rising)
    return cosine(settings.rate, 0.0, share) if settings.schedule == "cosine" else linear(settings.rate, 0.0, share)


def _one_cycle(highest: float, step: int, steps: int) -> float:
    top, last = _RISING * steps - 1, steps - 1
    if step <= top:
        return cosine(highest / _FIRST, highest, step / top if top > 0 else 1.0)
    return cosine(highest, highest / _LAST, (step - top) / (last - top))
