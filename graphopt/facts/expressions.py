"""Which values are computed from constants alone, what they hold, and whether folding them would grow the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts import steady
from graphopt.facts.constants import SMALL, Constants, is_constant, release, tensor_of
from graphopt.facts.evaluate import Arrays, evaluator

UNDEFINED = (ArithmeticError, IndexError, MemoryError, TypeError, ValueError)
"""What evaluating raises where the operator means nothing: an index beyond its axis, a shape that does not fit."""

LARGEST_SHAKEN = 1 << 24
"""Elements of the largest operand of which a decision is tried out; larger ones are left to the runtime."""

_SHAPED_ALONE = frozenset("CumSum Einsum Gemm MatMul TopK".split())
"""Operators that cost much, and of which shape inference has seen that the shapes fit."""


@dataclass(slots=True)
class Expressions:
    """The constant expressions of a graph, found in one walk; evaluated only when asked."""

    graph: ir.Graph
    constants: Constants
    members: set[ir.Value] = field(default_factory=set)
    _values: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    _shapes: set[ir.Value] = field(default_factory=set)
    """Members that are known from recorded sizes, whatever their producer reads."""
    _rounded: set[ir.Value] = field(default_factory=set)
    """Members whose last bits are the runtime's own, see ``steady``."""
    undecided: list[ir.Node] = field(default_factory=list)
    """Nodes that decide on last bits: theirs is the runtime's decision, whatever they read is constant."""
    _held: set[ir.Value] = field(default_factory=set)
    """Those of them on which hangs a decision that is left to the runtime: as constants they would decide it."""

    def __post_init__(self) -> None:
        entries: dict[ir.Value, list[int | None]] = {}
        for node in self.graph:
            if node.op_type == "Constant" or node.domain not in ("", "ai.onnx") or evaluator(node) is None:
                continue
            found = _entries(node, entries, self)
            if found is not None:
                # A shape, or part of one, of which every entry is known although the batch may not be.
                entries[node.outputs[0]] = found
                if all(entry is not None for entry in found):
                    self._remember(node, found)
            elif node.inputs and all(value is None or self.known(value) for value in _read(node)):
                self._take(node)

    def _take(self, node: ir.Node) -> None:
        """Let the outputs of a node that reads constants alone be members, unless they are the runtime's to decide."""
        if not self._defined(node):
            return
        if node.op_type in steady.ORDERS and node.inputs[0] is not None:
            scores = self.array(node.inputs[0])
            if scores.dtype.kind not in "iub" and not np.isfinite(scores).all():
                return
        doubtful = any(value in self._rounded for value in _read(node))
        if doubtful and steady.decides(node):
            if not self._steady(node):
                self.undecided.append(node)
                self._hold(node)
                return
            doubtful = node.op_type in steady.ORDERS  # the order is decided; the numbers are what they were
        self.members.update(node.outputs)
        if doubtful or steady.rounds(node):
            self._rounded.update(out for out in node.outputs if out.dtype is None or out.dtype.is_floating_point())

    def _remember(self, node: ir.Node, entries: list[int | None]) -> None:
        out = node.outputs[0]
        known = dims.static(out)
        shape = (len(entries),) if known is None or None in known else known
        if int(np.prod([size or 0 for size in shape], dtype=np.int64)) != len(entries):
            return
        dtype = ir.DataType.INT64 if out.dtype is None else out.dtype
        self._values[out] = np.array(entries, dtype.numpy()).reshape([size or 0 for size in shape])
        self._shapes.add(out)
        self.members.add(out)

    def known(self, value: ir.Value) -> bool:
        """Tell whether a value is a numeric constant or computed from such."""
        if value in self.members:
            return True
        if not is_constant(value):
            return False
        tensor = tensor_of(value)
        return tensor is not None and tensor.dtype not in (ir.DataType.STRING, ir.DataType.UNDEFINED)

    def array(self, value: ir.Value) -> np.ndarray:
        """Evaluate a constant expression; small results are remembered, large sources are released."""
        if value in self._values:
            return self._values[value]
        producer = value.producer()
        if value not in self.members or producer is None:
            array = self.constants.array(value)
            assert array is not None
            return array
        function = evaluator(producer, value.index() or 0)
        assert function is not None
        operands: Arrays = [None if v is None else self.array(v) for v in _read(producer)]
        result = function(operands)
        if result.size > SMALL:
            result = np.array(result)  # not a view of something that is about to be released
            for v in _read(producer):
                tensor = None if v is None or v in self.members else tensor_of(v)
                if tensor is not None and tensor.size > SMALL:
                    release(tensor)
        else:
            self._values[value] = result
        return result

    def _defined(self, node: ir.Node) -> bool:
        """Tell whether the operator can be evaluated; one that cannot is the runtime's to refuse, should it get there.

        Large operands are not read for that: zeros of their shape, which take no memory, stand for them.
        """
        if node.op_type in _SHAPED_ALONE and any(self.size(v) > SMALL for v in _read(node) if v is not None):
            return True
        try:
            operands: Arrays = [None if value is None else self._stand_in(value) for value in _read(node)]
            for function in _functions(node):
                function(operands)
        except UNDEFINED:
            return False
        return True

    def _stand_in(self, value: ir.Value) -> np.ndarray:
        known = dims.static(value)
        if self.size(value) <= SMALL or value.dtype is None or known is None or None in known:
            return self.array(value)
        return np.broadcast_to(np.zeros((), value.dtype.numpy()), [size or 0 for size in known])

    def _hold(self, node: ir.Node) -> None:
        pending = [node]
        while pending:
            for value in _read(pending.pop()):
                if value is not None and value in self._rounded and value not in self._held:
                    self._held.add(value)
                    producer = value.producer()
                    assert producer is not None
                    pending.append(producer)

    def _steady(self, node: ir.Node) -> bool:
        """Tell whether a node decides the same whatever the last bits of its operands are."""
        sizes = [self.size(value) for value in _read(node) if value is not None]
        if max(sizes, default=0) > LARGEST_SHAKEN:
            return False
        numbers = np.random.default_rng(0)
        expected = None
        for draw in range(steady.DRAWS + 1):
            shaken: dict[ir.Value, np.ndarray] = {}
            operands = [None if v is None else self._shaken(v, shaken, draw, numbers) for v in _read(node)]
            if not all(array is None or array.dtype.kind != "f" or np.isfinite(array).all() for array in operands):
                return False
            found = [function(operands) for function in _functions(node)]
            if expected is None:
                expected = found
            elif not all(_decided_alike(a, b) for a, b in zip(expected, found, strict=True)):
                return False
        return True

    def _shaken(
        self, value: ir.Value, found: dict[ir.Value, np.ndarray], draw: int, numbers: np.random.Generator
    ) -> np.ndarray:
        """Evaluate an expression with other last bits, or its own (draw 0); the same within one draw (``found``)."""
        producer = value.producer()
        if not draw or value not in self._rounded or producer is None:
            return self.array(value)
        if value not in found:
            function = evaluator(producer, value.index() or 0)
            assert function is not None
            operands = [None if v is None else self._shaken(v, found, draw, numbers) for v in _read(producer)]
            rounds = steady.rounds(producer)
            found[value] = steady.shaken(producer, function, operands, draw, numbers) if rounds else function(operands)
        return found[value]

    def closure(self, value: ir.Value) -> Callable[[], np.ndarray]:
        """Return a function that evaluates an expression later, whatever becomes of the graph until then."""
        if value in self._values:
            array = self._values[value]
            return lambda: array
        producer = value.producer()
        if value not in self.members or producer is None:
            tensor = tensor_of(value)
            assert tensor is not None
            return tensor.numpy
        function = evaluator(producer, value.index() or 0)
        assert function is not None
        operands = [None if v is None else self.closure(v) for v in _read(producer)]
        sources = [tensor_of(v) for v in _read(producer) if v is not None and v not in self.members]

        def evaluate() -> np.ndarray:
            result = np.array(function([None if operand is None else operand() for operand in operands]))
            for tensor in sources:
                if tensor is not None and tensor.size > SMALL:
                    release(tensor)
            return result

        return evaluate

    def leaves(self, value: ir.Value) -> set[ir.Value]:
        """Return the initializers an expression reads."""
        if value in self._shapes:
            return set()
        if value not in self.members:
            return {value}
        producer = value.producer()
        assert producer is not None
        found: set[ir.Value] = set()
        for operand in _read(producer):
            if operand is not None:
                found |= self.leaves(operand)
        return found

    def frontier(self) -> list[ir.Value]:
        """Return expressions that may be folded and that something outside the expressions reads, in graph order."""
        result = []
        for node in self.graph:
            for value in node.outputs:
                if value not in self.members or value in self._held:
                    continue
                if any(not self._inside(use.node) for use in value.uses()):
                    result.append(value)
        return result

    def _inside(self, node: ir.Node) -> bool:
        return bool(node.outputs) and node.outputs[0] in self.members

    def size(self, value: ir.Value) -> int:
        """Return the number of elements of an expression (evaluating it only when its shape is not recorded)."""
        known = dims.static(value)
        if known is not None and all(size is not None for size in known):
            return int(np.prod([size or 0 for size in known], dtype=np.int64))
        return int(self.array(value).size)


