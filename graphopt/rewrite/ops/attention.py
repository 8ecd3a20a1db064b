"""Attention operators lose whole heads, and positions of queries and keys that add nothing to any score."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.attention import K, Q, V, heads_of
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("Attention")
@rewrites("MultiHeadAttention", domain=MICROSOFT)
def attention(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Give every operand the heads that the result keeps."""
    found, out = heads_of(spec), node.outputs[0]
    assert found is not None
    kept = edit.planned(out).get(found.axis)
    wanted = [wanted_by_links(node, operand, spec, edit) for operand in (Q, K, V)]
    if kept is not None:
        queries = np.unique(kept // found.sizes[V])
        heads, counts = np.unique(queries // found.together, return_counts=True)
        assert np.unique(counts).size == 1, "every head of keys and values is shared by as many"
        wanted[Q][found.axis] = np.flatnonzero(np.isin(np.arange(found.numbers(Q).size) // found.sizes[Q], queries))
        for operand in (K, V):
            if heads.size < found.shared:
                wanted[operand][found.axis] = np.flatnonzero(np.isin(found.numbers(operand), heads))
        _per_head(node, spec, queries, heads, edit)
    if found.axis == 1:
        _scores(node, wanted, edit)
    for operand in (Q, K, V):
        edit.operand(node, operand, wanted[operand])
    outputs_narrowed(node, edit)


def _per_head(node: ir.Node, spec: Spec, queries: np.ndarray, heads: np.ndarray, edit: Edit) -> None:
    """Cut what comes in one for each head: the mask, the bias, the numbers of heads."""
    found = heads_of(spec)
    assert found is not None
    mask = node.inputs[found.mask] if len(node.inputs) > found.mask else None
    known = dims.static(mask)
    if mask is not None and known is not None and len(known) > 2 and known[-3] != 1:
        edit.operand(node, found.mask, {len(known) - 3: queries})
    if found.bias is not None:
        numbers = np.concatenate([found.numbers(operand) for operand in (Q, K, V)])
        edit.operand(node, found.bias, {0: np.flatnonzero(np.isin(numbers, heads))})
    for name, which in (("q_num_heads", queries), ("kv_num_heads", heads), ("num_heads", heads)):
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64(name, int(which.size))


def _scores(node: ir.Node, wanted: list[dict[int, np.ndarray]], edit: Edit) -> None:
    """Queries and keys lose the same positions; the scale stays what it was."""
    query, key = node.inputs[Q], node.inputs[K]
    assert query is not None and key is not None
    if edit.form == "local":
        return
    left, right = edit.layout(query).get(3), edit.layout(key).get(3)
    if edit.facts.constants.known(query):
        left = right
    elif edit.facts.constants.known(key):
        right = left
    size = (edit.sizes(query) or (None,) * 4)[3]
    if left is None or right is None or not np.array_equal(left, right) or not isinstance(size, int):
        return
    wanted[Q][3], wanted[K][3] = left, right
    if not node.attributes.get_float("scale", 0.0):
        node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(size))
