"""What constant inputs add to a contraction once they are left out: a bias, a border map, the weights of one plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.borders import border_map, kinds, windows
from graphopt.facts.ops.contraction import Geometry, canonical, original, spread_sums
from graphopt.rewrite import quantized, weights
from graphopt.rewrite.edit import Cursor, Edit


def add_bias(node: ir.Node, geo: Geometry, extra: np.ndarray, edit: Edit) -> None:
    """Add ``extra`` (``[o]``) to the result: in the bias where there may be one, else behind the node."""
    out = node.outputs[0]
    dtype = _dtype(out)
    edit.counts["bias"] += 1
    place = _bias_place(node, geo)
    if place is not None:
        bias = node.inputs[place] if len(node.inputs) > place else None
        array = None if bias is None else edit.facts.constants.array(bias)
        if bias is None or array is not None:
            old = np.zeros(extra.size) if array is None else array.astype(np.float64)
            if old.ndim <= 1 or old.shape[0] == 1:
                folded = np.broadcast_to(old.reshape(-1), extra.shape) + extra
                constant = quantized.bias(node, geo, folded, bias, edit)
                if constant is None:
                    kind = ir.DataType.INT32 if node.op_type in INTEGERS else out.dtype
                    typed = folded.astype(np.int32 if node.op_type in INTEGERS else dtype)
                    constant = edit.constant(typed, f"{out.name}_bias", kind)
                if len(node.inputs) <= place:
                    node.resize_inputs(place + 1)
                node.replace_input_with(place, constant)
                return
    shape = [1] * (dims.rank(out) or 1)
    shape[geo.out_axis] = extra.size
    constant = edit.constant(extra.astype(dtype).reshape(shape), f"{out.name}_bias", out.dtype)
    _added(node, constant, "biased", Cursor(edit.graph, after=node), edit)


BIASES = {"Conv": 2, "ConvTranspose": 2, "FusedConv": 2, "FusedGemm": 2, "Gemm": 2, "QGemm": 6, "QLinearConv": 8}
"""Where an operator has its bias."""

INTEGERS = frozenset({"QGemm", "QLinearConv"})
"""Operators whose bias is int32, whatever their output is."""


def _bias_place(node: ir.Node, geo: Geometry) -> int | None:
    """Return the position where a bias for every output may be put, or ``None``."""
    if "Gemm" in node.op_type and (geo.out_axis != 1 or geo.beta != 1.0):
        return None
    return BIASES.get(node.op_type)


def merged_weight(node: ir.Node, geo: Geometry, fill: np.ndarray, stand: np.ndarray, edit: Edit) -> ir.Value:
    """Return the weight in which the planes ``stand`` (one a group) add what all constants ``fill`` (``[i]``) add.

    ``W[:, j] = sum_i fill[i] / c[j] * W[:, i]``, where ``c[j]`` is what plane ``j`` holds. The other columns stay.
    """
    value, x = node.inputs[geo.w], node.inputs[geo.x]
    assert value is not None and x is not None
    held = edit.facts.dead_axes(edit.origin(x))[geo.x_axis].fill[stand].astype(np.float64)
    width = fill.size // geo.groups
    groups, places = stand // width, stand % width
    sums = spread_sums(node, replace(geo, alpha=1.0), fill, edit.facts)
    columns = sums.reshape(geo.groups, -1, *sums.shape[1:])[groups]
    columns = columns / held.reshape(-1, *[1] * (columns.ndim - 1))
    tensor = edit.facts.constants.tensor(value)

    def compute(array: np.ndarray) -> np.ndarray:
        result = canonical(array, geo).copy()
        result[groups, :, places] = columns.astype(array.dtype)
        return original(result, geo)

    edit.counts["planes"] += 1
    return edit.initializer(weights.derived(tensor, compute, list(tensor.shape.numpy())), f"{value.name}_merged")


class BorderMap:
    """What constants in front of zero padding add to the outputs of one convolution, computed before it is narrowed."""

    def __init__(self, node: ir.Node, geo: Geometry, fill: np.ndarray, edit: Edit) -> None:
        """Compute it for constants ``fill`` (``[i]``, zero for others)."""
        x = node.inputs[geo.x]
        assert x is not None
        inside = windows(node, edit.sizes(x))  # what is all constant may lie there in one position by now
        assert inside is not None
        found = [kinds(rows) for rows in inside]
        self.values = border_map(spread_sums(node, geo, fill, edit.facts), [rows for rows, _ in found])
        self.places = [which for _, which in found]

    def add(self, node: ir.Node, geo: Geometry, rows: np.ndarray, edit: Edit) -> None:
        """Add the map of the outputs ``rows`` to a narrowed node: a gather along each axis unfolds it, then ``Add``."""
        out = node.outputs[0]
        values = self.values[rows]
        if values[0].size == 1:  # no window reaches the padding
            add_bias(node, geo, values.reshape(-1), edit)
            return
        bias = edit.facts.constants.array(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            values = values + bias.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
            node.resize_inputs(2)
        place = Cursor(edit.graph, after=node)
        result = edit.constant(values[None].astype(_dtype(out)), f"{out.name}_border", out.dtype)
        for axis, which in enumerate(self.places, 2):
            sizes = list(dims.sizes(result) or ())
            if which.size == sizes[axis]:
                continue
            sizes[axis] = which.size
            index = edit.constant(which.astype(np.int64), f"{out.name}_kind")
            attributes = [ir.AttrInt64("axis", axis)]
            result = edit.node("Gather", [result, index], place, f"{out.name}_border", sizes, out, attributes)
        edit.counts["border maps"] += 1
        _added(node, result, "bordered", place, edit)


def _added(node: ir.Node, constant: ir.Value, what: str, place: Cursor, edit: Edit) -> None:
    out = node.outputs[0]
    users = list(out.uses())
    result = edit.node("Add", [out, constant], place, f"{out.name}_{what}", dims.sizes(out), out)
    edit.stand_in(out, result, users)


def _dtype(value: ir.Value) -> np.dtype:
    return np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
