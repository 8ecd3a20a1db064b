"""The facts of one graph: what is dead, what is demanded, what must be physically there.

Three statements are kept about positions ``p`` of an axis ``a`` of a value ``v`` (``demasking.md`` §1 and §3):

* *dead*: ``v[..., p, ...]`` holds the constant ``fill[p]`` for every index of the other axes. The complement is the
  support. A fill is always finite; a constant that is not finite is not known.
* *demanded*: where position ``p`` is present in the value's layout, it must hold the right value. What is not demanded
  influences no graph output.
* *physical*: ``p`` is dead, yet a consumer needs it as a plane of memory (a nonzero constant in front of a convolution
  that pads with zeros).

``needed = demanded and (not dead or physical)`` is what a layout may not leave out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import Constants

Mask = np.ndarray
Partial = dict[int, Mask]
"""Axis → boolean mask of positions. An axis that is absent is demanded whole."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Dead positions of one axis: ``mask`` (bool ``[n]``) and ``fill`` (``[n]``, meaningful where ``mask``)."""

    mask: Mask
    fill: np.ndarray


@dataclass(frozen=True, slots=True)
class Link:
    """One input axis and one output axis hold the same positions.

    ``index`` maps output positions to input positions (``-1``: the output position comes from elsewhere); ``None`` is
    the identity.
    """

    operand: int
    axis: int
    out: int
    out_axis: int
    index: np.ndarray | None = None

    def repeats(self, dead: Dead | None) -> bool:
        """Tell whether a live input position is read more than once: each copy may be kept or dropped by itself.

        A dead one that is read often is the padding of a scatter.
        """
        if self.index is None:
            return False
        read = self.index[self.index >= 0]
        read = read if dead is None else read[~dead.mask[read]]
        return np.unique(read).size < read.size


@dataclass(frozen=True, slots=True)
class Block:
    """A run of input axes that becomes a run of output axes, sizes all static; one side has one axis."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    sizes: tuple[int, ...]
    """Sizes of the side with several axes."""

    @property
    def merges(self) -> bool:
        """Tell whether several input axes become one output axis."""
        return len(self.ins) > 1


@dataclass(frozen=True, slots=True)
class Group:
    """Positions that are kept or dropped together: everywhere the number is the same, so is the fate.

    ``inputs`` and ``outputs`` list (operand or output, axis, number of each position ``[n]``, ``-1``: not in the
    group). Heads of an attention operator are such groups: all positions of head ``h``, in query, key, value and
    result. An output axis that no link reaches takes its layout from here.
    """

    size: int
    """How many numbers there are."""
    inputs: tuple[tuple[int, int, np.ndarray], ...] = ()
    outputs: tuple[tuple[int, int, np.ndarray], ...] = ()
    gathered: bool = False
    """Inputs that cannot be narrowed are gathered from, rather than keeping the whole group."""


@dataclass(slots=True)
class Spec:
    """How the axes of a node's inputs and outputs belong together.

    Input axes that appear neither in ``links`` nor in ``contracted`` are needed whole, for ``reason``.
    """

    links: list[Link]
    contracted: tuple[tuple[int, int], ...] = ()
    """(operand, axis) that the operator sums over: a position may be missing if it is known what it would add."""
    unread: frozenset[int] = frozenset()
    pinned: frozenset[tuple[int, int]] = frozenset()
    """(output, axis) that must keep its full size although some input is linked to it."""
    reason: str | None = None
    blocks: tuple[Block, ...] = ()
    """Axes that a reshape merges or splits."""
    products: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
    """Pairs of contracted (operand, axis) of two operands, which are multiplied position by position and summed."""
    groups: tuple[Group, ...] = ()
    """Positions that the operator can only lose together."""
    at_source: bool = False
    """The node's own constants decide the positions of output axes that are linked to nothing else."""
    extra: object = None
    """What the operator's own rule wants to remember between the walks."""

    def of_operand(self, operand: int) -> list[Link]:
        """Return the links of one input."""
        return [link for link in self.links if link.operand == operand]

    def of_output(self, out: int, axis: int) -> list[Link]:
        """Return the links into one axis of one output."""
        return [link for link in self.links if link.out == out and link.out_axis == axis]


def sizes_only(value: ir.Value) -> bool:
    """Tell whether a value is a vector of integers: shapes, axes, indices. They are read whole and never narrowed."""
    return dims.rank(value) in (0, 1) and value.dtype is not None and value.dtype.is_integer()


