"""Packed weights are cut in rows and in whole blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import MICROSOFT
from graphopt.facts.ops.packed import BIAS, SCALES, ZEROS, B, Packed, zero_points
from graphopt.facts.ops.qlinear import operand
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("MatMulNBits", domain=MICROSOFT)
def matmul(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Cut the rows that the output keeps, and the blocks of which the input keeps anything."""
    packed, x, out = spec.extra, node.inputs[0], node.outputs[0]
    assert isinstance(packed, Packed) and x is not None
    last = (dims.rank(out) or 1) - 1
    wanted = wanted_by_links(node, 0, spec, edit)
    have, rows = edit.layout(x).get(last), edit.planned(out).get(last)
    blocks = None if have is None or not spec.groups else packed.kept_blocks(have)
    if blocks is not None and blocks.size < packed.blocks:
        wanted[last] = packed.positions(blocks)
    else:
        blocks = None
    edit.operand(node, 0, wanted)
    if rows is not None or blocks is not None:
        _cut(node, packed, rows, blocks, edit)
    outputs_narrowed(node, edit)


def _cut(node: ir.Node, packed: Packed, rows: np.ndarray | None, blocks: np.ndarray | None, edit: Edit) -> None:
    kept_rows = np.arange(packed.n) if rows is None else rows
    kept = np.arange(packed.blocks) if blocks is None else blocks
    for place in (B, SCALES, ZEROS, BIAS):
        value = operand(node, place)
        array = None if value is None else edit.facts.constants.array(value)
        if value is None or array is None:
            continue
        if place == BIAS:
            result = array[kept_rows]
        elif place == ZEROS and array.dtype == np.uint8:
            points = zero_points(array, packed)
            assert points is not None
            result = _repacked(points[kept_rows][:, kept], packed.bits)
        else:
            result = array.reshape(packed.n, packed.blocks, -1)[kept_rows][:, kept]
        if place in (SCALES, ZEROS):
            result = result.ravel() if array.ndim == 1 else result.reshape(kept_rows.size, -1)
        edit.counts["cut"] += 1
        node.replace_input_with(place, edit.constant(np.ascontiguousarray(result), f"{value.name}_cut", value.dtype))
    node.attributes["N"] = ir.AttrInt64("N", int(kept_rows.size))
    node.attributes["K"] = ir.AttrInt64("K", int(packed.positions(kept).size))


def _repacked(points: np.ndarray, bits: int) -> np.ndarray:
    """Pack numbers ``[n, blocks]`` into bytes, each row on its own."""
    if bits == 8:
        return points
    even = np.pad(points, ((0, 0), (0, points.shape[1] % 2)))
    return even[:, ::2] | (even[:, 1::2] << 4)
