"""Attention with a cache loses as many heads of queries for each head that is cached; other forms lose any heads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.attention_contrib import BIAS, WEIGHT, Projected, Served, X, read_rows
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.ops.attention import attention
from graphopt.rewrite.rules import outputs_narrowed, rewrites


@rewrites("Attention")
def standard(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Do as for grouped queries where there is a cache."""
    (served if isinstance(spec.extra, Served) else attention)(node, spec, edit)


@rewrites("GroupQueryAttention", domain=MICROSOFT)
def served(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Give every operand the heads that the result keeps."""
    found = spec.extra
    assert isinstance(found, Served)
    kept = edit.planned(node.outputs[0]).get(found.axis)
    wanted: dict[int, Layout] = {}
    if kept is not None:
        heads = np.zeros(found.queries, bool)
        heads[found.result(np.arange(found.queries))[kept]] = True
        by_shared = heads.reshape(found.shared, -1).sum(axis=1)
        shared = np.ones(found.shared, bool) if found.cached else by_shared > 0
        assert np.unique(by_shared[shared]).size == 1, "every head of keys and values serves as many"
        wanted = {place: {found.axis: mask} for place, mask in found.positions(heads, shared).items()}
        wanted = {place: {axis: np.flatnonzero(mask) for axis, mask in part.items()} for place, part in wanted.items()}
        for place, axis in found.per_head:
            wanted[place] = {axis: np.flatnonzero(heads)}
        counts = {"num_heads": heads, "q_num_heads": heads, "kv_num_heads": shared}
        for name, which in counts.items():
            if name in node.attributes:
                node.attributes[name] = ir.AttrInt64(name, int(which.sum()))
        if not shared.all():
            for out in node.outputs[1:]:
                out.shape = None  # a cache that nobody reads
    for place, value in enumerate(node.inputs):
        if value is not None:
            edit.operand(node, place, wanted.get(place, {}))
    outputs_narrowed(node, edit)


@rewrites("Attention", domain=MICROSOFT)
def projected(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Cut the weight and the bias, and add what constant inputs add."""
    found, x, weight = spec.extra, node.inputs[X], node.inputs[WEIGHT]
    assert isinstance(found, Projected) and x is not None and weight is not None
    kept = edit.planned(node.outputs[0]).get(2)
    heads = np.arange(found.heads) if kept is None else np.unique(found.result()[kept])
    columns = np.flatnonzero(np.isin(found.numbers(), heads))
    rows, extra = _inputs(node, found, heads, columns, edit)
    cut: Layout = {} if kept is None else {1: columns}
    if rows is not None:
        cut[0] = rows
    for place, value in enumerate(node.inputs):
        if value is not None and place not in (X, WEIGHT, BIAS):
            axes = [] if kept is None else [axis for owner, axis in found.per_head if owner == place]
            edit.operand(node, place, {axis: heads for axis in axes})
    edit.operand(node, WEIGHT, cut)
    edit.operand(node, BIAS, {} if kept is None else {0: columns})
    if kept is not None:
        node.attributes["num_heads"] = ir.AttrInt64("num_heads", int(heads.size))
        if "qkv_hidden_sizes" in node.attributes:
            sizes = [size * int(heads.size) for size in found.sizes]
            node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", sizes)
    outputs_narrowed(node, edit)
    bias = node.inputs[BIAS]
    if extra is not None and bias is not None:
        array = edit.facts.constants.array(bias)
        assert array is not None and bias.dtype is not None
        summed = (array.astype(np.float64) + extra[columns]).astype(bias.dtype.numpy())
        node.replace_input_with(BIAS, edit.constant(summed, f"{node.outputs[0].name}_bias", bias.dtype))
        edit.counts["bias"] += 1


def _inputs(
    node: ir.Node, found: Projected, heads: np.ndarray, columns: np.ndarray, edit: Edit
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Narrow the input; return which of it is left (``None``: all), and what constants among the rest add."""
    x, weight = node.inputs[X], node.inputs[WEIGHT]
    assert x is not None and weight is not None
    size = (edit.sizes(x) or (None,) * 3)[2]
    assert isinstance(size, int)
    have = edit.layout(x).get(2)
    read = np.arange(size) if have is None else have
    if edit.plan.kind == "smallest" or edit.form != "composed":
        rows = np.flatnonzero(read_rows(node, found, heads, edit.facts))
        rows = rows[np.isin(rows, read)]
        read = rows if rows.size else read[:1]
    left_out = np.ones(size, bool)
    left_out[read] = False
    edit.operand(node, X, {2: read} if left_out.any() else {})
    dead = edit.facts.dead_axes(edit.origin(x)).get(2)
    if dead is None or not left_out.any():
        return (read if left_out.any() else None), None
    fill = np.where(dead.mask & left_out, dead.fill, 0).astype(np.float64)
    array = edit.facts.constants.array(weight)
    assert array is not None
    extra = array.astype(np.float64).T @ fill if fill.any() else None
    edit.facts.constants.release(weight)
    return read, extra
