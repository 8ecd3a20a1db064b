"""One edit of one graph: new constants, new nodes, and values in the layout a consumer wants.

The three *forms* in which gathers and scatters appear:

* ``local``: a value is whole between operators; an operator gathers what it reads and scatters what it writes.
* ``carried``: values are dense; wherever a consumer wants another layout, the value is scattered to its original
  size and gathered from there, so that both can be seen.
* ``composed``: the two are one index: nothing, a gather, or a scatter.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir._core import Usage

from graphopt import dims
from graphopt.facts.constants import is_constant, stored
from graphopt.facts.store import Facts
from graphopt.plan.classes import Layout, Plan
from graphopt.rewrite import moves, quantized, weights

_WORDS = frozenset(
    "rows scattered padded filled fills fill gathered same dense shape rest positions places index".split()
)
_SUFFIXES = re.compile(rf"(_({'|'.join(sorted(_WORDS))})(_[0-9]+)?)+$")
"""What earlier edits appended to a name; appended once, however often a value is moved."""

Form = Literal["local", "carried", "composed"]


@dataclass(slots=True)
class Cursor:
    """A place in a graph where new nodes go, one after the other."""

    graph: ir.Graph
    after: ir.Node | None = None
    before: ir.Node | None = None

    @classmethod
    def behind(cls, value: ir.Value, graph: ir.Graph) -> Cursor:
        """Return the place right behind a value's producer; the front for inputs, initializers and outer values."""
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            return cls(graph, after=producer)
        for first in graph:
            return cls(graph, before=first)
        return cls(graph)

    def insert(self, node: ir.Node) -> None:
        """Insert a node here; the next one comes behind it."""
        if self.after is not None:
            self.graph.insert_after(self.after, node)
            self.after = node
        elif self.before is not None:
            self.graph.insert_before(self.before, node)
        else:
            self.graph.append(node)


