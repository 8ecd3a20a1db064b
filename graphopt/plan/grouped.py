"""Positions of grouped convolutions: what one group keeps, all groups that live keep, so that they are as wide.

Position ``t`` of a group has a rank: needed ones come first. Equal ranks of different groups share one class, and a
class is kept if any member is needed: every living group keeps as many positions as the one that needs most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from graphopt.facts.store import Mask
    from graphopt.plan.classes import _Classes


def output_classes(needed: Mask, groups: int, classes: _Classes) -> np.ndarray:
    """Return new class numbers ``[o]`` for the outputs of all groups; those of a dead group are on their own."""
    wanted = needed.reshape(groups, -1)
    ids = classes.fresh(needed.size).reshape(groups, -1)
    tie(ids, wanted, np.any(wanted, axis=1), classes)
    return ids.ravel()


def tie(ids: np.ndarray, needed: Mask, living: Mask, classes: _Classes) -> None:
    """Make the classes ``[groups, n]`` of equal ranks equal over the living groups (bool ``[groups]``)."""
    order = np.argsort(~needed[living], axis=1, kind="stable")
    ranked = np.take_along_axis(ids[living], order, axis=1)
    if len(ranked) > 1:
        classes.equal(np.broadcast_to(ranked[:1], ranked[1:].shape), ranked[1:])
