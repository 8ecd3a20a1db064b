"""Values that are another value rearranged: chains of Reshape, Transpose and their like, followed by factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.entries import REST, Entries, Entry
from graphopt.facts.factors import ONE, Axes, Factor, Product, product_of, regrouped, simplified, total, whole
from graphopt.facts.misread import UNNAMED, computed, entries_of, misread, symbols
from graphopt.facts.store import sizes_only

MOVES = frozenset("Reshape Transpose Flatten Squeeze Unsqueeze Identity Slice Expand Tile".split())
"""Operators that rearrange all of their input (Slice: where it takes everything), or repeat it."""

UNKNOWN = "\0"
"""Begins the symbol of a size about which nothing is known; no name in a model does."""

EVERYTHING = 2**31 - 1
"""An end that is no smaller than any axis."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A value as its root's factors, axis by axis."""

    root: ir.Value
    sizes: tuple[Product, ...]
    """Of the root, an unknown size is a symbol of its own; then of the repetitions, as if they were axes of it."""
    axes: Axes
    nodes: int = 0
    """How many nodes lie between."""
    alone: int = 0
    """How many of the last of them work for this value alone (who only reads a shape does not count)."""
    merged: bool = False
    """A value in between has an axis that joins several factors."""

    @property
    def repeats(self) -> bool:
        """Whether something between repeats what it reads."""
        return len(self.sizes) > (dims.rank(self.root) or 0)

    def shape(self) -> list[dims.Size]:
        """Return the value's sizes."""
        return [None if UNKNOWN in str(size.size) else size.size for size in map(total, self.axes)]


