"""Positions of axes as numbered *cells*, and how the operators tie them: the ground that couplings stand on.

Every static axis that parameters decide has one cell a position. A reshape that splits an axis keeps one cell for each
of its positions, in a *part* over several axes: ``[heads * size]`` behind ``[heads, size]`` is still told apart, until
an operator treats all of ``size`` alike and so ties the cells of a head. An axis without cells is either *free* (made
of constants, which can be cut to any width) or as wide as it is for a reason nobody here decides: what meets it is
pinned.

The walk records three things, all as arrays: which cells are tied, which are pinned and why, and how zeros travel
(``plan/zeros.py``). One look at each node; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.attention import V, heads_of
from graphopt.facts.ops.contraction import Depthwise, geometry
from graphopt.facts.ops.elementwise import Elementwise
from graphopt.facts.ops.gathering import Lookup
from graphopt.facts.ops.layer_norm import first_axis, norm_of
from graphopt.facts.ops.normalization import Channels
from graphopt.facts.ops.shaping import pair_axes
from graphopt.facts.rules import find
from graphopt.facts.store import Facts, Group, Link, Spec, sizes_only
from graphopt.plan.zeros import Role, roles
from graphopt.subgraphs import subgraphs

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
TIED = "ties its states to themselves, step by step"
UNKNOWN = "reads it, and how it treats its axes is not known"
SUMS = frozenset({"Add", "Sub", "Sum"})
WEIGHTED = {"Conv": "convolution", "ConvTranspose": "convolution", "Gemm": "linear", "MatMul": "linear"}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Cells of some axes of a value, ``[size of axes[0], …]``; the outer factor of an axis that was split is first."""

    axes: tuple[int, ...]
    cells: np.ndarray


