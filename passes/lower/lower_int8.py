"""Convolutions and products between DequantizeLinear and QuantizeLinear become one operator on int8."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.int8_layers import Layer, Left, layers
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class LowerInt8:
    """Write a convolution or product on int8 numbers as ``Int8Conv`` or ``Int8Gemm``.

    1. ``DQ(x), DQ(w), DQ(b) -> Conv -> Q`` becomes ``Int8Conv``, Gemm and MatMul with a constant matrix ``Int8Gemm``:
       the sum is of integers and is brought to the output's scale at once.
    2. Relu, or a Clip with constant ends, in front of the Q becomes the range of the output.
    3. ``Add(product, DQ(r))`` of one shape in front of that becomes the residual of ``Int8ConvAdd`` or ``Int8GemmAdd``,
       which is added before anything is rounded.

    *Never* where something else reads what lies between, for activations of other types than int8, for weights with
    zero points (128 in uint8 is none) or with scales along an axis that is summed over, or for biases that are not
    integers in units of both scales: one of floats would have to be rounded. What stays is said with its reason.

    *Needs* runtime operators (``--operators``), Q and DQ as ``graphopt quantize --target cuda`` places them, and
    ``signed-activations`` before it for models that others have quantized to uint8.

    ``DQ -> Conv -> Add -> Relu -> Q`` -> ``Int8ConvAdd``
    """

    name: ClassVar[str] = "lower-int8"
    stage: ClassVar[str] = "lower"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators:
            return False
        read, left = layers(context)
        found = [layer for layer in read if not layer.unsigned()]
        left += [Left(layer.product, "activations are of uint8") for layer in read if layer.unsigned()]
        _say_what_stays(left, context)
        if not found or not all(ready(context, name) for name in {layer.operator for layer in found}):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for layer in found:
            _write(layer, context, edit)
        remove_unused(context.graph)
        return context.record({"int8": len(found)})


def _say_what_stays(rows: list[Left], context: Context) -> None:
    """Warn of what is computed in float between DQ and Q, which is slower than float alone."""
    if rows:
        counts = Counter(row.reason for row in rows).most_common()
        stay = "1 quantized product stays" if len(rows) == 1 else f"{len(rows)} quantized products stay"
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts)
        context.warn("stays-quantized", f"{stay} in float between DQ and Q: {reasons}", rows[0].product)


def _write(layer: Layer, context: Context, edit: Edit) -> None:
    old = layer.quantizers[0].outputs[0]
    name = str(old.name)
    inputs = [
        edit.current(layer.x),  # an operator in front has taken the place of the Q there
        edit.constant(layer.w, f"{name}_weights"),
        edit.constant(layer.scale, f"{name}_scales"),
        edit.constant(layer.bias, f"{name}_bias"),
        *([] if layer.residual is None else [edit.current(layer.residual)]),
    ]
    like = layer.quantizers[0].inputs[0]
    assert like is not None
    place = edit.behind(like)
    new = call(
        context, edit, layer.operator, inputs, place, f"{name}_int8", dims.sizes(old), like, layer.attributes,
        ir.DataType.INT8,
    )  # fmt: skip
    for quantizer in layer.quantizers:
        edit.stand_in(quantizer.outputs[0], new, list(quantizer.outputs[0].uses()))