@dataclass(slots=True)
class Facts:
    """Everything known about one graph at one moment; never changed by an edit, only computed anew."""

    graph: ir.Graph
    opset: int
    constants: Constants
    assume_finite: bool = True
    dead: dict[ir.Value, dict[int, Dead]] = field(default_factory=dict)
    demand: dict[ir.Value, Partial] = field(default_factory=dict)
    physical: dict[ir.Value, Partial] = field(default_factory=dict)
    specs: dict[ir.Node, Spec] = field(default_factory=dict)
    finite: set[ir.Value] = field(default_factory=set)
    forced: dict[tuple[ir.Value, int], Mask] = field(default_factory=dict)
    """Demands added by the plan: positions whose right value an absorbing zero relies on (see ``plan.classes``)."""
    borders: dict[ir.Node, np.ndarray] = field(default_factory=dict)
    """Chosen by the plan: the constant inputs that stand for all that are not zero in front of a node's zero padding,
    at most one a group; none where a map takes their place. Nodes that are not listed need every one of them."""
    skips: set[ir.Node] = field(default_factory=set)
    """Contractions with a weight for some of their input positions only, whatever else is read of that input."""
    captured: set[ir.Value] = field(default_factory=set)
    """Values read inside a subgraph of a control-flow node: needed whole."""
    sunk: dict[ir.Value, list[Facts]] = field(default_factory=dict)
    """Those of them that may be narrowed all the same, with the facts of the bodies that read them."""
    names: set[str] | None = None
    """Names that are taken in the whole model, where it has bodies; edits of any of its graphs add to them."""
    around: Facts | None = None
    """Facts of the graph around a body, as far as the walk had come when it met the body's node."""
    bodies: dict[ir.Graph, Facts] = field(default_factory=dict)
    """Facts of the bodies of this graph's nodes."""
    wanted: dict[ir.Value, Partial] = field(default_factory=dict)
    """What is demanded of graph outputs; of those that are not listed, everything."""

    # -- dead -------------------------------------------------------------------------------------------------------

    def set_dead(self, value: ir.Value, axis: int, mask: Mask, fill: np.ndarray) -> None:
        """Record dead positions; those with a fill that is not finite are dropped."""
        if fill.dtype.kind not in "iub":
            mask = mask & np.isfinite(fill.astype(np.float64, copy=False))
        if mask.any() and not sizes_only(value):
            self.dead.setdefault(value, {})[axis] = Dead(mask, fill)

    def dead_axes(self, value: ir.Value | None) -> dict[int, Dead]:
        """Return axis → dead positions of a value that is not a constant."""
        return {} if value is None else self.dead.get(value, {})

    def along(self, value: ir.Value, axis: int | None, size: int) -> tuple[Mask, np.ndarray] | None:
        """Return (mask, fill), each ``[size]``: where is the value, broadcast along an axis of ``size``, one constant?

        ``axis`` is the value's own axis that is aligned with it, or ``None`` where it has none.
        """
        known = dims.static(value)
        own = None if axis is None or known is None else known[axis]
        if self.constants.known(value):
            if own == size and axis is not None:
                found = self.constants.uniform(value, axis)
                return found if found is not None and found[0].any() else None
            single = self.constants.single(value)
            if single is None:
                return None
            return np.ones(size, bool), np.full(size, single)
        facts = self.dead.get(value)
        if not facts:
            return None
        if own == size and axis is not None:
            found = facts.get(axis)
            return None if found is None else (found.mask, found.fill)
        if own is None and axis is not None:
            return None
        for found in facts.values():
            if found.mask.all() and found.mask.size and bool((found.fill == found.fill[0]).all()):
                return np.ones(size, bool), np.full(size, found.fill[0])
        return None

    def alias(self, new: ir.Value, old: ir.Value) -> None:
        """Let an edit's stand-in answer for the value it replaces, until the facts are computed anew."""
        for known in (self.dead, self.demand, self.physical):
            if old in known:
                known[new] = known[old]  # type: ignore[assignment]

    # -- demand -----------------------------------------------------------------------------------------------------

    def contribute(self, value: ir.Value, partial: Partial) -> None:
        """Add one consumer's demand: positions of absent axes are all demanded."""
        have = self.demand.get(value)
        if have is None:
            self.demand[value] = dict(partial)
            return
        for axis in list(have):
            if axis not in partial:
                del have[axis]
                continue
            merged = have[axis] | partial[axis]
            if merged.all():
                del have[axis]
            else:
                have[axis] = merged

    def need_physically(self, value: ir.Value, axis: int, mask: Mask) -> None:
        """Record that dead positions must exist as planes of memory."""
        if mask.any():
            axes = self.physical.setdefault(value, {})
            axes[axis] = axes[axis] | mask if axis in axes else mask

    def demanded(self, value: ir.Value, axis: int, size: int) -> Mask:
        """Return which positions of an axis are demanded."""
        partial = self.demand.get(value)
        if partial is None:
            mask = np.zeros(size, bool)
        elif axis in partial:
            mask = partial[axis]
        else:
            mask = np.ones(size, bool)
        forced = self.forced.get((value, axis))
        return mask if forced is None else mask | forced

    def needed(self, value: ir.Value, axis: int, size: int) -> Mask:
        """Return ``demanded and (not dead or physical)``."""
        mask = self.demanded(value, axis, size)
        found = self.dead.get(value, {}).get(axis)
        if found is None:
            return mask
        planes = self.physical.get(value, {}).get(axis)
        live = ~found.mask if planes is None else ~found.mask | planes
        return mask & live

    # -- the rest ---------------------------------------------------------------------------------------------------

    def anything(self) -> bool:
        """Tell whether any position of any value is dead, not demanded, or not read by some contraction."""
        return bool(self.dead) or bool(self.skips) or any(self.demand.values())

    def is_finite(self, value: ir.Value | None) -> bool:
        """Tell whether every element is proved (or, under ``assume_finite``, taken) to be finite."""
        if value is None:
            return True
        if self.constants.known(value):
            return bool(self.constants.finite(value))
        if value.dtype is not None and value.dtype.is_integer():
            return True
        if self.assume_finite or value in self.finite:
            return True
        return any(dead.mask.all() for dead in self.dead.get(value, {}).values())  # a constant: fills are finite
