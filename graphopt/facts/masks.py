"""The masks of a model, as its author wrote them: what is multiplied in or selected by, and where its zeros are."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.expressions import Expressions


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask: the value, the nodes it acts through, what it masks, and how many of its elements are zero."""

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    kind: str
    zeros: int
    size: int


def find_masks(graph: ir.Graph, expressions: Expressions) -> list[Mask]:
    """Return every constant tensor with zeros that is multiplied in or selected by, and every boolean or dynamic one.

    A mask is *soft* when it holds other values than zero and one, *dynamic* when a graph input decides it.
    """
    found: dict[ir.Value, list[ir.Node]] = {}
    kinds: dict[ir.Value, str] = {}
    for node in graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("Mul", "Where"):
            continue
        for value, kind in _candidates(node, expressions):
            source = _source(value, expressions)
            found.setdefault(source, []).append(node)
            kinds.setdefault(source, kind)
    masks = []
    for value, nodes in found.items():
        kind = kinds[value]
        if kind == "dynamic":
            masks.append(Mask(value, tuple(nodes), kind, 0, 0))
            continue
        zeros, size, _ = _count(value, expressions)
        masks.append(Mask(value, tuple(nodes), kind, zeros, size))
    return masks


def _count(value: ir.Value, expressions: Expressions) -> tuple[int, int, bool]:
    """Return (zeros, elements, is every element zero or one?) of a constant; what is large is read and let go."""
    array = expressions.array(value)
    zeros = int((array == 0).sum())
    result = zeros, int(array.size), bool(zeros) and zeros + int((array == 1).sum()) == array.size
    expressions.constants.release(value)
    return result


def _candidates(node: ir.Node, expressions: Expressions) -> list[tuple[ir.Value, str]]:
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type == "Where":
        if expressions.known(inputs[0]):
            others = inputs[1:]
            zero = [
                v
                for v in others
                if expressions.known(v) and expressions.size(v) <= 4096 and not expressions.array(v).any()
            ]
            weight = all(expressions.known(v) for v in others)
            return [(inputs[0], "weight" if weight else "activation")] if zero else []
        return [(inputs[0], "dynamic")] if _dynamic(inputs[0], node.outputs[0]) else []
    known = [expressions.known(value) for value in inputs]
    result: list[tuple[ir.Value, str]] = []
    if all(known):
        # Of two constants the one with few distinct values and some zeros is the mask.
        for value in inputs:
            if _count(value, expressions)[2]:
                result.append((value, "weight"))
        return result[:1] if len(result) == 1 else result
    for value, constant in zip(inputs, known, strict=True):
        if constant:
            zeros, _, binary = _count(value, expressions)
            if zeros:
                result.append((value, "activation" if binary else "soft"))
        elif _dynamic(value, node.outputs[0]):
            result.append((value, "dynamic"))
    return result


def _source(value: ir.Value, expressions: Expressions) -> ir.Value:
    """Follow shape plumbing back to the tensor that holds the mask."""
    while value in expressions.members:
        producer = value.producer()
        assert producer is not None
        if producer.op_type not in ("Reshape", "Unsqueeze", "Squeeze", "Expand", "Cast", "Identity", "Transpose"):
            break
        source = producer.inputs[0]
        if source is None:
            break
        value = source
    return value


def _dynamic(value: ir.Value, out: ir.Value) -> bool:
    """Tell whether a graph input masks: a boolean, one named so, or one that is broadcast over what it meets."""
    first = dims.sizes(value)
    broadcast = first is not None and first != dims.sizes(out)
    for _ in range(8):
        if value.is_graph_input():
            return broadcast or value.dtype == ir.DataType.BOOL or "mask" in (value.name or "").lower()
        producer = value.producer()
        if producer is None or producer.op_type not in ("Cast", "Unsqueeze", "Reshape", "Expand", "Not", "Identity"):
            return False
        if producer.inputs[0] is None:
            return False
        value = producer.inputs[0]
    return False
