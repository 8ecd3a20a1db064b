"""Which operands make a result zero: position by position, whatever the other operands hold.

A position of a result is zero where *any* of its factors is, and *all* of its terms are. That is what a unit that was
zeroed in the weights comes to on its way: zero behind ReLU, GELU, hardswish, a product with a gate; a constant that is
not zero behind a sigmoid or a softmax.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.attention import V, heads_of
from graphopt.facts.ops.elementwise import Elementwise
from graphopt.facts.ops.layer_norm import norm_of
from graphopt.facts.rules import domain_of, find
from graphopt.facts.store import Facts, Spec

Role = Literal["factor", "term", "besides", "given"]
"""``factor``: zero makes the result zero; ``term``: all of these must be zero; ``besides``: a factor makes the result
zero already, yet where this is zero, too, what computes it need not be; ``given``: proves nothing."""

FACTORS = frozenset({"Mul", "And"})
FIRST = frozenset({"Div", "PRelu"})
"""Zero where their first operand is."""

MOVES = frozenset(
    "Identity Transpose Reshape Flatten Squeeze Unsqueeze Slice Split Concat Expand Tile Gather Trilu Resize Upsample "
    "DepthToSpace SpaceToDepth Col2Im AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool "
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceProd CumSum".split()
)
"""Zero where all that they read is."""

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""A bias is their third operand."""


def roles(node: ir.Node, spec: Spec, facts: Facts, free: Collection[ir.Value]) -> dict[int, Role]:
    """Return what each operand of a node says about zeros of the result; those that are not listed say nothing.

    ``free`` are the constants: the numbers of parameters are of the moment, and never looked at.
    """
    if domain_of(node) != "":
        return {}
    op, present = node.op_type, [place for place, value in enumerate(node.inputs) if value is not None]
    if op in FACTORS:
        return dict.fromkeys(present, "factor")
    if op in FIRST:
        return {0: "factor"}
    if op in MOVES:
        return dict.fromkeys(present if op == "Concat" else [0], "term")
    if op in PRODUCTS:
        return {place: "term" if place == 2 else "factor" for place in present}
    if op in ("BatchNormalization", "GroupNormalization"):
        return {0: "besides", 1: "factor", 2: "term"}
    if op == "InstanceNormalization":  # a channel of zeros has no mean to take off
        return {0: "factor", 1: "factor", 2: "term"}
    if op == "Where":
        return {1: "term", 2: "term"}
    if op == "Pad":
        padded = isinstance(spec.extra, list) and all(not fill.any() for _, _, _, fill in spec.extra)
        return {0: "term"} if padded else {}
    if heads_of(spec) is not None:
        return {V: "factor"}
    norm = norm_of(spec)
    if norm is not None:
        found: dict[int, Role] = dict.fromkeys(norm.addends, "besides")
        if not norm.centred and len(norm.addends) == 1:
            found[norm.addends[0]] = "factor"
        found[norm.scale] = "factor"
        if norm.shift is not None:
            found[norm.shift] = "term"
        return found
    return _elementwise(node, facts, free)


def _elementwise(node: ir.Node, facts: Facts, free: Collection[ir.Value]) -> dict[int, Role]:
    """Evaluate the operator where all of its operands are zero but those that are one known number."""
    rule = find(node)
    if not isinstance(rule, Elementwise):
        return {}
    values = node.inputs if rule.operands is None else node.inputs[: rule.operands]
    fills: list[np.ndarray | None] = []
    found: dict[int, Role] = {}
    for place, value in enumerate(values):
        known = facts.along(value, None, 1) if value is not None and value in free else None
        if known is None and value is not None:
            found[place] = "term"
        fills.append(None if value is None else np.zeros(1) if known is None else known[1])
    with np.errstate(all="ignore"):
        result = np.asarray(rule.function(node)(*fills))
    return found if result.size and not np.any(result != 0) else {}