def _functions(node: ir.Node) -> list[Callable[[Arrays], np.ndarray]]:
    found = [evaluator(node, position) for position in range(len(node.outputs))]
    return [function for function in found if function is not None]


def _decided_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two results are the same decision: equal integers, floats that differ in their last bits."""
    if one.dtype.kind in "iub" or one.shape != other.shape:
        return np.array_equal(one, other)
    size = np.abs(one).max(initial=0)
    return bool((np.abs(one.astype(float) - other.astype(float)) <= 1e-3 * size).all())


def _read(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs whose values matter: ``CastLike`` only reads the type of its second."""
    return list(node.inputs[:1]) if node.op_type == "CastLike" else list(node.inputs)


def _entries(node: ir.Node, entries: dict[ir.Value, list[int | None]], known: Expressions) -> list[int | None] | None:
    """Return the entries of a shape, or of what is taken from shapes, as far as recorded sizes tell; else ``None``."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape" and first is not None:
        sizes = dims.static(first)
        if sizes is None or known.known(first):
            return None
        return list(sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))])
    if first is None or not any(value in entries for value in node.inputs if value is not None):
        return None
    if node.op_type in ("Cast", "Squeeze", "Unsqueeze", "Reshape", "Identity") and first in entries:
        if node.op_type == "Cast" and (node.outputs[0].dtype or ir.DataType.INT64).is_floating_point():
            return None
        return entries[first]
    if node.op_type == "Gather" and first in entries and node.inputs[1] is not None and known.known(node.inputs[1]):
        chosen = known.array(node.inputs[1]).ravel()
        if chosen.size and not (-len(entries[first]) <= chosen.min() and chosen.max() < len(entries[first])):
            return None
        return [entries[first][int(position)] for position in chosen]
    if node.op_type == "Slice" and first in entries and all(v is None or known.known(v) for v in node.inputs[1:]):
        whole = np.arange(len(entries[first]))
        arrays = [whole, *(None if v is None else known.array(v) for v in node.inputs[1:])]
        function = evaluator(node)
        assert function is not None
        try:
            return [entries[first][int(position)] for position in function(arrays)]
        except UNDEFINED:
            return None
    if node.op_type == "Concat":
        parts: list[int | None] = []
        for value in node.inputs:
            if value is None:
                return None
            if value in entries:
                parts += entries[value]
            elif known.known(value) and known.size(value) <= 64:
                parts += [int(x) for x in known.array(value).ravel()]
            elif (dims.static(value) or (None,))[0] == 1 and dims.rank(value) == 1:
                parts.append(None)
            else:
                return None
        return parts
    return None
