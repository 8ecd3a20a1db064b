"""Blocks of a weight's pattern: ``y[R_j] = W_j x[C_j]``, where everything outside of the blocks is zero.

Blocks are the connected components of the graph that joins an output with every input it has a weight for; where there
is but one component, outputs with the same inputs (then blocks share inputs). Linear in the size of the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.facts.store import Mask

DENSE = 0.75
"""A pattern with a larger share of weights than this is taken for dense at one look."""

MOST_SUPPORTS = 16
"""Outputs with the same inputs are blocks if there are at most so many different supports."""


@dataclass(frozen=True, slots=True)
class Block:
    """Outputs ``rows`` read the inputs ``columns`` and no others; both sorted."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of outputs and inputs."""
        return self.rows.size, self.columns.size

    @property
    def weights(self) -> int:
        """How many weights it holds, zeros included."""
        return self.rows.size * self.columns.size


def is_dense(pattern: Mask) -> bool:
    """Tell at one look that a pattern has no blocks worth looking for."""
    return not pattern.size or bool(pattern.mean() > DENSE)


def find_blocks(pattern: Mask) -> list[Block]:
    """Return at least two blocks that hold all weights of a pattern ``[o, i]`` and every output once; or none.

    Outputs without any weight are given to the block with the fewest outputs.
    """
    if is_dense(pattern):
        return []
    found = _components(pattern)
    if len(found) < 2:
        found = _supports(pattern)
    if len(found) < 2:
        return []
    idle = np.flatnonzero(~pattern.any(axis=1))
    if idle.size:
        fewest = min(range(len(found)), key=lambda place: found[place].rows.size)
        found[fewest] = Block(np.union1d(found[fewest].rows, idle), found[fewest].columns)
    return sorted(found, key=lambda block: (int(block.columns[0]), int(block.rows[0])))


def _components(pattern: Mask) -> list[Block]:
    """Spread from one output to its inputs, to their outputs, and so on; every row and column is looked at once."""
    found: list[Block] = []
    waiting, unread = np.any(pattern, axis=1), np.any(pattern, axis=0)
    for first in np.flatnonzero(waiting):
        if not waiting[first]:
            continue
        rows, columns = [np.array([first])], []
        waiting[first] = False
        while True:
            reached = pattern[rows[-1]].any(axis=0) & unread
            if not reached.any():
                break
            unread &= ~reached
            columns.append(np.flatnonzero(reached))
            joined = pattern[:, columns[-1]].any(axis=1) & waiting
            if not joined.any():
                break
            waiting &= ~joined
            rows.append(np.flatnonzero(joined))
        found.append(Block(np.sort(np.concatenate(rows)), np.sort(np.concatenate(columns))))
    return found


def _supports(pattern: Mask) -> list[Block]:
    """Bring together the outputs that read the same inputs."""
    packed = np.packbits(pattern, axis=1)
    alive = np.flatnonzero(packed.any(axis=1))
    if np.unique(packed[alive[: 8 * MOST_SUPPORTS]], axis=0).shape[0] > MOST_SUPPORTS:
        return []  # a first look at some: what has no order has as many supports as outputs
    _, which = np.unique(packed[alive], axis=0, return_inverse=True)
    which = which.ravel()
    if which.size == 0 or which.max() >= MOST_SUPPORTS:
        return []
    members = [alive[which == number] for number in range(int(which.max()) + 1)]
    return [Block(rows, np.flatnonzero(pattern[rows[0]])) for rows in members]
