"""Importance-aware pruning and re-training (US 18/411,542 and its parent US 11,907,843).

Train; feed training data; compute the loss; give each weight an importance, the change of the loss if it were removed;
zero the least important; keep the values of the rest; train again with the zeros held; repeat on what is left.

::

    layers.py      which weights are pruned; a layer as a matrix times patches
    scores/        how important each weight is
    groups.py      what can only be removed together
    structures.py  single weights, runs, blocks and groups as units with a score
    selection.py   the least important units, in each layer or in all
    choice.py      from settings and a net to what a round zeroes
    removable.py   whether the optimizer makes units of a group leave the file, asked beforehand
    leftover.py    zeros of units that are in the file nevertheless, counted afterwards
    latency.py     widths that the target has steps at
    predicted.py   the time of a net, given how many units of each group stay
    rounds.py      score, select, zero, re-train; on a cubic ramp
    masks.py       masks that the exporter shows
"""

from graphopt.train.prune.masks import attach
from graphopt.train.prune.rounds import Pruned, Round, prune
from graphopt.train.prune.scores import score
from graphopt.train.prune.settings import PruneSettings

__all__ = ["PruneSettings", "Pruned", "Round", "attach", "prune", "score"]