@dataclass(slots=True)
class Edit:
    """The state of one edit. Operators' own rewrites (``rewrite/ops``) only see this object."""

    plan: Plan
    form: Form
    cut_weights: bool
    """Write cut weights as new initializers; otherwise as ``Gather`` nodes on the old ones."""
    layouts: dict[ir.Value, Layout] = field(default_factory=dict)
    """What each value's dense form holds, in positions of its original axes."""
    whole_shapes: dict[ir.Value, tuple[dims.Size, ...]] = field(default_factory=dict)
    """Original sizes of values that were narrowed."""
    counts: Counter[str] = field(default_factory=Counter)
    moved: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    constants: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    origins: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """The value of the analysed graph that a new value stands for."""
    stands: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        if self.facts.names is not None:
            self.names = self.facts.names
            return
        self.names.update(graph.initializers)
        self.names.update(value.name or "" for value in graph.inputs)
        for node in graph:
            self.names.add(node.name or "")
            self.names.update(value.name or "" for value in node.outputs)

    @property
    def facts(self) -> Facts:
        """The facts the plan was made from (of the graph before this edit)."""
        return self.plan.facts

    @property
    def graph(self) -> ir.Graph:
        """The graph under edit."""
        return self.plan.facts.graph

    # -- names, constants, nodes --------------------------------------------------------------------------------------

    def name(self, base: str) -> str:
        """Return a name that no value has."""
        stem, _, last = base.rpartition("_")
        base = f"{_SUFFIXES.sub('', stem)}_{last}" if last in _WORDS else base
        candidate, number = base, 1
        while candidate in self.names:
            candidate, number = f"{base}_{number}", number + 1
        self.names.add(candidate)
        return candidate

    def constant(self, array: np.ndarray, base: str, dtype: ir.DataType | None = None) -> ir.Value:
        """Return an initializer holding ``array``; equal small constants are shared."""
        key = ("const", array.dtype.str, array.shape, array.tobytes(), dtype) if array.size <= 4096 else None
        if key is not None and key in self.constants:
            return self.constants[key]
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype)
        value = self.initializer(tensor, base)
        if key is not None:
            self.constants[key] = value
        return value

    def initializer(self, tensor: ir.TensorProtocol, base: str, home: ir.Graph | ir.Function | None = None) -> ir.Value:
        """Register a tensor as a new initializer of this graph, or of one around it."""
        name = self.name(base)
        tensor.name = name
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        (home if isinstance(home, ir.Graph) else self.graph).register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        place: Cursor,
        base: str,
        shape: tuple[dims.Size, ...] | list[dims.Size] | None,
        like: ir.Value,
        attributes: list[ir.Attr] | None = None,
        dtype: ir.DataType | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Insert a node and return its output."""
        output = ir.Value(
            name=self.name(base),
            shape=None if shape is None else ir.Shape(list(shape)),
            type=like.type if dtype is None else ir.TensorType(dtype),
        )
        node = ir.Node(domain, op_type, inputs, attributes or [], outputs=[output], name=output.name)
        trace = like.producer()
        if trace is not None and "pkg.torch.onnx.stack_trace" in trace.metadata_props:
            node.metadata_props["pkg.torch.onnx.stack_trace"] = trace.metadata_props["pkg.torch.onnx.stack_trace"]
        place.insert(node)
        return output

    def before(self, node: ir.Node) -> Cursor:
        """Return the place right in front of a node."""
        return Cursor(self.graph, before=node)

    def behind(self, value: ir.Value) -> Cursor:
        """Return the place right behind a value's producer."""
        return Cursor.behind(value, self.graph)

    # -- layouts ------------------------------------------------------------------------------------------------------

    def layout(self, value: ir.Value) -> Layout:
        """Return the layout of a value in its present dense form."""
        return self.layouts.get(value, {})

    def sizes(self, value: ir.Value) -> tuple[dims.Size, ...] | None:
        """Return the original sizes of a value's axes."""
        return self.whole_shapes.get(value) or dims.sizes(value)

    def origin(self, value: ir.Value) -> ir.Value:
        """Return the value of the analysed graph that this value stands for."""
        return self.origins.get(value, value)

    def current(self, value: ir.Value) -> ir.Value:
        """Return what stands for a value of the analysed graph now."""
        return self.stands.get(value, value)

    def stand_in(self, old: ir.Value, new: ir.Value, users: list[Usage]) -> None:
        """Let ``new`` take the place of ``old`` for the given users and as a graph output, with its name.

        It stands for the same positions; an edit that gives it another layout says so afterwards.
        """
        self.layouts[new] = self.layout(old)
        known = self.sizes(old)
        if known is not None:
            self.whole_shapes[new] = known
        self.facts.alias(new, self.origin(old))
        for use in users:
            use.node.replace_input_with(use.idx, new)
        for position, output in enumerate(self.graph.outputs):
            if output is old:
                self.graph.outputs[position] = new
                old_name = old.name
                old.name = self.name(f"{old_name}_dense")
                new.name = old_name
        origin = self.origin(old)
        self.origins[new] = origin
        self.stands[origin] = new

    def planned(self, value: ir.Value) -> Layout:
        """Return the layout the plan wants a value to have."""
        return self.plan.layouts.get(value, {})

    def narrow_value(self, value: ir.Value, layout: Layout) -> None:
        """Record that a value now holds a dense form; its recorded shape follows."""
        if not layout:
            return
        if value not in self.whole_shapes:
            known = dims.sizes(value)
            assert known is not None
            self.whole_shapes[value] = known
        self.layouts[value] = layout
        for axis, kept in layout.items():
            dims.resize(value, axis, int(kept.size))

    def fill(self, value: ir.Value, axis: int, size: int) -> np.ndarray:
        """Return ``[size]``: the constant of each position that is dead, zero for positions nobody demands."""
        dead = self.facts.dead_axes(self.origin(value)).get(axis)
        dtype = value.dtype.numpy() if value.dtype is not None else np.float32
        if dead is None:
            return np.zeros(size, dtype)
        return np.where(dead.mask, dead.fill, np.zeros(1, dead.fill.dtype)).astype(dtype)

    def operand(self, node: ir.Node, position: int, wanted: Layout, *, visible: bool = False) -> None:
        """Give a node's input the layout the node wants: cut a constant, gather or scatter anything else."""
        value = node.inputs[position]
        assert value is not None
        result = (
            self.cut(value, wanted)
            if self.facts.constants.known(value)
            else self.convert(value, wanted, visible=visible)
        )
        if result is not value:
            node.replace_input_with(position, result)

    def convert(self, value: ir.Value, wanted: Layout, *, visible: bool = False) -> ir.Value:
        """Return a value in another layout, inserting right behind its producer what is needed.

        ``visible``: scatter to the original size and gather from there even where the layouts agree.
        """
        have = self.layout(value)
        if _same(have, wanted) and not visible:
            return value
        key = ("moved", visible, value, *((axis, wanted[axis].tobytes()) for axis in sorted(wanted)))
        if key in self.moved:
            return self.moved[key]
        # Placed right behind the producer, so that every consumer may share it.
        place = Cursor.behind(value, self.graph)
        result = value
        current = dict(have)
        original = self.sizes(value)
        assert original is not None
        for axis in sorted(set(have) | set(wanted)):
            size = original[axis]
            assert isinstance(size, int)
            source = current.get(axis)
            target = wanted.get(axis)
            if not visible and source is not None and target is not None and np.array_equal(source, target):
                continue
            result = self._move(value, result, axis, size, source, target, place)
        self.moved[key] = result
        return result

    def _move(
        self,
        value: ir.Value,
        current: ir.Value,
        axis: int,
        size: int,
        source: np.ndarray | None,
        target: np.ndarray | None,
        place: Cursor,
    ) -> ir.Value:
        full = np.arange(size)
        have = full if source is None else source
        want = full if target is None else target
        inside = np.isin(want, have)
        if self.form == "composed" and not inside.all():
            # One scatter straight to the wanted positions.
            chosen = np.isin(have, want)
            if not chosen.all():
                current = moves.gather(self, current, axis, np.flatnonzero(chosen), place, value)
            fill = self.fill(value, axis, size)[want]
            return moves.scatter(self, current, axis, np.flatnonzero(inside), want.size, fill, place, value)
        if source is not None and (not inside.all() or self.form != "composed"):
            current = moves.scatter(self, current, axis, source, size, self.fill(value, axis, size), place, value)
            have = full
        if target is not None:
            current = moves.gather(self, current, axis, np.searchsorted(have, target), place, value)
        return current

    def cut(self, value: ir.Value, wanted: Layout) -> ir.Value:
        """Return a constant restricted to the wanted positions."""
        if not wanted:
            return value
        key = ("cut", value, *((axis, wanted[axis].tobytes()) for axis in sorted(wanted)))
        if key in self.constants:
            return self.constants[key]
        other = quantized.cut(value, wanted, self) if stored(value) else self._repeated(value, wanted)
        if other is not None:
            self.constants[key] = other
            return other
        # A weight of a graph around this one, which several bodies may read: they share the cut one, too.
        shown = not self.cut_weights and self._worth_showing(value)
        outer = not shown and value.is_initializer() and value.graph is not self.graph
        if outer and (shared := self.facts.constants.cuts.get(key)) is not None and shared.is_initializer():
            self.counts["cut"] += 1
            self.constants[key] = shared
            return shared
        if not shown:
            result = self.cut_tensor(value, wanted)
        else:
            result = value
            for axis in sorted(wanted):
                index = self.constant(wanted[axis].astype(np.int64), f"{value.name}_kept")
                known = list(dims.sizes(result) or ())
                known[axis] = int(wanted[axis].size)
                place = Cursor.behind(result, self.graph)
                result = self.node(
                    "Gather", [result, index], place, f"{value.name}_dense", known, value, [ir.AttrInt64("axis", axis)]
                )
                self.counts["weight gathers"] += 1
        self.constants[key] = result
        if outer:
            self.facts.constants.cuts[key] = result
        return result

    def _repeated(self, value: ir.Value, wanted: Layout) -> ir.Value | None:
        """Cut what a gather repeats along another axis (a border map), so that it stays as small as it is stored."""
        gather = None if is_constant(value) else value.producer()
        data, index = gather.inputs if gather is not None else (None, None)
        known = dims.static(data)
        if gather is None or data is None or known is None or dims.rank(index) != 1:
            return None
        axis, count = gather.attributes.get_int("axis", 0) % len(known), (dims.static(index) or (None,))[0]
        if axis in wanted or (count or 0) <= (known[axis] or 0):
            return None
        shape = [wanted[i].size if i in wanted else size for i, size in enumerate(dims.sizes(value) or ())]
        inputs: list[ir.Value | None] = [self.cut(data, wanted), index]
        place = Cursor(self.graph, after=gather)
        return self.node("Gather", inputs, place, str(value.name), shape, value, [ir.AttrInt64("axis", axis)])

    def _worth_showing(self, value: ir.Value) -> bool:
        return (dims.rank(value) or 0) > 1

    def cut_tensor(self, value: ir.Value, wanted: Layout) -> ir.Value:
        """Return a new initializer with the wanted positions of a constant."""
        tensor = weights.take(self.facts.constants.tensor(value), dict(sorted(wanted.items())))
        self.counts["cut"] += 1
        base = f"{value.name}_cut" if not (value.name or "").endswith("_cut") else value.name or "cut"
        return self.initializer(tensor, base, value.graph if value.is_initializer() else None)


def _same(a: Layout, b: Layout) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[axis], b[axis]) for axis in a)