@dataclass(slots=True, eq=False)
class Travel:
    """How zeros come to the cells ``out`` (``[n]``) of a result.

    ``sources`` lists (role, ``[n, r]`` cells, -1 where another operand holds the position): one is zero where all of
    its ``r`` cells are.
    """

    out: np.ndarray
    sources: list[tuple[Role, np.ndarray]]
    possible: np.ndarray
    """``[n]`` (bool): nothing that has no cells stands against it."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Cells that are multiplied one by one and summed: one of each two has to be zero.

    ``b`` is absent where a sum or a norm reads ``a`` alone.
    """

    a: np.ndarray
    a_weight: bool
    b: np.ndarray | None = None
    b_weight: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A contraction: the cells that it reads (if any have) and writes.

    ``kind`` is ``computed`` where none of its operands is a weight: then the cells are those of its output alone.
    """

    node: ir.Node
    kind: str
    inputs: np.ndarray | None
    outputs: np.ndarray


@dataclass(slots=True)
class Cells:
    """What the walk over one graph recorded."""

    facts: Facts
    """Asked for constants alone."""
    parameters: Collection[str]
    count: int = 0
    parts: dict[ir.Value, dict[int, Part]] = field(default_factory=dict)
    free: set[ir.Value] = field(default_factory=set)
    """Values computed from constants that are no parameters."""
    free_axes: set[tuple[ir.Value, int]] = field(default_factory=set)
    weights: set[ir.Value] = field(default_factory=set)
    """Values computed from parameters and constants alone."""
    owned: list[tuple[str, int, np.ndarray]] = field(default_factory=list)
    """(parameter, axis, cells)."""
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    copies: list[tuple[np.ndarray, np.ndarray, Travel]] = field(default_factory=list)
    """(cells, their copies, how zeros come to the copies): a copy may be left by what it is a copy of."""
    pins: list[tuple[np.ndarray, str]] = field(default_factory=list)
    travels: list[Travel] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    tables: list[np.ndarray] = field(default_factory=list)
    """Cells that a table (an embedding) writes."""
    softmaxes: list[np.ndarray] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    """Cells where several computed operands are added up."""
    bare: Facts = field(init=False)
    """What operators are asked with: nothing but constants is known, so that it is the same whatever was pruned."""

    def __post_init__(self) -> None:
        self.bare = Facts(self.facts.graph, self.facts.opset, self.facts.constants)

    def walk(self) -> Cells:
        """Look at every node of the graph, once."""
        graph = self.facts.graph
        for name, value in graph.initializers.items():
            if name not in self.parameters or value.dtype is None or not value.dtype.is_floating_point():
                self.free.add(value)
                continue
            self.weights.add(value)
            for axis, size in enumerate(dims.static(value) or ()):
                if size:
                    part = Part((axis,), self.fresh(size))
                    self.parts.setdefault(value, {})[axis] = part
                    self.owned.append((name, axis, part.cells))
        for node in graph:
            self._node(node)
        for value in graph.outputs:
            self.pin_all(value, f"it is visible in the output '{value.name}'")
        return self

    # -- small things -------------------------------------------------------------------------------------------------

    def fresh(self, *shape: int) -> np.ndarray:
        """Return new cells."""
        size = int(np.prod(shape))
        cells = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return cells

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Let cells share their fate with others, one by one."""
        self.ties.append((np.ravel(a), np.ravel(b)))

    def pin(self, cells: np.ndarray, reason: str) -> None:
        """Let cells never leave."""
        self.pins.append((np.ravel(cells), reason))

    def pin_all(self, value: ir.Value, reason: str) -> None:
        """Pin all cells of a value."""
        for part in self.of(value):
            self.pin(part.cells, reason)

    def of(self, value: ir.Value | None) -> list[Part]:
        """Return the parts of a value, each once."""
        return [] if value is None else list({id(part): part for part in self.parts.get(value, {}).values()}.values())

    def give(self, value: ir.Value, part: Part) -> None:
        """Let a value have a part."""
        for axis in part.axes:
            self.parts.setdefault(value, {})[axis] = part

    def is_free(self, value: ir.Value, axis: int) -> bool:
        """Tell whether an axis can be cut to any width."""
        return value in self.free or (value, axis) in self.free_axes

    # -- one node -----------------------------------------------------------------------------------------------------

    def _node(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        bodies = list(subgraphs(node))
        inside = [
            value
            for body in bodies
            for each in body.all_nodes()
            for value in each.inputs
            if value is not None and value.graph is self.facts.graph
        ]
        rule = None if bodies or node.op_type in RECURRENT else find(node)
        if isinstance(rule, Elementwise) and rule.operands is not None:
            inputs = inputs[: rule.operands]  # of the others no more than their type is read
        every = [*inputs, *inside]
        if node.op_type in ("Shape", "Size") or all(value in self.free for value in every):
            self.free.update(node.outputs)
            return
        if all(value in self.free or value in self.weights for value in every):
            self.weights.update(node.outputs)
        spec = None if rule is None else rule.spec(node, self.bare)
        if spec is None:
            for value in every:
                self.pin_all(value, f"{node.op_type} {TIED if node.op_type in RECURRENT else UNKNOWN}")
        elif node.op_type in RESHAPES:
            self._reshape(node)
        else:
            _Ties(self, node, spec).make()

    def _reshape(self, node: ir.Node) -> None:
        value, out = node.inputs[0], node.outputs[0]
        known, wide = dims.sizes(value), dims.sizes(out)
        if value is None or known is None or wide is None:
            return
        runs = [run for ins, outs in pair_axes(known, wide) for run in _factored(ins, outs, known, wide)]
        by_axis = {axis: run for run in runs for axis in run.ins}
        taken: dict[int, str] = {}
        for part in sorted(self.of(value), key=lambda part: -part.cells.size):
            if not self._regroup(node, part, by_axis, taken):
                self.pin(part.cells, f"{node.op_type} regroups it")
        for run in runs:
            for axis in run.outs:
                inner = [place for place, size in enumerate(run.sizes) if run.out_of[place] == axis and size > 1]
                if inner and all(self.is_free(value, run.in_of[place]) for place in inner):
                    self.free_axes.add((out, axis))

    def _regroup(self, node: ir.Node, part: Part, by_axis: Mapping[int, _Run], taken: dict[int, str]) -> bool:
        """Take one part through a reshape; False where that cannot be said."""
        value, out = node.inputs[0], node.outputs[0]
        assert value is not None
        factors: list[tuple[int, int]] = []  # (first axis of the run, place of the factor in it)
        sizes: list[int] = []
        for axis, size in zip(part.axes, part.cells.shape, strict=True):
            if size == 1 and part.cells.size > 1:
                continue  # where a size of one stands is nothing but a way to write it
            run = by_axis.get(axis)
            if run is None:
                return False
            places = [place for place, of in enumerate(run.in_of) if of == axis]
            factors += [(run.ins[0], place) for place in places]
            sizes += [run.sizes[place] for place in places]
        if not factors or int(np.prod(sizes)) != part.cells.size:
            return False
        # The factors of the output axes that the part comes to, those of other axes included.
        axes: list[int] = []
        every: list[tuple[int, int]] = []
        shape: list[int] = []
        free, wide = True, False
        for first, place in factors:
            run = by_axis[first]
            axis = run.out_of[place]
            if axis in axes:
                continue
            axes.append(axis)
            inner = [k for k, of in enumerate(run.out_of) if of == axis]
            for k in inner:
                if (first, k) not in factors and run.sizes[k] > 1:
                    wide = True
                    free &= self.is_free(value, run.in_of[k])
            every += [(first, k) for k in inner]
            shape.append(int(np.prod([run.sizes[k] for k in inner])))
        if any(axis in taken for axis in axes):
            return False
        taken.update(dict.fromkeys(axes, ""))
        source = part.cells.reshape(sizes)
        order = [factors.index(each) for each in every if each in factors]
        source = source.transpose(order)
        full = [by_axis[first].sizes[place] for first, place in every]
        lead = [size if each in factors else 1 for size, each in zip(full, every, strict=True)]
        source = np.broadcast_to(source.reshape(lead), full).reshape(shape)
        made = Part(tuple(axes), self.fresh(*shape))
        self.give(out, made)
        travel = Travel(made.cells.ravel(), [("term", source.reshape(-1, 1))], np.ones(source.size, bool))
        self.travels.append(travel)
        if wide and free:
            self.copies.append((source.ravel(), made.cells.ravel(), travel))
        else:
            self.tie(source, made.cells)
        return True


@dataclass(frozen=True, slots=True)
class _Run:
    """Axes of a reshape with equal products, cut into factors: the input and the output axis that each is part of."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    sizes: list[int]
    in_of: list[int]
    out_of: list[int]


def _factored(ins: Sequence[int], outs: Sequence[int], known: dims.Sizes, wide: dims.Sizes) -> Iterable[_Run]:
    """Yield the run as the coarsest factors that both sides are products of; nothing where there are none."""
    if len(ins) == len(outs) == 1:
        size = known[ins[0]]
        if isinstance(size, int):
            yield _Run(tuple(ins), tuple(outs), [size], [ins[0]], [outs[0]])
        return
    ins, outs = [axis for axis in ins if known[axis] != 1], [axis for axis in outs if wide[axis] != 1]
    left = [size for axis in ins if isinstance(size := known[axis], int)]
    right = [size for axis in outs if isinstance(size := wide[axis], int)]
    if len(left) < len(ins) or len(right) < len(outs) or not left or np.prod(left) != np.prod(right):
        return
    i = j = 0
    a, b = left[0], right[0]
    sizes, in_of, out_of = [], [], []
    while True:
        step = min(a, b)
        if a % step or b % step:
            return
        sizes.append(step)
        in_of.append(ins[i])
        out_of.append(outs[j])
        a, b = a // step, b // step
        if a == 1:
            i += 1
            if i == len(ins):
                break
            a = left[i]
        if b == 1:
            j += 1
            b = right[j]
    yield _Run(tuple(ins), tuple(outs), sizes, in_of, out_of)


@dataclass(slots=True, eq=False)
class _Source:
    """What one part of one operand brings to some axes of an output: ``[sizes of axes…, r]``, -1 where nothing."""

    operand: int
    axes: tuple[int, ...]
    cells: np.ndarray


class _Ties:
    """The ties of one node whose axes are linked."""

    def __init__(self, cells: Cells, node: ir.Node, spec: Spec) -> None:
        self.cells, self.node, self.spec, self.facts = cells, node, spec, cells.facts
        self.roles = roles(node, spec, cells.facts, cells.free)
        self.links = list(spec.links)
        self.parts: list[list[Part]] = [cells.of(value) for value in node.inputs]
        self.read: set[int] = set()
        """Parts (by id) that a contraction, a sum or a norm reads."""
        self.geo = geometry(spec)
        rule = find(node)
        self.operands = len(node.inputs)
        if isinstance(rule, Elementwise) and rule.operands is not None:
            self.operands = rule.operands

    def make(self) -> None:
        node, spec = self.node, self.spec
        if isinstance(spec.extra, Lookup) and spec.extra.positions.ndim == 0:
            self._select(spec.extra)
        self._more_links()
        for position, out in enumerate(node.outputs):
            if not sizes_only(out):
                self._output(position, out)
        self._groups()
        self._contract()
        for operand, value in enumerate(node.inputs):
            if value is None or operand in spec.unread or operand >= self.operands:
                continue
            linked = {link.axis for link in self.links if link.operand == operand}
            for part in self.parts[operand]:
                if not linked.intersection(part.axes) and id(part) not in self.read:
                    self.cells.pin(part.cells, spec.reason or f"{node.op_type} needs the whole axis")

    def _select(self, found: Lookup) -> None:
        """One position of an axis is read, the axis is gone: the other axes of its part are those of that position."""
        axis, position = found.axis, int(found.positions)
        for place, part in enumerate(self.parts[0]):
            if axis in part.axes and len(part.axes) > 1:
                at = part.axes.index(axis)
                rest = tuple(other for other in part.axes if other != axis)
                self.parts[0][place] = Part(rest, part.cells.take(position, axis=at))

    def _more_links(self) -> None:
        node, geo = self.node, self.geo
        heads = heads_of(self.spec)
        if heads is not None:
            self.links.append(Link(V, heads.axis, 0, heads.axis, heads.source()))
        if isinstance(self.spec.extra, Channels) and self.spec.groups:
            own = [] if self.spec.extra.per_group else [Link(1, 0, 0, 1), Link(2, 0, 0, 1)]
            self.links += [Link(0, 1, 0, 1), *own]
        if geo is not None and geo.groups > 1 and geo.w_in > geo.w_out:
            known, out = dims.static(node.inputs[geo.x]), dims.static(node.outputs[0])
            channels, wide = (known or ())[geo.x_axis], (out or ())[geo.out_axis]
            if channels and channels == geo.groups and wide:  # one input a group: it leaves with all that is made of it
                self.links.append(Link(geo.x, geo.x_axis, 0, geo.out_axis, np.arange(wide) // (wide // channels)))

    # -- outputs ------------------------------------------------------------------------------------------------------

    def _output(self, position: int, out: ir.Value) -> None:
        known = dims.static(out)
        if known is None:
            for parts in self.parts:
                for part in parts:
                    self.cells.pin(part.cells, f"of what {self.node.op_type} makes of it nothing is known")
            return
        links = [link for link in self.links if link.out == position and known[link.out_axis]]
        sources: list[_Source] = []
        for operand, parts in enumerate(self.parts):
            by_axis = {link.axis: link for link in links if link.operand == operand}
            for part in parts:
                if any(axis in by_axis for axis in part.axes):
                    sources.append(self._source(operand, part, by_axis, known))
        done: set[int] = set()
        for axis, size in enumerate(known):
            if axis in done or size is None:
                continue
            together = _overlapping(axis, sources)
            done.update(axis for each in together for axis in each.axes)
            if together:
                self._join(out, position, together, links, known)
            else:
                mine = [link for link in links if link.out_axis == axis]
                values = [(value, link.axis) for link in mine if (value := self.node.inputs[link.operand]) is not None]
                copied = self.node.op_type in ("Expand", "Tile") and not mine
                if copied or (values and all(self.cells.is_free(*each) for each in values)):
                    self.cells.free_axes.add((out, axis))

    def _source(self, operand: int, part: Part, by_axis: Mapping[int, Link], known: tuple[int | None, ...]) -> _Source:
        linked = [axis for axis in part.axes if axis in by_axis]
        order = [part.axes.index(axis) for axis in (*linked, *(a for a in part.axes if a not in by_axis))]
        cells = part.cells.transpose(order)
        cells = cells.reshape(*cells.shape[: len(linked)], -1)
        for place, axis in enumerate(linked):
            index = by_axis[axis].index
            if index is not None:
                cells = cells.take(np.maximum(index, 0), axis=place)
                if (index < 0).any():
                    cells = cells.copy()
                    np.moveaxis(cells, place, 0)[index < 0] = -1
        return _Source(operand, tuple(by_axis[axis].out_axis for axis in linked), cells)

    def _join(
        self,
        out: ir.Value,
        position: int,
        sources: list[_Source],
        links: list[Link],
        known: tuple[int | None, ...],
    ) -> None:
        cells, node = self.cells, self.node
        axes = max((each.axes for each in sources), key=len)
        if {axis for each in sources for axis in each.axes} != set(axes) or any(known[axis] is None for axis in axes):
            for each in sources:
                cells.pin(each.cells[each.cells >= 0], f"{node.op_type} joins its axes in several ways")
            return
        shape = [size for axis in axes if (size := known[axis]) is not None]
        made = Part(axes, cells.fresh(*shape))
        cells.give(out, made)
        travel = Travel(made.cells.ravel(), [], np.ones(made.cells.size, bool))
        shown: set[int] = set()
        for each in sources:
            spread = self._spread(each, made)
            if spread is None:
                continue
            shown.add(each.operand)
            flat = spread.reshape(made.cells.size, -1)
            here = flat >= 0
            cells.tie(flat[here], np.broadcast_to(made.cells.reshape(-1, 1), flat.shape)[here])
            role = self.roles.get(each.operand, "given")
            if role != "given":
                travel.sources.append((role, flat))
        self._against(travel, shown, made, links, known)
        cells.travels.append(travel)
        for link in links:
            value = node.inputs[link.operand]
            if link.out_axis in axes and value is not None:
                owned = any(link.axis in part.axes for part in self.parts[link.operand])
                if not owned and not cells.is_free(value, link.axis):
                    self._keep(made, link.out_axis, f"it meets an axis of '{value.name}' that cannot be cut")
        for axis in axes:
            if (position, axis) in self.spec.pinned:
                self._keep(made, axis, f"{node.op_type} broadcasts it by sizes that are not known")
        self._mark(made, axes, sources)

    def _spread(self, source: _Source, made: Part) -> np.ndarray | None:
        """Return the source's cells ``[…, r]`` at every cell of the part; None where it is pinned instead."""
        if set(source.axes) == set(made.axes):
            return source.cells.transpose([*(source.axes.index(axis) for axis in made.axes), -1])
        inside = [made.axes.index(axis) for axis in source.axes]
        if made.axes[0] not in source.axes:
            # A factor inside of the leading one: that is the one whose positions leave, each with all of these.
            self.cells.pin(source.cells[source.cells >= 0], "it is a factor inside of another axis' positions")
            self._tie_along(made, inside)
            return None
        shape = [1] * len(made.axes)
        for place, at in enumerate(inside):
            shape[at] = source.cells.shape[place]
        ordered = source.cells.transpose([*np.argsort(inside), -1])
        return np.broadcast_to(ordered.reshape(*shape, -1), (*made.cells.shape, ordered.shape[-1]))

    def _tie_along(self, made: Part, places: list[int]) -> None:
        """Let what differs in these axes only have one fate."""
        rows = np.moveaxis(made.cells, places, range(len(places)))
        rows = rows.reshape(-1, *rows.shape[len(places) :])
        self.cells.tie(np.broadcast_to(rows[:1], rows.shape), rows)

    def _keep(self, made: Part, axis: int, reason: str) -> None:
        """Let an axis stay as wide as it is: a factor inside of another can do so while positions of that leave."""
        if axis == made.axes[0]:
            self.cells.pin(made.cells, reason)
        else:
            self._tie_along(made, [made.axes.index(axis)])

    def _against(
        self, travel: Travel, shown: set[int], made: Part, links: list[Link], known: tuple[int | None, ...]
    ) -> None:
        """Find the positions that a term without cells keeps from being zero, and those that no operand holds."""
        covered = np.zeros(travel.out.size, bool)
        factors = False
        for role, flat in travel.sources:
            factors |= role == "factor"
            if role == "term":
                covered |= (flat >= 0).all(axis=1)
        for operand, role in self.roles.items():
            value = self.node.inputs[operand] if operand < len(self.node.inputs) else None
            if role != "term" or operand in shown or value is None:
                continue
            zero, held = self._known_zero(value, operand, made, links)
            covered |= held
            travel.possible &= zero
        if not factors and self.node.op_type != "Pad":
            travel.possible &= covered

    def _known_zero(
        self, value: ir.Value, operand: int, made: Part, links: list[Link]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (zero or elsewhere, held here), each ``[n]``, of an operand without cells on the part's axes."""
        count = made.cells.size
        ones = np.ones(count, bool)
        mine = [link for link in links if link.operand == operand and link.out_axis in made.axes]
        index = mine[0].index if len(mine) == 1 else None
        held = ones
        if index is not None:
            place = made.axes.index(mine[0].out_axis)
            shape = [-1 if at == place else 1 for at in range(len(made.axes))]
            held = np.broadcast_to((index >= 0).reshape(shape), made.cells.shape).ravel()
        known = self.facts.along(value, None, 1) if value in self.cells.free else None
        zero = known is not None and not known[1].any()
        if not zero and value in self.cells.free and len(mine) == 1 and len(made.axes) == 1:
            size = (dims.static(value) or ())[mine[0].axis]
            found = None if size is None else self.facts.along(value, mine[0].axis, size)
            if found is not None:
                line = found[0] & (found[1] == 0)
                line = line if index is None else line[np.maximum(index, 0)]
                return (line & held) | ~held, held
        return (ones if zero else ~held), held

    def _mark(self, made: Part, axes: tuple[int, ...], sources: list[_Source]) -> None:
        cells, node, geo = self.cells, self.node, self.geo
        computed = {each.operand for each in sources if node.inputs[each.operand] not in cells.weights}
        if node.op_type in SUMS and len(computed) > 1:
            cells.sums.append(made.cells)
        if node.op_type in ("Softmax", "Attention", "MultiHeadAttention"):
            cells.softmaxes.append(made.cells)
        if node.op_type == "Gather" and node.inputs[0] in cells.weights and node.inputs[1] not in cells.free:
            cells.tables.append(made.cells)
        kind = WEIGHTED.get(node.op_type)
        weights = [place for place, value in enumerate(node.inputs[:2]) if value in cells.weights]
        if kind is not None and not weights:
            cells.products.append(Product(node, "computed", None, made.cells))
        if kind is not None and len(weights) == 1 and any(each.operand == weights[0] for each in sources):
            other = 1 - weights[0]
            axis = self._contracted_axis(other)
            inputs = None
            if isinstance(self.spec.extra, Depthwise):
                inputs = made.cells
            elif axis is not None:
                inputs = next((part.cells for part in self.parts[other] if part.axes == (axis,)), None)
            cells.products.append(Product(node, kind, inputs, made.cells))
        if geo is not None and geo.groups > 1 and geo.out_axis in axes and len(axes) == 1:
            known = (dims.static(node.inputs[geo.x]) or ())[geo.x_axis]
            if known != geo.groups:
                rows = made.cells.reshape(geo.groups, -1)
                cells.tie(np.broadcast_to(rows[:1], rows.shape), rows)

    def _contracted_axis(self, operand: int) -> int | None:
        if self.geo is not None:
            return self.geo.x_axis if operand == self.geo.x else None
        for pair in self.spec.products:
            for place, axis in pair:
                if place == operand:
                    return axis
        return None

    # -- groups, contractions, sums -----------------------------------------------------------------------------------

    def _groups(self) -> None:
        cells, node = self.cells, self.node
        if node.op_type in ("Expand", "Tile"):
            return
        for group in self.spec.groups:
            hub = cells.fresh(group.size)
            for operand, axis, numbers in group.inputs:
                value = node.inputs[operand]
                part = next((part for part in self.parts[operand] if axis in part.axes), None)
                inside = numbers >= 0
                if part is not None:
                    rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
                    cells.tie(rows[inside], np.broadcast_to(hub[numbers[inside], None], rows[inside].shape))
                    self.read.add(id(part))
                elif value is not None and not cells.is_free(value, axis) and not group.gathered:
                    cells.pin(hub, f"{node.op_type} keeps it with '{value.name}', which cannot be cut")
            self._through(group, hub)
            for position, axis, numbers in group.outputs:
                out, inside = node.outputs[position], numbers >= 0
                part = cells.parts.get(out, {}).get(axis)
                if part is None:
                    part = Part((axis,), cells.fresh(numbers.size))
                    cells.give(out, part)
                    source = hub[np.maximum(numbers, 0)].reshape(-1, 1)
                    cells.travels.append(Travel(part.cells, [("term", source)], inside))
                    cells.pin(part.cells[~inside], f"{node.op_type} makes it of nothing that can be cut")
                rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
                cells.tie(rows[inside], np.broadcast_to(hub[numbers[inside], None], rows[inside].shape))

    def _through(self, group: Group, hub: np.ndarray) -> None:
        """Where every number has as many positions of the one operand: zero if all of them are."""
        if len(group.inputs) != 1 or self.roles.get(group.inputs[0][0]) != "term":
            return
        operand, axis, numbers = group.inputs[0]
        part = next((part for part in self.parts[operand] if axis in part.axes), None)
        counts = np.bincount(numbers[numbers >= 0], minlength=group.size)
        if part is None or (numbers < 0).any() or (counts != counts[:1]).any():
            return
        rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
        sources = rows[np.argsort(numbers, kind="stable")].reshape(group.size, -1)
        self.cells.travels.append(Travel(hub, [("term", sources)], np.ones(group.size, bool)))

    def _contract(self) -> None:
        node, spec, geo = self.node, self.spec, self.geo
        norm = norm_of(spec)
        if norm is not None:
            first = first_axis(node, dims.rank(node.inputs[0]) or 0)
            for operand in norm.addends:
                for part in self.parts[operand]:
                    if self._linked(operand, part) and all(axis >= first for axis in part.axes):
                        self._alone(operand, part)
            return
        if geo is not None:
            self._pair(geo.x, geo.x_axis, geo.w, geo.w_in, geo.groups if geo.w_in > geo.w_out else 1)
            return
        paired = set()
        for (a, a_axis), (b, b_axis) in spec.products:
            self._pair(a, a_axis, b, b_axis)
            paired |= {(a, a_axis), (b, b_axis)}
        grouped = {end[:2] for group in spec.groups for end in group.inputs}
        for operand, axis in spec.contracted:
            part = self._alone_on(operand, axis)
            if (operand, axis) not in paired | grouped and part is not None:
                self._alone(operand, part)

    def _linked(self, operand: int, part: Part) -> bool:
        linked = {link.axis for link in self.links if link.operand == operand}
        return bool(linked.intersection(part.axes))

    def _alone_on(self, operand: int, axis: int) -> Part | None:
        """Return the part of an axis all of whose axes are read here: elsewhere a position is tied, not read."""
        part = next((part for part in self.parts[operand] if axis in part.axes), None)
        return None if part is None or self._linked(operand, part) else part

    def _alone(self, operand: int, part: Part) -> None:
        self.read.add(id(part))
        self.cells.reads.append(Read(part.cells.ravel(), self.node.inputs[operand] in self.cells.weights))

    def _pair(self, a: int, a_axis: int, b: int, b_axis: int, groups: int = 1) -> None:
        cells, node = self.cells, self.node
        ends = [(a, a_axis), (b, b_axis)]
        whole = [next((part for part in self.parts[place] if axis in part.axes), None) for place, axis in ends]
        parts = [self._alone_on(place, axis) for place, axis in ends]
        if all(part is not None and alone is None for part, alone in zip(whole, parts, strict=True)):
            return  # inside of what is linked: tied already
        for mine in (0, 1):
            part, value = parts[mine], node.inputs[ends[1 - mine][0]]
            if part is None or parts[1 - mine] is not None or value is None:
                continue
            if whole[1 - mine] is None and cells.is_free(value, ends[1 - mine][1]):
                self._alone(ends[mine][0], part)
            else:
                self.read.add(id(part))
                cells.pin(part.cells, f"it meets an axis of '{value.name}' that cannot be cut")
        first, second = parts
        if first is None or second is None:
            return
        self.read |= {id(first), id(second)}
        if len(first.axes) > 1 or len(second.axes) > 1:
            for part in (first, second):
                cells.pin(part.cells, f"{node.op_type} sums over several of its axes")
            return
        left, right = first.cells, np.tile(second.cells, groups)
        if left.size != right.size:
            for part in (first, second):
                cells.pin(part.cells, f"{node.op_type} reads it in groups of another size")
            return
        cells.tie(left, right)
        one, other = (node.inputs[place] in cells.weights for place in (a, b))
        cells.reads.append(Read(left, one, right, other))


def _overlapping(axis: int, sources: list[_Source]) -> list[_Source]:
    """Return the sources that come to an axis, and those that share an axis with one of them."""
    axes, found = {axis}, list[_Source]()
    while True:
        more = [each for each in sources if each not in found and axes.intersection(each.axes)]
        if not more:
            return found
        found += more
        axes.update(axis for each in more for axis in each.axes)


__all__ = ["Cells", "Part", "Product", "Read", "Travel"]
