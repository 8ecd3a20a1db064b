"""Einsum: axes that share a letter hold the same positions.

``ik,kj->ij``: a letter of the output is a link; a letter that the output lacks is summed over. A position of a summed
letter drops out where any operand is zero there. A letter twice in one operand (a diagonal) is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, rule, through_links
from graphopt.facts.store import Facts, Link, Mask, Partial, Spec

ELLIPSIS = "..."


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A summed axis of the one live operand whose constants may go into a sum behind the node."""

    operand: int
    axis: int
    letter: str
    weight: int
    """The constant operand."""


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of every operand's axes and of the output's; an axis of an ellipsis is counted from behind."""

    operands: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    absorbed: Absorbed | None = None

    def summed(self) -> list[str]:
        """Return the letters that the output lacks, in order of appearance."""
        found = dict.fromkeys(letter for letters in self.operands for letter in letters)
        return [letter for letter in found if letter not in self.output]

    def axes(self, letter: str) -> list[tuple[int, int]]:
        """Return (operand, axis) of a letter."""
        return [(operand, letters.index(letter)) for operand, letters in enumerate(self.operands) if letter in letters]


def equation_of(spec: Spec) -> Equation | None:
    """Return the equation that the rule read, or ``None`` for other nodes."""
    return spec.extra if isinstance(spec.extra, Equation) else None


def parse(text: str, ranks: list[int], rank: int) -> Equation | None:
    """Read an equation for operands of known ranks; ``None`` for a letter twice in one term, or ranks that differ."""
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    if not arrow:
        letters = left.replace(ELLIPSIS, "").replace(",", "")
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        right = (ELLIPSIS if ELLIPSIS in left else "") + "".join(once)
    found = [_letters(term, size) for term, size in zip([*terms, right], [*ranks, rank], strict=True)]
    known = [letters for letters in found if letters is not None]
    return Equation(tuple(known[:-1]), known[-1]) if len(known) == len(found) else None


def _letters(term: str, rank: int) -> tuple[str, ...] | None:
    front, dots, back = term.partition(ELLIPSIS)
    free = rank - len(front) - len(back)
    if free < 0 or (free and not dots) or len(set(front + back)) != len(front + back):
        return None
    return (*front, *(f"{ELLIPSIS}{free - i}" for i in range(free)), *back)


@rule("Einsum")
class Einsum(Rule):
    """``out = sum over the letters it lacks of the product of the operands``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        sizes = [dims.sizes(value) for value in node.inputs]
        out = dims.sizes(node.outputs[0])
        known = [own for own in sizes if own is not None]
        text = node.attributes.get_string("equation", "")
        if out is None or len(known) != len(sizes) or text is None:
            return None
        found = parse(text, [len(own) for own in known], len(out))
        if found is None:
            return None
        links: list[Link] = []
        pinned: set[tuple[int, int]] = set()
        for axis, letter in enumerate(found.output):
            for operand, own in found.axes(letter):
                if dims.provably_equal(known[operand][own], out[axis]):
                    links.append(Link(operand, own, 0, axis))
                elif known[operand][own] != 1:
                    pinned.add((0, axis))
        contracted: list[tuple[int, int]] = []
        products: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for letter in found.summed():
            places = found.axes(letter)
            first = known[places[0][0]][places[0][1]]
            if not isinstance(first, int) or any(known[operand][axis] != first for operand, axis in places):
                continue
            live = [place for place in places if not facts.constants.known(node.inputs[place[0]])]
            contracted += places
            products += list(pairwise(live))
        whole = Equation(found.operands, found.output, _absorbed(node, found, contracted, facts))
        reason = "Einsum sums over this axis"
        return Spec(
            links, tuple(contracted), pinned=frozenset(pinned), reason=reason, products=tuple(products),
            at_source=True, extra=whole,
        )  # fmt: skip

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found, out = equation_of(spec), node.outputs[0]
        known = dims.static(out)
        if found is None or known is None or not all(facts.is_finite(value) for value in node.inputs):
            return
        for axis, size in enumerate(known):
            links = spec.of_output(0, axis)
            if size is None or not links or (0, axis) in spec.pinned:
                continue
            mask, fill = np.zeros(size, bool), np.zeros(size)
            for link in links:
                value = node.inputs[link.operand]
                assert value is not None
                along = facts.along(value, link.axis, size)
                if along is not None:
                    mask |= along[0] & (along[1] == 0)
                if facts.constants.known(value):
                    silent, constant = self._unfed(node, spec, found, link, facts)
                    fill = np.where(silent & ~mask, constant, fill)
                    mask |= silent
            facts.set_dead(out, axis, mask, fill if out.dtype is None else fill.astype(out.dtype.numpy()))

    @staticmethod
    def _unfed(node: ir.Node, spec: Spec, found: Equation, link: Link, facts: Facts) -> tuple[Mask, np.ndarray]:
        """Return (mask, fill) of a constant's positions that multiply nothing but constants, along a linked axis."""
        weight = node.inputs[link.operand]
        size = (dims.static(weight) or ())[link.axis]
        assert weight is not None and size is not None
        mask, fill = np.zeros(size, bool), np.zeros(size)
        for letter in found.summed():
            if letter not in found.operands[link.operand]:
                continue
            column = found.operands[link.operand].index(letter)
            for operand, axis in found.axes(letter):
                dead = facts.dead_axes(node.inputs[operand]).get(axis)
                if operand == link.operand or dead is None or (operand, axis) not in spec.contracted:
                    continue
                nonzero = facts.constants.nonzero(weight, link.axis, column)
                if nonzero is None:
                    continue
                zeros = dead.mask & (dead.fill == 0)
                mask |= ~(nonzero & ~zeros).any(axis=1)
                absorbed = found.absorbed
                if absorbed is None or (absorbed.operand, absorbed.axis) != (operand, axis):
                    continue
                silent = ~(nonzero & ~dead.mask).any(axis=1) & ~mask
                if silent.any():
                    added = contribution(node, found, absorbed, np.where(dead.mask, dead.fill, 0), facts)
                    own = found.output.index(found.operands[link.operand][link.axis])
                    rows = np.moveaxis(added, own, 0).reshape(size, -1)
                    silent &= (rows == rows[:, :1]).all(axis=1)
                    fill = np.where(silent, rows[:, 0], fill)
                    mask |= silent
        return mask, fill

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found = equation_of(spec)
        if found is None or facts.demand.get(node.outputs[0]) is None:
            through_links(node, spec, facts)
            return
        more: dict[int, Partial] = {}
        planes: list[tuple[ir.Value, int, Mask]] = []
        for operand, axis in spec.contracted:
            value = node.inputs[operand]
            if value is None or facts.constants.known(value):
                continue
            letter = found.operands[operand][axis]
            wanted = self._wanted(node, found, letter, operand, facts)
            dead = facts.dead_axes(value).get(axis)
            if dead is not None:
                absorbs = found.absorbed is not None and (found.absorbed.operand, found.absorbed.axis) == (
                    operand,
                    axis,
                )
                wanted &= ~dead.mask if absorbs else ~(dead.mask & (dead.fill == 0))
                planes.append((value, axis, wanted & dead.mask))
            if not wanted.all():
                more.setdefault(operand, {})[axis] = wanted
        through_links(node, spec, facts, more)
        for value, axis, mask in planes:
            facts.need_physically(value, axis, mask)

    @staticmethod
    def _wanted(node: ir.Node, found: Equation, letter: str, mine: int, facts: Facts) -> Mask:
        """Return where no other operand is zero along a summed letter, as far as the demanded outputs go."""
        size = (dims.static(node.inputs[mine]) or ())[found.operands[mine].index(letter)]
        assert size is not None
        wanted = np.ones(size, bool)
        out = node.outputs[0]
        for operand, axis in found.axes(letter):
            value = node.inputs[operand]
            if operand == mine or value is None:
                continue
            along = facts.along(value, axis, size)
            if along is not None:
                wanted &= ~(along[0] & (along[1] == 0))
            if not facts.constants.known(value):
                continue
            known = dims.static(value) or ()
            for row, other in enumerate(found.operands[operand]):
                target = found.output.index(other) if other in found.output else None
                rows = known[row]
                if target is None or rows is None or (dims.static(out) or ())[target] != rows:
                    continue
                nonzero = facts.constants.nonzero(value, row, axis)
                if nonzero is not None:
                    demanded = facts.demanded(out, target, rows)
                    dead = facts.dead_axes(out).get(target)
                    wanted &= nonzero[demanded if dead is None else demanded & ~dead.mask].any(axis=0)
        return wanted


