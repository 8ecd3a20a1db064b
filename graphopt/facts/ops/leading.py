"""Reshapes that cut an axis into blocks and merge what follows: ``[N, C, H, W]`` -> ``[N, G, C/G*H*W]``, and back.

Behind equal leading axes, both sides begin with a static axis, and one size divides the other: position ``g`` of the
shorter one is the block ``g*C/G … (g+1)*C/G-1`` of the longer one, whatever follows. That is how torch writes a
group-norm. A block leaves as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.dims import Sizes
from graphopt.facts.store import Dead, Facts, Group, Mask, Partial

Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Leading:
    """One axis of the input and one of the output that share ``size`` blocks: the block of each position."""

    axis: int
    out_axis: int
    size: int
    ins: np.ndarray
    outs: np.ndarray

    @property
    def group(self) -> Group:
        """The output's layout: blocks are kept or dropped whole. The input is brought into the one that is wanted."""
        return Group(self.size, outputs=((0, self.out_axis, self.outs),))

    def wanted(self, kept: np.ndarray) -> np.ndarray:
        """Return the input's positions behind kept positions of the output."""
        blocks = np.zeros(self.size, bool)
        blocks[self.outs[kept]] = True
        return np.flatnonzero(blocks[self.ins])


def leading_blocks(known: Sizes, out: Sizes, pairs: Pairs) -> Leading | None:
    """Return the blocks of a reshape's first axes that no pair of ``pairs`` settles; ``None`` where there are none.

    Args:
        known: sizes of the input.
        out: sizes of the output.
        pairs: runs of axes (input, output) with provably equal products. Axes in none are equal as a whole.
    """
    places: Pairs = [(ins, outs) for ins, outs in pairs if len(ins) > 1 and len(outs) > 1]
    rest = [
        tuple(sorted(set(range(len(sizes))) - {axis for pair in pairs for axis in pair[side]}))
        for side, sizes in enumerate((known, out))
    ]
    if all(rest) and all((ins[-1] < rest[0][0]) == (outs[-1] < rest[1][0]) for ins, outs in pairs):
        places.append((rest[0], rest[1]))
    for ins, outs in places:
        first = next((axis for axis in ins if known[axis] != 1), ins[0])
        other = next((axis for axis in outs if out[axis] != 1), outs[0])
        size, width = known[first], out[other]
        if not isinstance(size, int) or not isinstance(width, int) or min(size, width) < 2:
            continue
        blocks = min(size, width)
        if max(size, width) % blocks == 0:
            inside, outside = (np.arange(n) // (n // blocks) for n in (size, width))
            return Leading(first, other, blocks, inside, outside)
    return None


def forward(lead: Leading, node: ir.Node, facts: Facts) -> None:
    """A block of one constant is that constant."""
    dead = facts.dead_axes(node.inputs[0]).get(lead.axis)
    if dead is None:
        return
    mask, fill = dead.mask.reshape(lead.size, -1), dead.fill.reshape(lead.size, -1)
    whole = mask.all(axis=1) & (fill == fill[:, :1]).all(axis=1)
    facts.set_dead(node.outputs[0], lead.out_axis, whole[lead.outs], fill[:, 0][lead.outs])


def backward(lead: Leading, node: ir.Node, facts: Facts) -> Partial:
    """Return the input's demand: whole blocks of which something is read."""
    out = node.outputs[0]
    read = facts.demanded(out, lead.out_axis, lead.outs.size)
    dead_out: Dead | None = facts.dead_axes(out).get(lead.out_axis)
    blocks: Mask = np.zeros(lead.size, bool)
    np.logical_or.at(blocks, lead.outs, read)
    if dead_out is not None:
        # Only what is dead in front, too, must still hold its constant; the rest was absorbed.
        dead_in = facts.dead_axes(node.inputs[0]).get(lead.axis)
        living = np.zeros(lead.size, bool)
        np.logical_or.at(living, lead.outs, read & ~dead_out.mask)
        if dead_in is not None:
            living |= blocks & dead_in.mask.reshape(lead.size, -1).all(axis=1)
        blocks = living
    wanted = blocks[lead.ins]
    return {} if wanted.all() else {lead.axis: wanted}
