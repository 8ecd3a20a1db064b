"""Means over all pixels, as the operator that has an integer kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class GlobalAverage:
    """Write a mean over every axis behind the channels as ``GlobalAveragePool``.

    1. ``ReduceMean`` over exactly the axes 2, 3, … becomes ``GlobalAveragePool``; where the axes were not kept, a
       ``Flatten`` takes them away.

    *Never* where the axes are not constant, where one of them may be empty (a mean of nothing is no number), or for
    other types than float.

    *Needs* shapes.

    ``ReduceMean(x: [N, 8, 7, 7], [2, 3]){keepdims=0}`` -> ``Flatten(GlobalAveragePool(x))``
    """

    name: ClassVar[str] = "global-average"
    stage: ClassVar[str] = "prepare"

    def run(self, context: Context) -> bool:
        """Run on every graph, where activations are quantized."""
        if context.quantization is not None and context.quantization.request.weight_only:
            return False
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if "ReduceMean" not in context.operators():
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        rewritten = 0
        for node in list(context.graph):
            if _over_pixels(node, context.constants):
                _rewrite(node, edit)
                rewritten += 1
        if rewritten:
            remove_unused(context.graph)
        return context.record({"means": rewritten})


def _over_pixels(node: ir.Node, constants: Constants) -> bool:
    if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
        return False
    value = node.inputs[0]
    sizes = dims.sizes(value)
    if value is None or value.dtype != ir.DataType.FLOAT or sizes is None or len(sizes) < 3:
        return False
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = constants.ints(node.inputs[1])
    else:
        given = node.attributes.get("axes")
        axes = None if given is None else list(given.as_ints())
    if axes is None or any(not -len(sizes) <= axis < len(sizes) for axis in axes):
        return False
    # A size that is not known may be 0, and pooling of nothing is not what the mean of nothing is.
    if any(not isinstance(size, int) or size < 1 for size in sizes[2:]):
        return False
    return sorted(axis % len(sizes) for axis in axes) == list(range(2, len(sizes)))


def _rewrite(node: ir.Node, edit: Edit) -> None:
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    known = dims.sizes(value)
    assert known is not None
    place = Cursor(edit.graph, before=node)
    pooled = edit.node(
        "GlobalAveragePool", [value], place, f"{out.name}_pooled", [*known[:2], *[1] * (len(known) - 2)], out
    )
    pool = pooled.producer()
    assert pool is not None
    if not node.attributes.get_int("keepdims", 1):
        axis = [ir.AttrInt64("axis", 1)]
        pooled = edit.node("Flatten", [pooled], place, f"{out.name}_flat", known[:2], out, axis)
    edit.stand_in(out, pooled, list(out.uses()))
    edit.graph.remove(node, safe=True)
    pool.name = node.name  # who names the mean in an option means this one