@dataclass(slots=True)
class Arrangements:
    """Finds the arrangement of every value of a graph, in graph order."""

    constants: Constants
    fatal: set[str] = field(default_factory=set)
    """Symbols: where they are zero, some reshape of the graph fails."""
    entries: Entries = field(init=False)
    _doubts: dict[ir.Value, frozenset[str]] = field(default_factory=dict)
    """Symbols: where they are zero, a value may have another shape than the recorded one."""
    _found: dict[ir.Value, Arrangement | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = Entries(self.constants, self.sizes)

    def sizes(self, value: ir.Value) -> Sequence[dims.Size] | None:
        """Return a value's sizes, as far as its arrangement or its recorded shape tells."""
        found = self._found.get(value)
        return dims.sizes(value) if found is None or not found.nodes else found.shape()

    def of(self, value: ir.Value) -> Arrangement | None:
        """Return how a value is arranged; itself, where no chain makes it; ``None`` where its rank is unknown."""
        if value not in self._found:
            self._found[value] = _root(value)
        return self._found[value]

    def enter(self, value: ir.Value, found: Arrangement) -> None:
        """Record what an edit has made."""
        self._found[value] = found

    def certain(self, value: ir.Value) -> bool:
        """Tell whether a value has its recorded sizes wherever the graph runs; once all nodes have been visited."""
        return self._doubts.get(value, frozenset()) <= self.fatal

    def visit(self, node: ir.Node) -> Arrangement | None:
        """Follow one node; its inputs have been visited."""
        found = self._visit(node)
        doubts = self._zeros(node)
        if self._doubts:
            doubts = doubts.union(*(self._doubts.get(value, ()) for value in node.inputs if value is not None))
        if doubts:
            self._doubts.update(dict.fromkeys(node.outputs, doubts))
        return found

    def _visit(self, node: ir.Node) -> Arrangement | None:
        source = node.inputs[0] if node.inputs else None
        if source is None or node.domain not in ("", "ai.onnx") or node.op_type not in MOVES or is_constant(source):
            return None
        if sizes_only(source):
            return None  # shapes
        before = self.of(source)
        axes = None if before is None else self._step(node, before)
        if before is None or axes is None:
            return None
        sizes = before.sizes
        if node.op_type in ("Expand", "Tile"):
            axes, more = _with_repetitions(axes, len(sizes))
            sizes += more
        merged = before.merged or (before.nodes > 0 and any(len(axis) > 1 for axis in before.axes))
        readers = sum(use.node.op_type != "Shape" for use in source.uses()) + source.is_graph_output()
        alone = before.alone + 1 if readers == 1 else 1
        found = Arrangement(before.root, sizes, axes, before.nodes + 1, alone, merged)
        self._found[node.outputs[0]] = found
        return found

    def _step(self, node: ir.Node, before: Arrangement) -> Axes | None:
        axes = before.axes
        rank = len(axes)
        if node.op_type == "Identity":
            return axes
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
            return tuple(axes[axis] for axis in perm)
        if node.op_type == "Flatten":
            axis = node.attributes.get_int("axis", 1)
            axis += rank if axis < 0 else 0
            parts = axes[:axis], axes[axis:]
            return tuple(simplified([factor for part in half for factor in part]) for half in parts)
        if node.op_type == "Tile":
            return self._tiled(node, before)
        if node.op_type == "Expand":
            return self._expanded(node, before)
        if node.op_type == "Slice":
            return axes if self._takes_everything(node, before) else None
        if node.op_type in ("Squeeze", "Unsqueeze"):
            return self._ones(node, axes)
        return self._reshaped(node, before)

    def _ones(self, node: ir.Node, axes: Axes) -> Axes | None:
        """Squeeze and Unsqueeze take away and add axes of size one."""
        given = node.attributes.get_ints("axes", None)
        if given is None:
            given = self.constants.ints(node.inputs[1]) if len(node.inputs) > 1 else None
        if given is None:
            return None
        rank = len(axes) + (len(given) if node.op_type == "Unsqueeze" else 0)
        named = {axis + rank if axis < 0 else axis for axis in given}
        if node.op_type == "Squeeze":
            if any(axes[axis] for axis in named):
                return None  # of a size that is not known to be one
            return tuple(factors for axis, factors in enumerate(axes) if axis not in named)
        rest = iter(axes)
        return tuple(() if axis in named else next(rest) for axis in range(rank))

    def _takes_everything(self, node: ir.Node, before: Arrangement) -> bool:
        if len(node.inputs) < 2:
            return False
        starts, ends = self.constants.ints(node.inputs[1]), self.constants.ints(node.inputs[2])
        axes = self.constants.ints(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
        if starts is None or ends is None or (axes is None and len(node.inputs) > 3 and node.inputs[3] is not None):
            return False
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            steps = self.constants.ints(node.inputs[4])
            if steps is None or any(step != 1 for step in steps):
                return False
        sizes = [total(factors).static for factors in before.axes]
        for place, axis in enumerate(range(len(starts)) if axes is None else axes):
            size = sizes[axis]
            if starts[place] != 0 or not (ends[place] >= EVERYTHING or (size is not None and ends[place] >= size)):
                return False
        return True

    def _tiled(self, node: ir.Node, before: Arrangement) -> Axes | None:
        repeats = self.constants.ints(node.inputs[1]) if len(node.inputs) == 2 else None
        if repeats is None or len(repeats) != len(before.axes) or any(count < 1 for count in repeats):
            return None
        return tuple((*_repetition(count), *axis) for count, axis in zip(repeats, before.axes, strict=True))

    def _expanded(self, node: ir.Node, before: Arrangement) -> Axes | None:
        recorded, found = dims.sizes(node.outputs[0]), self.entries.of(node.inputs[1])
        if recorded is None or found is None or len(found) > len(recorded):
            return None
        known: list[Entry] = [ONE] * (len(recorded) - len(found)) + found
        axes = ((),) * (len(recorded) - len(before.axes)) + before.axes
        result: list[tuple[Factor, ...]] = []
        for axis, entry, size in zip(axes, known, recorded, strict=True):
            target = entry if isinstance(entry, Product) else product_of(size)
            if target in (ONE, total(axis)):
                result.append(axis)
            elif axis or target is None or target.static is None:
                return None
            else:
                result.append(_repetition(target.static))
        return tuple(result)

    def _reshaped(self, node: ir.Node, before: Arrangement) -> Axes | None:
        recorded = dims.sizes(node.outputs[0])
        found = self.entries.of(node.inputs[1]) if len(node.inputs) > 1 else None
        if recorded is None or (found is not None and len(found) != len(recorded)):
            return None
        targets: list[Product | None] = []
        for place, size in enumerate(recorded):
            target = product_of(size)
            if target is not None and target.symbols and found is not None and found[place] == REST:
                target = None  # whatever its name is, it is what the others leave
            if target is None and found is not None and size != 0:
                entry = found[place]
                if entry == 0 and not node.attributes.get_int("allowzero", 0) and place < len(before.axes):
                    target = total(before.axes[place])
                elif isinstance(entry, Product):
                    target = entry
                elif entry != REST:
                    return None
            elif target is None:
                return None
            targets.append(target)
        return regrouped([factor for factors in before.axes for factor in factors], targets)

    def _zeros(self, node: ir.Node) -> frozenset[str]:
        """Return symbols that a reshape may misread where they are zero; note those where it fails.

        Without ``allowzero`` an entry of zero says "the same size as before", even if it was computed.
        """
        value, recorded = node.inputs[0] if node.inputs else None, dims.sizes(node.outputs[0])
        if value is None or not computed(node):
            return frozenset()
        before, shape = self.sizes(value), node.inputs[1]
        if before is None or recorded is None:
            return frozenset({UNKNOWN})
        entries = entries_of(self.entries, shape, recorded)
        for entry in entries[len(before) :]:
            # There is no such size.
            self.fatal |= symbols(entry) - self._doubts.get(shape, frozenset()) - {UNNAMED}  # type: ignore[arg-type]
        return frozenset().union(*misread(before, entries).values())


REPEATED = -1
"""Stands for the number of a repetition until it gets one."""


def _repetition(count: int) -> tuple[Factor, ...]:
    return () if count == 1 else (Factor(REPEATED, ONE, Product(count), ONE),)


def _with_repetitions(axes: Axes, number: int) -> tuple[Axes, tuple[Product, ...]]:
    """Give each new repetition a number of its own, from ``number`` on; return their sizes, too."""
    sizes: list[Product] = []

    def numbered(factor: Factor) -> Factor:
        if factor.axis != REPEATED:
            return factor
        sizes.append(factor.size)
        return Factor(number + len(sizes) - 1, ONE, factor.size, ONE)

    return tuple(tuple(numbered(factor) for factor in axis) for axis in axes), tuple(sizes)


def once(found: Arrangement) -> tuple[Arrangement, int, np.ndarray] | None:
    """Return the arrangement without its repetitions, the axis along which it is repeated, and the index that does it.

    ``None`` where several axes repeat, or one of unknown size.
    """
    real = dims.rank(found.root) or 0
    axes = tuple(tuple(factor for factor in axis if factor.axis < real) for axis in found.axes)
    repeated = [place for place, axis in enumerate(found.axes) if len(axis) > len(axes[place])]
    if len(repeated) != 1:
        return None
    place = repeated[0]
    if any(factor.size.symbols for factor in found.axes[place]):
        return None
    sizes = [factor.size.number for factor in found.axes[place]]
    own = [factor.size.number if factor.axis < real else 1 for factor in found.axes[place]]
    index = np.broadcast_to(np.arange(total(axes[place]).number).reshape(own), sizes).ravel()
    plain = tuple(simplified(axis) for axis in axes)
    return Arrangement(found.root, found.sizes[:real], plain, found.nodes, found.alone, found.merged), place, index


def _root(value: ir.Value) -> Arrangement | None:
    sizes = dims.sizes(value)
    if sizes is None or 0 in sizes:
        return None
    products = tuple(
        product_of(size) or Product(1, (f"{UNKNOWN}{axis}",)) if size != 1 else ONE for axis, size in enumerate(sizes)
    )
    return Arrangement(value, products, whole(products))


def digits(found: Arrangement) -> list[list[Factor]]:
    """Return, for each axis of the root, the factors that the arrangement cuts it into, outermost first.

    Neighbours that the arrangement keeps together are one factor.
    """
    result: list[list[Factor]] = [[] for _ in found.sizes]
    for axis in found.axes:
        for factor in axis:
            result[factor.axis].append(factor)
    for factors in result:
        factors.sort(key=lambda factor: (len(factor.outer.symbols), factor.outer.number))
    return result
