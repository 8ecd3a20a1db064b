"""Contractions absorb scatters: weights are cut on both sides, constants of dead inputs go into the bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import (
    Depthwise,
    Geometry,
    constants_at_border,
    contribution,
    geometry,
    live_inputs,
    merged_inputs,
    read_inputs,
    standing,
    weights_nonzero,
)
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.plan.widths import contraction_gathers
from graphopt.rewrite import quantized
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.ops.biases import BorderMap, add_bias, merged_weight
from graphopt.rewrite.ops.grouped import choose, depthwise, narrow_weight
from graphopt.rewrite.rules import by_links, outputs_narrowed, rewrites, wanted_by_links


@rewrites("Conv", "ConvTranspose", "Gemm", "MatMul")
def contraction(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rewrite a contraction to dense operands and a dense result."""
    geo = geometry(spec)
    if geo is not None:
        _constant_weights(node, spec, geo, edit)
    elif isinstance(spec.extra, Depthwise):
        depthwise(node, spec, edit)
    elif spec.products:
        _live_product(node, spec, edit)
    else:
        by_links(node, spec, edit)


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
    extra = contribution(node, geo, fill, edit.facts) if fill.any() else None
    rows = edit.planned(out).get(geo.out_axis)
    rows = np.arange(nonzero.shape[0] * nonzero.shape[1]) if rows is None else rows
    have = _mask(edit.layout(x).get(geo.x_axis), channels)
    columns = read_inputs(nonzero, _mask(rows, nonzero.shape[0] * nonzero.shape[1]), geo) & live
    columns, border = _without_constants(node, geo, columns, edit)
    columns &= have
    visible = edit.form == "carried" and not have.all()
    wanted = wanted_by_links(node, geo.x, spec, edit)
    if geo.groups > 1:
        groups = choose(
            geo, _mask(rows, nonzero.shape[0] * nonzero.shape[1]), have, columns, gathers=_gathers_any(edit)
        )
        rows, read = groups.rows(), groups.columns()
        node.attributes["group"] = ir.AttrInt64("group", int(groups.kept.size))
    else:
        groups, needed = None, np.flatnonzero(columns)
        read = np.flatnonzero(have)
        if needed.size < read.size and _gathers(node, geo, needed, read, rows.size, edit):
            read = needed if needed.size else read[:1]  # one channel, silenced, where all are constants
    if read.size < channels:
        wanted[geo.x_axis] = read
    edit.operand(node, geo.x, wanted, visible=visible)
    if groups is not None:
        narrow_weight(node, geo, groups, edit)
    else:
        _weight(node, spec, geo, rows, read, np.flatnonzero(columns), nonzero, edit)
    if geo.bias is not None and geo.bias < len(node.inputs) and node.inputs[geo.bias] is not None:
        own = wanted_by_links(node, geo.bias, spec, edit)
        edit.operand(node, geo.bias, own if groups is None else {0: rows} if rows.size < nonzero[..., 0].size else {})
    for link in spec.links:  # what is given for every output: scales, zero points, a second summand
        if link.operand not in (geo.x, geo.w, geo.bias) and link.out_axis == geo.out_axis:
            own = wanted_by_links(node, link.operand, spec, edit)
            own.pop(link.axis, None)
            edit.operand(node, link.operand, own if rows.size == nonzero[..., 0].size else {**own, link.axis: rows})
    layout = dict(edit.planned(out))
    if rows.size < nonzero.shape[0] * nonzero.shape[1]:
        layout[geo.out_axis] = rows
    else:
        layout.pop(geo.out_axis, None)
    edit.narrow_value(out, layout)
    if border is not None:
        border.add(node, geo, rows, edit)
    if extra is not None and extra[rows].any():
        add_bias(node, geo, extra[rows], edit)
    if layout.keys() != edit.planned(out).keys() or rows.size != edit.planned(out).get(geo.out_axis, rows).size:
        _select(out, edit)


def _select(out: ir.Value, edit: Edit) -> None:
    """Groups that had to be filled up: what the plan does not keep is computed, and left out behind the node."""
    computed = edit.current(out)
    users = list(computed.uses())
    result = edit.convert(computed, edit.planned(out))
    edit.stand_in(computed, result, users)
    edit.layouts[result] = edit.planned(out)


def _mask(positions: np.ndarray | None, size: int) -> np.ndarray:
    mask = np.full(size, positions is None)
    if positions is not None:
        mask[positions] = True
    return mask


def _without_constants(
    node: ir.Node, geo: Geometry, columns: np.ndarray, edit: Edit
) -> tuple[np.ndarray, BorderMap | None]:
    """Take constants in front of zero padding out of what is read, as the plan has chosen; return what is left.

    One plane that stands for them has got their weights then; or they are in the map that is returned.
    """
    x, chosen = node.inputs[geo.x], edit.facts.borders.get(node)
    assert x is not None
    constants = constants_at_border(x, columns.size, geo, edit.facts)
    if constants is None or chosen is None:
        return columns, None
    merged = merged_inputs(columns, constants, chosen, geo)
    if not merged.any():
        return columns, None
    fill = np.where(merged, constants, 0)
    left = columns & ~merged
    if not chosen.size:
        return left, BorderMap(node, geo, fill, edit)
    stand = standing(merged, chosen, geo)
    left[stand] = True
    if (merged & ~left).any():
        node.replace_input_with(geo.w, merged_weight(node, geo, fill, stand, edit))
    return left, None


def _gathers_any(edit: Edit) -> bool:
    return edit.form != "composed" or edit.plan.kind == "smallest"


def _gathers(node: ir.Node, geo: Geometry, needed: np.ndarray, have: np.ndarray, outputs: int, edit: Edit) -> bool:
    return _gathers_any(edit) or contraction_gathers(edit.plan.costs, node, geo, outputs, needed.size, have.size)


def _weight(
    node: ir.Node,
    spec: Spec,
    geo: Geometry,
    rows: np.ndarray,
    read: np.ndarray,
    needed: np.ndarray,
    nonzero: np.ndarray,
    edit: Edit,
) -> None:
    value = node.inputs[geo.w]
    assert value is not None
    wanted = wanted_by_links(node, geo.w, spec, edit)
    if rows.size < nonzero.shape[1]:
        wanted[geo.w_out] = rows
    if read.size < nonzero.shape[2]:
        wanted[geo.w_in] = read
    silent = np.setdiff1d(read, needed)
    if silent.size and nonzero[0][rows][:, silent].any():
        value = _silence(value, geo, silent, edit)
        node.replace_input_with(geo.w, value)
    result = edit.cut(value, wanted)
    if result is not node.inputs[geo.w]:
        node.replace_input_with(geo.w, result)


def _silence(value: ir.Value, geo: Geometry, columns: np.ndarray, edit: Edit) -> ir.Value:
    """Zero the weights of inputs whose constants have gone into the bias."""

    def compute(array: np.ndarray, zero: np.ndarray) -> np.ndarray:
        silenced = array.copy()
        place = tuple(columns if i == geo.w_in else slice(None) for i in range(array.ndim))
        silenced[place] = np.broadcast_to(zero if geo.w_zero is None else geo.w_zero, array.shape)[place]
        return silenced

    edit.counts["silenced"] += 1
    return quantized.changed(
        value, compute, [size or 0 for size in dims.static(value) or ()], None, f"{value.name}_masked", edit
    )
