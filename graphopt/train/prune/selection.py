"""Which units go: the least important, in each pool or in all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.train.prune.scores import Scores
from graphopt.train.prune.structures import Masks, Pool

Scope = Literal["layer", "global"]


def select(
    pools: Sequence[Pool],
    scores: Scores,
    held: Mapping[str, Tensor],
    amount: float,
    scope: Scope,
    *,
    normalise: bool = False,
) -> Masks:
    """Return the masks of ``floor(amount units)`` units, those that are gone among them.

    The smallest scores go first, of equal ones the first in the pool, of equal ones in several pools those of the first
    pool. The last unit of a pool stays, whatever the amount, so that no layer is emptied.

    Args:
        pools: Units that are compared.
        scores: Of the weights.
        held: What is zero already, by parameter name: stays chosen.
        amount: Share of the units, from 0 to 1.
        scope: ``layer``: of each pool; ``global``: of all together.
        normalise: Divide scores by the mean over the pool's units that are not gone before pools are compared.

    Raises:
        GraphoptError: A score is not finite.
    """
    worth, gone = [], []
    for pool in pools:
        importance, away = pool.importance(scores), pool.gone(held)
        if not torch.isfinite(importance).all():
            raise GraphoptError("a score is not finite", pool.name, "train with a lower rate, or use another score")
        left = importance[~away]
        if normalise and left.numel() and left.mean() > 0:
            importance = importance / left.mean()
        worth.append(importance)
        gone.append(away)
    if scope == "layer":
        chosen = [_least([one], [away], amount)[0] for one, away in zip(worth, gone, strict=True)]
    else:
        chosen = _least(worth, gone, amount)
    return merged([pool.masks(some) for pool, some in zip(pools, chosen, strict=True)])


def _least(worth: Sequence[Tensor], gone: Sequence[Tensor], amount: float) -> list[Tensor]:
    """Return, pool by pool, which units are among the least of all pools."""
    sizes = [len(one) for one in worth]
    number = int(amount * sum(sizes) + 1e-9) - sum(int(away.sum()) for away in gone)
    chosen = [away.clone() for away in gone]
    if number <= 0:
        return chosen
    free = []  # whatever may go: all that is left of a pool but its most important unit
    for away, one in zip(gone, worth, strict=True):
        left = (~away).nonzero().flatten()
        most = (one[left] == one[left].max()).nonzero()[-1] if len(left) else 0
        free.append(torch.cat([left[:most], left[most + 1 :]]))
    numbers = torch.cat([one[places] for one, places in zip(worth, free, strict=True)])
    least = torch.zeros(len(numbers), dtype=torch.bool)
    least[numbers.argsort(stable=True)[:number]] = True
    for away, places, some in zip(chosen, free, least.split([len(places) for places in free]), strict=True):
        away[places[some]] = True
    return chosen


def merged(masks: Sequence[Masks]) -> Masks:
    """Return one mask for each parameter: zero where any of them says so."""
    found: Masks = {}
    for some in masks:
        for name, mask in some.items():
            found[name] = found[name] | mask if name in found else mask
    return found
