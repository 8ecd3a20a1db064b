"""Sizes of what a Loop hands on: the same as before, where an iteration does not change them.

onnx's inference says nothing about the results of a Loop, because an iteration may change their sizes. It does not
where the initial value, the body's input and the body's output agree: by induction, none does.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt import dims
from graphopt.subgraphs import subgraphs, within


def settle_loops(model: ir.Model) -> list[tuple[ir.Value, ir.Shape | None]]:
    """Fill in the sizes of the results of loops; return the changed values and their shapes before."""
    settled: list[tuple[ir.Value, ir.Shape | None]] = []
    for node in (node for graph in within(model.graph) for node in graph):
        if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
            continue
        for body in subgraphs(node):
            count = len(node.inputs) - 2
            if len(body.inputs) != count + 2 or len(body.outputs) != len(node.outputs) + 1:
                continue
            for place, out in enumerate(node.outputs[:count]):
                values = (node.inputs[place + 2], body.inputs[place + 2], body.outputs[place + 1])
                _settle(out, _agreed(values), settled)
            for place, out in enumerate(node.outputs[count:], count):
                inner = dims.sizes(body.outputs[place + 1])
                _settle(
                    out,
                    None if inner is None else [None, *(size if isinstance(size, int) else None for size in inner)],
                    settled,
                )
    return settled


def _agreed(values: Sequence[ir.Value | None]) -> list[dims.Size] | None:
    """Return the sizes that all values have alike."""
    known = [dims.sizes(value) for value in values]
    first = known[0]
    if first is None or any(sizes is None or len(sizes) != len(first) for sizes in known):
        return None
    return [
        size if all(sizes is not None and dims.provably_equal(sizes[axis], size) for sizes in known) else None
        for axis, size in enumerate(first)
    ]


def _settle(out: ir.Value, found: list[dims.Size] | None, settled: list[tuple[ir.Value, ir.Shape | None]]) -> None:
    before = dims.sizes(out)
    if found is None or out.type is None or (before is not None and len(before) != len(found)):
        return
    after = [new if old is None else old for old, new in zip(before or [None] * len(found), found, strict=True)]
    if before is None or after != list(before):
        settled.append((out, out.shape))
        out.shape = ir.Shape(after)
