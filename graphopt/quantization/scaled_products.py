"""Where classes of scales (``scaling.py``) begin and end: products with a constant weight, and norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.quantization.scaling import Change, Ids, Layer, Scaling

Visit = Callable[[ir.Node, Scaling], None]


def along(ids: Ids, *axes: int) -> bool:
    """Tell whether classes differ along these axes only."""
    return all(size == 1 for axis, size in enumerate(ids.shape) if axis not in [a % ids.ndim for a in axes])


@dataclass(frozen=True, slots=True)
class _Ways:
    """How many channels a product has, and which come first in its weight."""

    inputs: int
    outputs: int
    outputs_first: bool


def conv(node: ir.Node, found: Scaling) -> None:
    """``W'[o, i] = W[o, i] s[o] / s[i]``, ``b'[o] = b[o] s[o]``; the inputs of a group are that group's."""
    weight = dims.static(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    if weight is None or len(weight) < 3 or None in weight:
        found.pin_inputs(node)
        return
    first, second = weight[0] or 0, weight[1] or 0
    if node.op_type == "Conv":
        ways = _Ways(second * groups, first, True)
    else:
        ways = _Ways(first, second * groups, False)
    _layer(node, found, 0, 1, 1, 1, groups, ways, 2)


def gemm(node: ir.Node, found: Scaling) -> None:
    """``alpha x W + beta c``; x may be transposed."""
    turned = node.attributes.get_int("transB", 0)
    weight = dims.static(node.inputs[1])
    if weight is None or len(weight) != 2 or None in weight:
        found.pin_inputs(node)
        return
    n, k = (weight[0], weight[1]) if turned else (weight[1], weight[0])
    axis = 0 if node.attributes.get_int("transA", 0) else 1
    _layer(node, found, 0, axis, 1, 1, 1, _Ways(k or 0, n or 0, bool(turned)), 2)


def matmul(node: ir.Node, found: Scaling) -> None:
    """A weight of two axes on either side; of two computed operands, one may carry classes that are not summed over."""
    a, b = node.inputs
    for w, x in ((1, 0), (0, 1)):
        weight = dims.static(node.inputs[w])
        if not is_constant(node.inputs[w]):
            continue
        if weight is None or len(weight) != 2 or None in weight or (dims.rank(node.inputs[x]) or 0) < 2:
            break
        k, n = (weight[0], weight[1]) if w else (weight[1], weight[0])
        axis = -1 if w else -2
        _layer(node, found, x, axis, w, axis, 1, _Ways(k or 0, n or 0, not w), None)
        return
    left, right = found.of(a), found.of(b)
    rank = dims.rank(node.outputs[0])
    if min(left.ndim, right.ndim) < 2 or rank is None or (left.any() and right.any()):
        found.pin_inputs(node)
        return
    carried, summed = (left, -1) if left.any() else (right, -2)
    if carried.shape[summed] != 1:
        found.pin(carried)
        return
    found.give(node.outputs[0], carried)


def _layer(
    node: ir.Node,
    found: Scaling,
    x: int,
    axis: int,
    w: int,
    out_axis: int,
    groups: int,
    ways: _Ways,
    bias: int | None,
) -> None:
    """Record a product, and give its output classes of its own."""
    inputs, outputs = ways.inputs, ways.outputs
    data, out = node.inputs[x], node.outputs[0]
    rank = dims.rank(out)
    ids = found.of(data)
    weight = node.inputs[w]
    shape = dims.static(weight)
    alone = weight is not None and len(weight.uses()) == 1 and found.changeable(weight)
    if not alone or data is None or rank is None or not groups or inputs % groups or outputs % groups:
        found.pin_inputs(node)
        return
    if ids.any() and not along(ids, axis):
        found.pin(ids)
        ids = np.zeros(1, np.int64)
    bias = bias if bias is not None and len(node.inputs) > bias and node.inputs[bias] is not None else None
    into = np.broadcast_to(np.atleast_1d(ids.ravel()), (inputs,)).reshape(groups, -1)
    fresh = found.fresh(outputs, out_axis % rank, rank)
    if bias is not None:
        known = dims.static(node.inputs[bias])
        room = (outputs,) if known in ((), (1,), (outputs,)) else (1, outputs) if known == (1, outputs) else None
        if room is None or not found.takes(node, bias, fresh.reshape(room), room):
            found.pin(found.of(node.inputs[bias]))
            found.pin(fresh)
    own = fresh.reshape(groups, -1)
    assert shape is not None
    whole = [size or 0 for size in shape]
    parts = [own[:, :, None], into[:, None, :]] if ways.outputs_first else [own[:, None, :], into[:, :, None]]
    if groups > 1:
        parts = [np.broadcast_to(part, (groups, whole[0] // groups, whole[1])) for part in parts]
    up, down = (part.reshape(-1, part.shape[2], *[1] * (len(whole) - 2)) for part in parts)
    found.changes.append(Change(node, w, up, down, tuple(whole)))
    found.layers.append(Layer(node, data, axis % (dims.rank(data) or 1), w, bias, groups, into, own))
    found.give(out, fresh)


def norm(scale: int, *shifts: int, last: bool = False) -> Visit:
    """``y' = s y``: the scale and shift of a norm take the factor up; what it reads is not multiplied."""

    def visit(node: ir.Node, found: Scaling) -> None:
        found.pin_inputs(node)
        out = node.outputs[0]
        known, weight = dims.static(out), dims.static(node.inputs[scale])
        axis = -1 if last else 1
        if last and node.attributes.get_int("axis", -1) not in (-1, len(known or ()) - 1):
            return
        if known is None or len(known) < 2 or weight is None or len(weight) != 1 or known[axis] != weight[0]:
            return
        there = [p for p in (scale, *shifts) if p < len(node.inputs) and node.inputs[p] is not None]
        if any(found.array(node.inputs[p]) is None or dims.static(node.inputs[p]) != weight for p in there):
            return
        fresh = found.fresh(weight[0] or 0, axis % len(known), len(known))
        for position in there:
            found.takes(node, position, fresh.ravel())
        found.give(out, fresh)

    return visit
