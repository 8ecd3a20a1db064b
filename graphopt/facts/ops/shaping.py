"""Operators that move whole axes: Transpose, Reshape, Flatten, Squeeze, Unsqueeze.

Reshape is cut into blocks of axes with equal products. Position ``c`` of a merged ``(C, s)`` axis is the block
``c*s … c*s+s-1``; a split axis keeps a support on its outer part where whole blocks are dead, on its inner part where
every block is dead at that offset.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.dims import Size
from graphopt.facts.entries import Entries
from graphopt.facts.misread import copied
from graphopt.facts.ops import leading
from graphopt.facts.ops.leading import Leading, leading_blocks
from graphopt.facts.rules import Rule, rule, select_forward, through_links
from graphopt.facts.store import Block, Facts, Link, Mask, Partial, Spec


@rule("Transpose")
class Transpose(Rule):
    """``out axis a = in axis perm[a]``. A table that is turned by a node, not by a copy, is cut where it is read."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        perm = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
        return Spec([Link(0, axis, 0, out_axis) for out_axis, axis in enumerate(perm)], at_source=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        value = node.inputs[0]
        known = dims.static(value)
        for link in spec.links:
            size = None if known is None else known[link.axis]
            if value is not None and size is not None and facts.constants.known(value):
                along = facts.along(value, link.axis, size)
                if along is not None:
                    facts.set_dead(node.outputs[0], link.out_axis, *along)
                continue
            dead = facts.dead_axes(value).get(link.axis)
            if dead is not None:
                facts.set_dead(node.outputs[0], link.out_axis, dead.mask, dead.fill)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
class Reshape(Rule):
    """Equal axes are linked; merged and split axes follow the block rule; anything else is needed whole."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.sizes(node.inputs[0]), dims.sizes(node.outputs[0])
        if known is None or out is None:
            return None
        if copied(node, known, out, Entries(facts.constants))[1]:
            return None  # of no elements, it may have a size of zero where a number is recorded
        pairing = pair_axes(known, out)
        links: list[Link] = []
        blocks: list[Block] = []
        contracted: list[tuple[int, int]] = []
        for ins, outs in pairing:
            if len(ins) == 1 and len(outs) == 1:
                links.append(Link(0, ins[0], 0, outs[0]))
                continue
            ins = tuple(axis for axis in ins if known[axis] != 1)
            outs = tuple(axis for axis in outs if out[axis] != 1)
            if len(ins) == 1 and len(outs) == 1:
                links.append(Link(0, ins[0], 0, outs[0]))
                continue
            sizes = [known[axis] for axis in ins] if len(ins) > 1 else [out[axis] for axis in outs]
            if (len(ins) == 1) == (len(outs) == 1) or not all(isinstance(size, int) and size > 0 for size in sizes):
                continue
            blocks.append(Block(ins, outs, tuple(size for size in sizes if isinstance(size, int))))
            contracted += [(0, axis) for axis in ins]
        lead = leading_blocks(known, out, pairing) if node.op_type == "Reshape" else None
        groups = () if lead is None else (lead.group,)
        reason = "Reshape regroups this axis"
        return Spec(links, tuple(contracted), reason=reason, blocks=tuple(blocks), groups=groups, extra=lead)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        dead = facts.dead_axes(node.inputs[0])
        if not dead:
            return
        select_forward(node, spec, facts)
        if isinstance(spec.extra, Leading):
            leading.forward(spec.extra, node, facts)
        out = node.outputs[0]
        for block in spec.blocks:
            if block.merges:
                mask, fill = np.zeros(block.sizes, bool), None
                for place, axis in enumerate(block.ins):
                    found = dead.get(axis)
                    if found is None:
                        continue
                    shape = [-1 if i == place else 1 for i in range(len(block.sizes))]
                    part = np.broadcast_to(found.mask.reshape(shape), block.sizes)
                    fill = np.zeros(block.sizes, found.fill.dtype) if fill is None else fill
                    fill = np.where(part, found.fill.reshape(shape), fill)
                    mask |= part
                if fill is not None:
                    facts.set_dead(out, block.outs[0], mask.ravel(), fill.ravel())
                continue
            found = dead.get(block.ins[0])
            if found is None:
                continue
            mask, fill = found.mask.reshape(block.sizes), found.fill.reshape(block.sizes)
            for place, axis in enumerate(block.outs):
                rest = tuple(i for i in range(len(block.sizes)) if i != place)
                first = np.moveaxis(fill, place, 0).reshape(block.sizes[place], -1)
                same = (first == first[:, :1]).all(axis=1)
                facts.set_dead(out, axis, mask.all(axis=rest) & same, first[:, 0])

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:

        out = node.outputs[0]
        value = node.inputs[0]
        more: Partial = {}
        planes: list[tuple[int, Mask]] = []
        if facts.demand.get(out) is not None:
            if isinstance(spec.extra, Leading):
                more.update(leading.backward(spec.extra, node, facts))
            for block in spec.blocks:
                total = int(np.prod(block.sizes))
                if block.merges:
                    grid = facts.demanded(out, block.outs[0], total).reshape(block.sizes)
                    found = facts.physical.get(out, {}).get(block.outs[0])
                    for place, axis in enumerate(block.ins):
                        rest = tuple(i for i in range(len(block.sizes)) if i != place)
                        wanted = np.asarray(grid.any(axis=rest))
                        if not wanted.all():
                            more[axis] = wanted
                        if found is not None:
                            planes.append((axis, np.asarray(found.reshape(block.sizes).any(axis=rest))))
                    continue
                grid = np.ones(block.sizes, bool)
                need = np.zeros(block.sizes, bool)
                for place, axis in enumerate(block.outs):
                    shape = [-1 if i == place else 1 for i in range(len(block.sizes))]
                    grid = grid & facts.demanded(out, axis, block.sizes[place]).reshape(shape)
                    found = facts.physical.get(out, {}).get(axis)
                    if found is not None:
                        need |= found.reshape(shape)
                if not grid.all():
                    more[block.ins[0]] = grid.ravel()
                if need.any():
                    planes.append((block.ins[0], need.ravel()))
        through_links(node, spec, facts, {0: more})
        for axis, mask in planes:
            dead = facts.dead_axes(value).get(axis)
            if dead is not None and value is not None:
                facts.need_physically(value, axis, mask & dead.mask)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


def pair_axes(ins: tuple[Size, ...], outs: tuple[Size, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut the axes of a reshape into the shortest runs with provably equal products, from both ends.

    Symbols are compared by name. A run in the middle that cannot be proved equal is left out: its axes are unrelated.
    """
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    tail: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i, j, end_i, end_j = 0, 0, len(ins), len(outs)
    while i < end_i and j < end_j:
        run = _shortest(ins[i:end_i], outs[j:end_j])
        if run is None:
            break
        pairs.append((tuple(range(i, i + run[0])), tuple(range(j, j + run[1]))))
        i, j = i + run[0], j + run[1]
    while i < end_i and j < end_j:
        run = _shortest(ins[i:end_i][::-1], outs[j:end_j][::-1])
        if run is None:
            break
        tail.append((tuple(range(end_i - run[0], end_i)), tuple(range(end_j - run[1], end_j))))
        end_i, end_j = end_i - run[0], end_j - run[1]
    return pairs + tail


def _shortest(ins: tuple[Size, ...], outs: tuple[Size, ...]) -> tuple[int, int] | None:
    """Return the lengths of the shortest leading runs whose products are provably equal."""
    a, b = 1, 1
    left, right = _product(ins[:1]), _product(outs[:1])
    while left is not None and right is not None:
        if left == right:
            return a, b
        if left[1] == right[1]:
            grow_left = left[0] < right[0]
        else:  # the side that lacks a symbol must grow
            grow_left = bool(right[1] - left[1])
        if (a == len(ins)) if grow_left else (b == len(outs)):
            return None
        a, b = (a + 1, b) if grow_left else (a, b + 1)
        left, right = _product(ins[:a]), _product(outs[:b])
    return None


def _product(sizes: tuple[Size, ...]) -> tuple[int, Counter[str]] | None:
    """Return (integer factor, symbols with multiplicity); ``None`` for unknown sizes and for zeros."""
    number, symbols = 1, Counter[str]()
    for size in sizes:
        if size is None or size == 0:
            return None
        if isinstance(size, int):
            number *= size
        else:
            symbols[size] += 1
    return number, symbols