def _absorbed(node: ir.Node, found: Equation, contracted: list[tuple[int, int]], facts: Facts) -> Absorbed | None:
    """Return the summed axis of a live operand whose constants add the same whatever the sample, if there is one."""
    if len(node.inputs) != 2:
        return None
    constant = [facts.constants.known(value) for value in node.inputs]
    dtype = node.outputs[0].dtype
    if constant.count(True) != 1 or dtype is None or not dtype.is_floating_point():
        return None
    weight = constant.index(True)
    x = 1 - weight
    summed = [axis for axis, letter in enumerate(found.operands[x]) if letter not in found.output]
    dead = [axis for axis in summed if axis in facts.dead_axes(node.inputs[x])]
    if len(dead) != 1 or any((x, axis) not in contracted for axis in summed):
        return None
    letters = found.operands[x]
    if any(letters[axis] not in found.operands[weight] for axis in summed):
        return None  # multiplied by a size
    return Absorbed(x, dead[0], letters[dead[0]], weight)


def contribution(node: ir.Node, found: Equation, absorbed: Absorbed, fill: np.ndarray, facts: Facts) -> np.ndarray:
    """Return what constants ``fill`` (``[k]``, zero for others) add, with the rank of the output (float64)."""
    value = node.inputs[absorbed.weight]
    array = facts.constants.array(value)
    assert value is not None and array is not None
    letters = list(found.operands[absorbed.weight])
    axis = letters.index(absorbed.letter)
    columns = np.flatnonzero(fill)
    summed = np.tensordot(np.take(array, columns, axis).astype(np.float64), fill[columns].astype(np.float64), (axis, 0))
    facts.constants.release(value)
    del letters[axis]
    summed = summed.sum(axis=tuple(i for i, letter in enumerate(letters) if letter not in found.output))
    letters = [letter for letter in letters if letter in found.output]
    order = sorted(range(len(letters)), key=lambda i: found.output.index(letters[i]))
    summed = np.transpose(summed, order)
    shape = [1] * len(found.output)
    for place, position in enumerate(order):
        shape[found.output.index(letters[position])] = summed.shape[place]
    return summed.reshape(shape)
