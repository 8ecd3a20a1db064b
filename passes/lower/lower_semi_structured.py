"""Products with 2:4 weights go to the sparse tensor cores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused
from graphopt.runtime_ops.sparse_gemm24.semi_structured import compact24, violation

_GRANULE = 16
_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class LowerSemiStructured:
    """Call ``SparseGemm24`` where two of every four numbers of a constant weight are zero.

    1. A ``MatMul`` with a constant matrix behind it, or a ``Gemm``, in float16 or bfloat16. Every four rows of every
       column are looked at. The weight is stored by its other half, in nine sixteenths of its bytes.
    2. The bias of a ``Gemm`` is added behind.

    *Options*: ``least``, the fewest numbers of a weight that are worth a look.

    *Never* unless runtime operators were asked for, for another target than ``cuda``; in float32, which sparse tensor
    cores round to 11 bits; for sizes that are no multiples of 16; where values may be infinite (``0 * inf`` is left
    out).

    *Needs* masks folded into the weights. Where the model runs, cuSPARSELt: without it the product is right, but slow.

    ``MatMul(x, W)`` -> ``SparseGemm24(x, values, indices)``
    """

    name: ClassVar[str] = "lower-semi-structured"
    stage: ClassVar[str] = "lower"

    least: int = 65536

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if context.target != "cuda" or not context.assume_finite or not context.runtime_operators:
            return False
        found = [(node, w) for node in context.graph if (w := self._weight(node, context)) is not None]
        if not found or not ready(context, "SparseGemm24"):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for node, weight in found:
            _lower(node, weight, context, edit)
        remove_unused(context.graph)
        return context.record({"semi_structured": len(found)})

    def _weight(self, node: ir.Node, context: Context) -> np.ndarray | None:
        """Return the weight ``[K, N]`` of a product that shall be lowered."""
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            return None
        x, weight = node.inputs[:2]
        if x is None or weight is None or not is_constant(weight) or weight.dtype not in _TYPES:
            return None
        sizes = dims.static(weight)
        if sizes is None or len(sizes) != 2 or (dims.rank(x) or 0) < 2:
            return None
        known = [size or 0 for size in sizes]
        if math.prod(known) < self.least or any(size % _GRANULE for size in known):
            return None
        if node.op_type == "Gemm" and not _plain(node):
            return None
        array = context.constants.array(weight)
        if array is None or not np.isfinite(array.astype(np.float32)).all():
            return None
        array = array.T if node.attributes.get_int("transB", 0) else array
        return array if violation(array) is None else None


def _plain(node: ir.Node) -> bool:
    ones = node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1
    return ones and not node.attributes.get_int("transA", 0)


def _lower(node: ir.Node, weight: np.ndarray, context: Context, edit: Edit) -> None:
    result, name = node.outputs[0], node.inputs[1].name if node.inputs[1] is not None else "weight"
    values, indices = compact24(weight)
    if node.inputs[1] is not None:
        context.constants.release(node.inputs[1])
    inputs = [node.inputs[0], edit.constant(values, f"{name}_values"), edit.constant(indices, f"{name}_indices")]
    place, sizes = edit.before(node), dims.sizes(result)
    new = call(context, edit, "SparseGemm24", inputs, place, result.name or "sparse", sizes, result)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        new = edit.node("Add", [new, bias], place, result.name or "sum", sizes, result)
    edit.stand_in(result, new, list(result.uses()))
