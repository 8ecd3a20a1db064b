"""Contractions absorb scatters: weights are cut on both sides, constants of dead inputs go into the bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import Depthwise, Geometry, contribution, geometry, live_inputs, weights_nonzero
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.plan.widths import contraction_gathers
from graphopt.rewrite import weights
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import by_links, outputs_narrowed, rewrites, wanted_by_links


@rewrites("Conv", "ConvTranspose", "Gemm", "MatMul")
def contraction(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rewrite a contraction to dense operands and a dense result."""
    geo = geometry(spec)
    if geo is not None:
        _constant_weights(node, spec, geo, edit)
    elif isinstance(spec.extra, Depthwise):
        _depthwise(node, spec, edit)
    elif spec.products:
        _live_product(node, spec, edit)
    else:
        by_links(node, spec, edit)


def _depthwise(node: ir.Node, spec: Spec, edit: Edit) -> None:
    out = node.outputs[0]
    kept = edit.planned(out).get(1)
    wanted = wanted_by_links(node, 0, spec, edit)
    if kept is not None:
        index = next(link.index for link in spec.of_operand(0) if link.index is not None)
        channels = np.unique(index[kept])
        wanted[1] = channels
        node.attributes["group"] = ir.AttrInt64("group", int(channels.size))
    edit.operand(node, 0, wanted)
    for operand in range(1, len(node.inputs)):
        if node.inputs[operand] is not None:
            edit.operand(node, operand, wanted_by_links(node, operand, spec, edit))
    outputs_narrowed(node, edit)


