"""Images get as many channels as integer convolutions read fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite import weights
from graphopt.rewrite.edit import Cursor, Edit

_COPY = 2.5
"""Nanoseconds that moving the channels of a tap takes longer if they are no multiple of 4 (onnxruntime 1.31)."""

_PAD, _PADDED = 3000, 0.5
"""Nanoseconds that padding takes, and for each element."""


@dataclass(frozen=True)
class PadChannels:
    """Give an image that a convolution reads zero channels, up to a multiple of 4.

    onnxruntime's integer convolution moves the channels under each tap of its window to where it multiplies them; 3 or
    1 of them take five times as long as 4. The weights of the new channels are zeros.

    1. ``Conv`` over a window of more than one pixel, reading a graph input or what is computed of one number by number
       (``(x - mean) / deviation``) or by moving numbers: ``Pad`` goes in front of it.

    *Never* for groups, for inputs whose channels are not known, or where the window moves so rarely that the padding
    costs more.

    *Needs* shapes; opset 11.

    ``Conv(x: [N, 3, 224, 224], W: [32, 3, 3, 3])`` -> ``Conv(Pad(x): [N, 4, 224, 224], W': [32, 4, 3, 3])``
    """

    name: ClassVar[str] = "pad-channels"
    stage: ClassVar[str] = "prepare"

    def run(self, context: Context) -> bool:
        """Run on the main graph, where activations are quantized for onnxruntime's CPU provider."""
        state = context.quantization
        if context.opset < 11 or (state is not None and (state.request.weight_only or state.request.target != "cpu")):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        padded: dict[ir.Value, ir.Value] = {}
        for node in list(context.model.graph):
            value = node.inputs[0] if node.op_type == "Conv" and node.inputs else None
            if value is not None and _is_image(value) and _pays(value, node, context.model.graph):
                _pad(value, node, edit, context.constants, padded)
        return context.record({"padded convolutions": len(padded)})


def _is_image(value: ir.Value) -> bool:
    """Whether a value is a graph input, or made of one by operators that never quantize what they read."""
    while not value.is_graph_input():
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _PREPARING:
            return False
        read = [one for one in node.inputs if one is not None and not is_constant(one)]
        if len(read) != 1:
            return False
        value = read[0]
    return True


_PREPARING = frozenset("Abs Add BatchNormalization Cast Clip Div Identity Mul Neg Resize Sqrt Sub Transpose".split())


def _pays(value: ir.Value, node: ir.Node, graph: ir.Graph) -> bool:
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or node.graph is not graph:
        return False
    known, out = dims.static(value), dims.static(node.outputs[0])
    window = dims.static(node.inputs[1])
    if node.inputs[0] is not value or not is_constant(node.inputs[1]) or value.dtype != ir.DataType.FLOAT:
        return False
    if known is None or out is None or window is None or None in window or node.attributes.get_int("group", 1) != 1:
        return False
    channels, taps = known[1], math.prod(size or 0 for size in window[2:])
    if channels is None or channels % 4 == 0 or taps <= 1 or window[1] != channels:
        return False
    moved = math.prod(1 if size is None else size for size in out[2:]) * taps
    wide = math.prod(1 if size is None else size for size in known[2:]) * (-(-channels // 4) * 4)
    return moved * _COPY > _PAD + wide * _PADDED


def _pad(value: ir.Value, node: ir.Node, edit: Edit, constants: Constants, padded: dict[ir.Value, ir.Value]) -> None:
    weight = node.inputs[1]
    assert weight is not None and value.shape is not None
    sizes = list(dims.sizes(value) or ())
    channels = sizes[1]
    assert isinstance(channels, int)
    more = -channels % 4
    if value not in padded:
        ends = np.zeros(2 * len(sizes), np.int64)
        ends[len(sizes) + 1] = more
        inputs: list[ir.Value | None] = [value, edit.constant(ends, f"{value.name}_pads")]
        shape = [sizes[0], channels + more, *sizes[2:]]
        padded[value] = edit.node("Pad", inputs, Cursor.behind(value, edit.graph), f"{value.name}_padded", shape, value)
    tensor = constants.tensor(weight)
    known = [int(size) for size in tensor.shape.numpy()]
    wide = [(0, more if axis == 1 else 0) for axis in range(len(known))]
    new = weights.derived(tensor, lambda array: np.pad(array, wide), [known[0], channels + more, *known[2:]])
    node.replace_input_with(0, padded[value])
    node.replace_input_with(1, edit.initializer(new, f"{weight.name}_padded"))
