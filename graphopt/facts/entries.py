"""What the entries of a shape operand are, as products of symbols: ``Concat(Shape(x)[:1], [-1])`` is ``[batch, rest]``.

Read backwards from the operand, as far as operators go with which shapes are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts import evaluate
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.factors import ONE, Product, product_of

REST: Final = "rest"
"""The entry -1 of a reshape: whatever the other entries leave."""

Entry = Product | Literal["rest"] | int | None
"""A size; ``rest``; an integer that is no size (an index, 0); or nothing known."""

LONGEST = 16
"""Vectors with more entries are not shapes."""


@dataclass(slots=True)
class Entries:
    """The entries of the shape vectors of a graph, each found once."""

    constants: Constants
    sizes: Callable[[ir.Value], Sequence[dims.Size] | None] = dims.sizes
    """What is known of a value's sizes."""
    _found: dict[ir.Value, list[Entry] | None] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> list[Entry] | None:
        """Return the entries of a vector of integers (of a scalar: one), or ``None``."""
        if value is None:
            return None
        pending = [value]
        while pending:
            current = pending[-1]
            if current in self._found:
                pending.pop()
                continue
            producer = current.producer()
            missing = [
                source
                for source in (() if producer is None or producer.op_type == "Shape" else producer.inputs)
                if source is not None and source not in self._found
            ]
            if missing and _computes(current):
                pending += missing
                continue
            self._found[current] = self._entries(current)
            pending.pop()
        return self._found[value]

    def _entries(self, value: ir.Value) -> list[Entry] | None:
        if is_constant(value):
            known = dims.static(value)
            if known is None or len(known) > 1 or (known and (known[0] is None or known[0] > LONGEST)):
                return None
            array = self.constants.array(value)
            if array is None or array.dtype.kind not in "iu":
                return None
            return [_entry(int(number)) for number in array.ravel()]
        producer = value.producer()
        if producer is None or not _computes(value):
            return None
        if producer.op_type == "Shape":
            source = producer.inputs[0]
            sizes = None if source is None else self.sizes(source)
            if sizes is None:
                return None
            start, end = producer.attributes.get_int("start", 0), producer.attributes.get_int("end", len(sizes))
            return [product_of(size) for size in sizes[start:end]]
        operands = [None if source is None else self._found[source] for source in producer.inputs]
        return _applied(producer, operands, self.constants)


def _entry(number: int) -> Entry:
    return Product(number) if number > 0 else REST if number == -1 else number


def _computes(value: ir.Value) -> bool:
    """Tell whether a value may be (part of) a shape that is computed."""
    producer = value.producer()
    if producer is None or producer.domain not in ("", "ai.onnx") or (dims.rank(value) or 0) > 1:
        return False
    return producer.op_type in ("Shape", "Cast", "Concat", "Gather", "Identity", "Mul", "Reshape", "Slice", "Squeeze",
                                "Unsqueeze", "Equal", "Where")  # fmt: skip


def others_number(operand: list[Entry] | None) -> Entry:
    """Return the one entry that a vector consists of."""
    return operand[0] if operand and all(entry == operand[0] for entry in operand) else None


def _equal(entry: Entry, number: Entry) -> Entry:
    """Compare an entry with -1: a size is never that. 1 for equal, 0 for different."""
    if number != REST or entry is None:
        return None
    return ONE if entry == REST else 0


def _truth(entry: Entry) -> int | None:
    return 1 if entry == ONE else 0 if entry == 0 else None


def _applied(node: ir.Node, operands: list[list[Entry] | None], constants: Constants) -> list[Entry] | None:
    """Return the entries of a node's output from those of its inputs."""
    if not operands or operands[0] is None:
        return None
    first = operands[0]
    if node.op_type == "Concat":
        return [entry for operand in operands for entry in operand] if None not in operands else None  # type: ignore[union-attr]
    if node.op_type == "Mul":
        second = operands[1]
        if second is None or len(first) != len(second):
            return None
        pairs = zip(first, second, strict=True)
        return [a * b if isinstance(a, Product) and isinstance(b, Product) else None for a, b in pairs]
    if node.op_type == "Equal":
        number = others_number(operands[1])
        return None if number is None else [_equal(entry, number) for entry in first]
    if node.op_type == "Where":
        a, b = operands[1], operands[2]
        if a is None or b is None or not len(first) == len(a) == len(b):
            return None
        return [None if c is None else x if c == 1 else y for c, x, y in zip(map(_truth, first), a, b, strict=True)]
    if node.op_type == "Cast":
        return first if node.outputs[0].dtype is not None and node.outputs[0].dtype.is_integer() else None
    if node.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return first
    others = [None if value is None else constants.array(value) for value in node.inputs[1:]]
    function = evaluate.evaluator(node)
    if function is None or any(v is not None and a is None for v, a in zip(node.inputs[1:], others, strict=True)):
        return None
    try:
        chosen = np.atleast_1d(function([np.arange(len(first)), *others]))
    except (IndexError, ValueError):
        return None
    return [first[int(place)] for place in chosen.ravel()]