def _live_product(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Both operands are computed: their contracted axes are in the same layout, or whole."""
    layouts: list[Layout] = [wanted_by_links(node, operand, spec, edit) for operand in range(2)]
    (a, a_axis), (b, b_axis) = spec.products[0]
    first, second = node.inputs[a], node.inputs[b]
    assert first is not None and second is not None
    if edit.form != "local":
        left, right = edit.layout(first).get(a_axis), edit.layout(second).get(b_axis)
        # A constant is cut like its partner.
        if edit.facts.constants.known(second):
            right = left
        elif edit.facts.constants.known(first):
            left = right
        if left is not None and right is not None and np.array_equal(left, right):
            layouts[a][a_axis], layouts[b][b_axis] = left, right
    edit.operand(node, 0, layouts[0])
    edit.operand(node, 1, layouts[1])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        edit.operand(node, 2, wanted_by_links(node, 2, spec, edit))
    outputs_narrowed(node, edit)


def _constant_weights(node: ir.Node, spec: Spec, geo: Geometry, edit: Edit) -> None:
    x, out = node.inputs[geo.x], node.outputs[0]
    nonzero = weights_nonzero(node, geo, edit.facts)
    assert x is not None and nonzero is not None
    channels = (edit.sizes(x) or ())[geo.x_axis]
    if not isinstance(channels, int):
        by_links(node, spec, edit)
        return
    live, fill = live_inputs(x, channels, geo, edit.facts)
    rows = edit.planned(out).get(geo.out_axis)
    wanted = wanted_by_links(node, geo.x, spec, edit)
    have = edit.layout(x).get(geo.x_axis)
    have = np.arange(live.size) if have is None else have
    if geo.groups > 1:
        read = _kept_groups(node, geo, rows, live.size, nonzero, edit)
        needed = read
    else:
        matrix = nonzero[0] if rows is None else nonzero[0][rows]
        wanted_columns = matrix.any(axis=0) & live
        if have.size < live.size:
            present = np.zeros(live.size, bool)
            present[have] = True
            wanted_columns &= present
        needed = np.flatnonzero(wanted_columns)
        read = have
        if needed.size < have.size and _gathers(node, geo, needed, have, matrix, edit):
            read = needed if needed.size else have[:1]  # one channel, silenced, where all are constants
    if read.size < live.size:
        wanted[geo.x_axis] = read
    extra = contribution(node, geo, fill, edit.facts) if fill.any() and geo.groups == 1 else None
    visible = edit.form == "carried" and have.size < live.size
    edit.operand(node, geo.x, wanted, visible=visible)
    _weight(node, spec, geo, rows, read, needed, live.size, nonzero, edit)
    if extra is not None and rows is not None:
        extra = extra[rows]
    if geo.bias is not None and geo.bias < len(node.inputs) and node.inputs[geo.bias] is not None:
        edit.operand(node, geo.bias, wanted_by_links(node, geo.bias, spec, edit))
    outputs_narrowed(node, edit)
    if extra is not None and extra.any():
        _add_bias(node, geo, extra, edit)


def _gathers(
    node: ir.Node, geo: Geometry, needed: np.ndarray, have: np.ndarray, matrix: np.ndarray, edit: Edit
) -> bool:
    if edit.form != "composed":
        return True
    if edit.plan.kind == "smallest":
        return True
    return contraction_gathers(edit.plan.costs, node, geo, matrix.shape[0], needed.size, have.size)


def _kept_groups(
    node: ir.Node, geo: Geometry, rows: np.ndarray | None, channels: int, nonzero: np.ndarray, edit: Edit
) -> np.ndarray:
    if rows is None:
        return np.arange(channels)
    per_group = nonzero.shape[1]
    kept = np.unique(rows // per_group)
    node.attributes["group"] = ir.AttrInt64("group", int(kept.size))
    width = channels // geo.groups
    return (kept[:, None] * width + np.arange(width)).ravel()


def _weight(
    node: ir.Node,
    spec: Spec,
    geo: Geometry,
    rows: np.ndarray | None,
    read: np.ndarray,
    needed: np.ndarray,
    channels: int,
    nonzero: np.ndarray,
    edit: Edit,
) -> None:
    value = node.inputs[geo.w]
    assert value is not None
    wanted = wanted_by_links(node, geo.w, spec, edit)
    if geo.groups > 1:
        if node.op_type == "ConvTranspose":
            wanted.pop(geo.w_out, None)
            if read.size < channels:
                wanted[geo.w_in] = read
    else:
        if rows is not None:
            wanted[geo.w_out] = rows
        if read.size < channels:
            wanted[geo.w_in] = read
    if geo.groups == 1 and (read.size > needed.size or not needed.size):
        silent = np.setdiff1d(read, needed)
        matrix = nonzero[0] if rows is None else nonzero[0][rows]
        if matrix[:, silent].any():
            value = _silence(value, geo, silent, edit)
            node.replace_input_with(geo.w, value)
    result = edit.cut(value, wanted)
    if result is not node.inputs[geo.w]:
        node.replace_input_with(geo.w, result)


def _silence(value: ir.Value, geo: Geometry, columns: np.ndarray, edit: Edit) -> ir.Value:
    """Zero the weights of inputs whose constants have gone into the bias."""
    tensor = edit.facts.constants.tensor(value)

    def compute(array: np.ndarray) -> np.ndarray:
        silenced = array.copy()
        silenced[tuple(columns if i == geo.w_in else slice(None) for i in range(array.ndim))] = 0
        return silenced

    result = weights.derived(tensor, compute, list(tensor.shape.numpy()))
    edit.counts["silenced"] += 1
    return edit.initializer(result, f"{value.name}_masked")


def _add_bias(node: ir.Node, geo: Geometry, extra: np.ndarray, edit: Edit) -> None:
    """Add ``extra`` (``[o]``) to the result: in the bias where there may be one, else behind the node."""
    out = node.outputs[0]
    dtype = out.dtype.numpy() if out.dtype is not None else np.float32
    edit.counts["bias"] += 1
    if node.op_type in ("Conv", "ConvTranspose") or (node.op_type == "Gemm" and geo.out_axis == 1 and geo.beta == 1.0):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        array = None if bias is None else edit.facts.constants.array(bias)
        if bias is None or array is not None:
            old = np.zeros(extra.size) if array is None else array.astype(np.float64)
            if old.ndim <= 1 or old.shape[0] == 1:
                folded = (np.broadcast_to(old.reshape(-1), extra.shape) + extra).astype(dtype)
                if len(node.inputs) < 3:
                    node.resize_inputs(3)
                node.replace_input_with(2, edit.constant(folded, f"{out.name}_bias", out.dtype))
                return
    users = list(out.uses())
    shape = [1] * (dims.rank(out) or 1)
    shape[geo.out_axis] = extra.size
    constant = edit.constant(extra.astype(dtype).reshape(shape), f"{out.name}_bias", out.dtype)
    place = Cursor(edit.graph, after=node)
    result = edit.node("Add", [out, constant], place, f"{out.name}_biased", dims.sizes(out), out)
    edit.stand_in(out, result, users)
