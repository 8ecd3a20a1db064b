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
    heads = np.arange(found.shared) if kept is None else np.unique(found.result()[kept])
    wanted = [wanted_by_links(node, operand, spec, edit) for operand in (Q, K, V)]
    if heads.size < found.shared:
        for operand in (Q, K, V):
            wanted[operand][found.axis] = np.flatnonzero(np.isin(found.numbers(operand), heads))
        _per_head(node, spec, heads, edit)
    if found.axis == 1:
        _scores(node, wanted, edit)
    for operand in (Q, K, V):
        edit.operand(node, operand, wanted[operand])
    outputs_narrowed(node, edit)


def _per_head(node: ir.Node, spec: Spec, heads: np.ndarray, edit: Edit) -> None:
    """Cut what comes in one for each head: the mask, the bias, the numbers of heads."""
    found = heads_of(spec)
    assert found is not None
    mask = node.inputs[found.mask] if len(node.inputs) > found.mask else None
    known = dims.static(mask)
    if mask is not None and known is not None and len(known) > 2 and known[-3] != 1:
        chosen = np.flatnonzero(np.isin(np.arange(found.queries) // found.together, heads))
        edit.operand(node, found.mask, {len(known) - 3: chosen})
    if found.bias is not None:
        numbers = np.concatenate([found.numbers(operand) for operand in (Q, K, V)])
        edit.operand(node, found.bias, {0: np.flatnonzero(np.isin(numbers, heads))})
    for name, count in (("q_num_heads", found.together), ("kv_num_heads", 1), ("num_heads", 1)):
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64(name, int(heads.size) * count)


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
