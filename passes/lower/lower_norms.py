"""A LayerNorm that lost positions becomes one operator again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.readers import only_reader
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class LowerNorms:
    """Write a narrowed LayerNorm, which is several standard operators, as ``MaskedLayerNorm``.

    1. ``(LayerNormalization(x) + p q s) / sqrt(1 + p q²)`` and ``RMSNormalization([x - m, sqrt(N-K) (m - f)])``, which
       graphopt writes for a LayerNorm of ``N`` positions of which ``K`` are left, become one operator on the ``K``.
    2. The shift added behind it goes into it.
    3. Casts of halves to floats in front of it, and back behind it, go: it computes in floats by itself.

    *Never* where something else reads what lies between, where the constants do not say how many positions there were,
    or for doubles, which it does not compute.

    *Needs* runtime operators (``--operators``).

    ``LayerNormalization -> Mul -> … -> Add`` -> ``MaskedLayerNorm``
    """

    name: ClassVar[str] = "lower-norms"
    stage: ClassVar[str] = "lower"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators:
            return False
        found = [norm for node in context.graph if (norm := _corrected(node, context) or _as_rms(node, context))]
        if not found or not ready(context, "MaskedLayerNorm"):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for norm in found:
            _write(norm, context, edit)
        remove_unused(context.graph)
        return context.record({"norms": len(found)})


@dataclass
class _Norm:
    """What the operators compute; ``last`` is what has their result."""

    last: ir.Node
    x: ir.Value
    scale: np.ndarray
    missing: int
    fill: float
    epsilon: float
    """With the spread of the missing positions in it."""


def _corrected(last: ir.Node, context: Context) -> _Norm | None:
    """Read ``(LayerNorm_K(x) + off s) / sqrt(1 + ratio off)``, ``ratio = (m - f) r``, ``off = p ratio`` upwards."""
    if not _is(last, "Mul"):
        return None
    moved, factor = _made(last, 0, "Add"), _made(last, 1, "Reciprocal")
    norm, shift = _made(moved, 0, "LayerNormalization"), _made(moved, 1, "Mul")
    if norm is None or shift is None or len(norm.inputs) != 2 or len(norm.outputs) != 3:
        return None
    one = _made(_made(factor, 0, "Sqrt"), 0, "Add")
    square, off = _made(one, 0, "Mul"), _made(shift, 0, "Mul")
    ratio = _made(off, 0, "Mul")
    if one is None or square is None or off is None or ratio is None or shift.inputs[1] is not norm.inputs[1]:
        return None
    if square.inputs[0] is not ratio.outputs[0] or square.inputs[1] is not off.outputs[0]:
        return None
    if ratio.inputs[1] is not norm.outputs[2] or _scalar(one.inputs[1], context) != 1:
        return None
    centre, fill = ratio.inputs[0], 0.0
    if centre is not norm.outputs[1]:
        away = _made(ratio, 0, "Sub")
        found = None if away is None else _scalar(away.inputs[1], context)
        if away is None or found is None or away.inputs[0] is not norm.outputs[1]:
            return None
        fill = found
    if not _only(norm.outputs[0], moved) or not all(_single(out) for out in norm.outputs[1:]):
        return None
    x, size, lost = norm.inputs[0], _last_size(norm.inputs[0]), _scalar(off.inputs[1], context)
    scale = context.constants.array(norm.inputs[1])
    rank = dims.rank(x)
    if x is None or x.dtype != ir.DataType.FLOAT or size is None or rank is None or scale is None:
        return None
    if lost is None or not 0 < lost < 1:
        return None
    if norm.attributes.get_int("axis", -1) not in (-1, rank - 1) or scale.shape != (size,):
        return None
    missing = round(size / (1 - lost)) - size
    total = size + missing
    if abs(missing / total - lost) > 1e-6 * lost:
        return None
    epsilon = norm.attributes.get_float("epsilon", 1e-5) * size / total
    return _Norm(last, x, scale.astype(np.float64) * math.sqrt(size / total), missing, fill, epsilon)


def _as_rms(last: ir.Node, context: Context) -> _Norm | None:
    """Read ``RMSNorm([x - m, sqrt(N-K) (m - f)])[..., :K]``, ``m = K/N mean_K(x) + (1 - K/N) f`` upwards."""
    if not _is(last, "Slice"):
        return None
    norm = _made(last, 0, "RMSNormalization")
    joined = _made(norm, 0, "Concat")
    centred = _made(joined, 0, "Sub")
    if norm is None or joined is None or centred is None or len(joined.inputs) != 2:
        return None
    x, mean = centred.inputs
    size, rank = _last_size(x), dims.rank(x)
    scale = context.constants.array(norm.inputs[1])
    if x is None or x.dtype != ir.DataType.FLOAT or size is None or rank is None:
        return None
    if scale is None or scale.shape != (size + 1,):
        return None
    if joined.attributes.get_int("axis", 0) not in (-1, rank - 1) or norm.attributes.get_int("axis", -1) != -1:
        return None
    if [_whole(value, context) for value in last.inputs[1:4]] not in ([0, size, rank - 1], [0, size, -1]):
        return None
    if len(last.inputs) > 4 and _whole(last.inputs[4], context) != 1:
        return None
    # The other half of the Concat: the mean, less the fill, times the root of the count.
    rest, root, fill = joined.inputs[1], 1.0, 0.0
    for op_type in ("Mul", "Sub"):
        node = None if rest is mean or rest is None else rest.producer()
        number = None if not _is(node, op_type) else _scalar(node.inputs[1], context)
        if node is None or number is None:
            continue
        root, fill = (number, fill) if op_type == "Mul" else (root, number)
        rest = node.inputs[0]
    share, added = _mean_of(mean, x, rank, context)
    if rest is not mean or share is None or not 0 < share < 1:
        return None
    missing = round(size / share) - size
    total = size + missing
    if abs(size / total - share) > 1e-6 or abs(root - math.sqrt(missing)) > 1e-5 * root:
        return None
    if abs(added - (1 - share) * fill) > 1e-5 * abs(fill):
        return None
    if not _only(norm.outputs[0], last) or not _only(joined.outputs[0], norm):
        return None
    epsilon = norm.attributes.get_float("epsilon", 1e-5) * (size + 1) / total
    factor = math.sqrt((size + 1) / total)
    return _Norm(last, x, scale[:size].astype(np.float64) * factor, missing, fill, epsilon)


def _mean_of(mean: ir.Value | None, x: ir.Value, rank: int, context: Context) -> tuple[float | None, float]:
    """Return ``a`` and ``b`` of ``a mean(x) + b`` over the last axis; None where it is something else."""
    node, added = None if mean is None else mean.producer(), 0.0
    if _is(node, "Add"):
        number = _scalar(node.inputs[1], context)
        node, added = (None, 0.0) if number is None else (_made(node, 0, "Mul"), number)
    reduced = _made(node, 0, "ReduceMean") if _is(node, "Mul") else None
    if node is None or reduced is None or reduced.inputs[0] is not x or not reduced.attributes.get_int("keepdims", 1):
        return None, 0.0
    axes = reduced.inputs[1] if len(reduced.inputs) > 1 else None
    if _whole(axes, context) not in (-1, rank - 1):
        return None, 0.0
    return _scalar(node.inputs[1], context), added


def _write(norm: _Norm, context: Context, edit: Edit) -> None:
    """Put the operator behind what it replaces, with the shift and the casts around that."""
    last, x = norm.last, norm.x
    out = last.outputs[0]
    bias = np.zeros(1)
    shift = _reader(out, "Add")
    if shift is not None and shift.inputs[0] is out and is_constant(shift.inputs[1]):
        found = context.constants.array(shift.inputs[1])
        if found is not None and found.shape in ((), (1,), norm.scale.shape):
            bias, out = found.reshape(-1).astype(np.float64), shift.outputs[0]
    dtype = x.dtype or ir.DataType.FLOAT
    wide, back = x.producer(), _reader(out, "Cast")
    if _is(wide, "Cast") and wide.inputs[0] is not None and back is not None and not out.is_graph_output():
        half = wide.inputs[0].dtype
        if half is not None and half in HALVES and back.attributes.get_int("to", 0) == half:
            x, out, dtype = wide.inputs[0], back.outputs[0], half
    target = out.producer()
    assert target is not None
    kind, base = dtype.numpy(), out.name or "norm"
    parameters = [
        edit.constant(array.astype(kind), f"{base}_{word}", dtype)
        for array, word in ((norm.scale, "scale"), (bias, "shift"))
    ]
    users = list(out.uses())
    attributes = {"missing": norm.missing, "fill": norm.fill, "spread": 0.0, "epsilon": norm.epsilon}
    new = call(
        context, edit, "MaskedLayerNorm", [x, *parameters], edit.before(target), base, dims.sizes(out), out, attributes
    )
    edit.stand_in(out, new, users)


def _is(node: ir.Node | None, op_type: str) -> TypeGuard[ir.Node]:
    return node is not None and node.op_type == op_type and node.domain == ""


def _made(node: ir.Node | None, position: int, op_type: str) -> ir.Node | None:
    """Return what makes an input, if it is such an operator."""
    value = None if node is None or len(node.inputs) <= position else node.inputs[position]
    producer = None if value is None else value.producer()
    return producer if _is(producer, op_type) else None


def _single(value: ir.Value) -> bool:
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _only(value: ir.Value, reader: ir.Node | None) -> bool:
    return _single(value) and next(iter(value.uses())).node is reader


def _reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the only reader of a value, if it is such an operator in the same graph."""
    node = only_reader(value)
    return node if _is(node, op_type) else None


def _last_size(value: ir.Value | None) -> int | None:
    known = None if value is None else dims.static(value)
    return None if not known else known[-1]


def _scalar(value: ir.Value | None, context: Context) -> float | None:
    array = context.constants.array(value) if value is not None and is_constant(value) else None
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def _whole(value: ir.Value | None, context: Context) -> int | None:
    number = _scalar(value, context)
    return None if number is None else int(number)
