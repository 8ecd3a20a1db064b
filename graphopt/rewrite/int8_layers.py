"""Convolutions and products on integers as they stand in a graph: between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.readers import only_reader
from graphopt.rewrite.dequantized import Dequantized, codes, dequantized, quantized, signed

if TYPE_CHECKING:
    from graphopt.context import Context

LOW, HIGH = -128, 127

ULPS = 1e-6
"""How far two scales may be apart, relative to them: some units in the last place of float32."""


PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass
class Layer:
    """A convolution or product and what belongs to it, read from the Q upwards.

    Attributes:
        operator: The runtime operator that computes it.
        product: The Conv, Gemm or MatMul.
        quantizers: The Q that it ends in; several are equal.
        x: Its integers.
        w: int8: weights of a convolution, or ``[k, n]``.
        scale: float32 ``[n]`` or ``[1]``: scales of x times w by that of y, as onnxruntime's CPU kernels compute it.
        bias: int32 ``[n]``.
        residual: Integers that are added.
        attributes: Of the operator; zero points and bounds are those of int8.
    """

    operator: str
    product: ir.Node
    quantizers: list[ir.Node]
    x: ir.Value
    w: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    residual: ir.Value | None
    attributes: dict[str, Any] = field(default_factory=dict)

    def unsigned(self) -> list[ir.Value]:
        """Return those of the integers that it reads and writes which are uint8."""
        found = (self.x, self.residual, *(node.outputs[0] for node in self.quantizers))
        return [value for value in found if value is not None and value.dtype == ir.DataType.UINT8]


@dataclass(frozen=True)
class Left:
    """A quantized product that no operator computes, and why."""

    product: ir.Node
    reason: str


ALONE = "no Q follows, or something reads the floats in front of it"


def layers(context: Context) -> tuple[list[Layer], list[Left]]:
    """Return the layers of a graph that a runtime operator computes, and the products between DQ and Q that none does.

    The operators read int8. A layer with activations of uint8 (``signed`` makes int8 of them) is described as the one
    that it will be: its integers are those that are there, less 128.
    """
    found: list[Layer] = []
    reasons: dict[ir.Node, str] = {}
    for node in context.graph:
        if node.op_type == "QuantizeLinear" and node.domain == "":
            one = _layer(node, context)
            if isinstance(one, Layer):
                found.append(one)
            elif one is not None:
                reasons[one.product] = one.reason
    taken = {layer.product for layer in found}
    left: list[Left] = []
    for node in context.graph:
        if node.domain == "" and node.op_type in PRODUCTS and node not in taken:
            operands = [dequantized(value, BYTES, context) for value in node.inputs[:2]]
            if all(one is not None for one in operands):
                left.append(Left(node, reasons.get(node, ALONE)))
    return found, left


def _layer(quantizer: ir.Node, context: Context) -> Layer | Left | None:
    """Return what ends in a QuantizeLinear: why an operator on int8 would not compute the same; None if no product."""
    out = quantized(quantizer, quantizer.outputs[0], BYTES, context)
    if out is None or out.scale.size != 1:
        return None
    step, zero = out.scale.reshape(()), int(out.signed_zero.reshape(()))
    quantizers = _equal(quantizer, out, context)
    if quantizers[0] is not quantizer:
        return None  # it belongs to the first
    last = quantizer.inputs[0].producer() if len(quantizers) > 1 and quantizer.inputs[0] else _before(quantizer, 0)
    node, low, high = _clipped(last, step, zero, context)
    attributes: dict[str, Any] = {"y_zero_point": zero, "low": low, "high": high}
    residual = None
    if node is not None and node.op_type == "Add" and node.domain == "":
        product, beside = _sum(node, context)
        if product is None or beside is None:
            return None
        residual = beside.integers
        attributes["residual_scale"] = float(beside.scale.reshape(()) / step)
        attributes["residual_zero_point"] = int(beside.signed_zero.reshape(()))
        node = product
    if node is None or node.domain != "" or node.op_type not in PRODUCTS:
        return None
    x, w = (dequantized(value, BYTES, context) for value in node.inputs[:2])
    if x is None or w is None:
        return None
    weights = codes(w.integers, context)
    if weights is None:
        return Left(node, "both operands are computed")
    if x.scale.size != 1:
        return Left(node, "what is summed over has several scales")
    if w.signed_zero.any():
        return Left(node, "the weights have zero points")
    window = _window(node, signed(weights)) if node.op_type == "Conv" else _matrix(node, signed(weights))
    if window is None:
        return Left(node, f"{node.op_type} is not of a form that the operator has")
    weights, along, more = window
    if w.scale.size > 1 and w.axis != along:
        return Left(node, "the scales of the weights lie along an axis that is summed over")
    factor = x.scale.reshape(()) * w.scale.reshape(-1)
    outputs = weights.shape[0] if node.op_type == "Conv" else weights.shape[1]
    bias = _bias(node, factor, outputs, context)
    if bias is None:
        return Left(node, "the bias is not of integers in units of both scales")
    attributes |= {"x_zero_point": int(x.signed_zero.reshape(())), **more}
    name = ("Int8Conv" if node.op_type == "Conv" else "Int8Gemm") + ("Add" if residual is not None else "")
    return Layer(name, node, quantizers, x.integers, weights, factor / step, bias, residual, attributes)


def _equal(quantizer: ir.Node, out: Dequantized, context: Context) -> list[ir.Node]:
    """Return all Q of a sum where they make the same integers of it and nothing else reads it; else the one alone."""
    value = quantizer.inputs[0]
    if value is None or value.is_graph_output():
        return [quantizer]
    found: list[ir.Node] = []
    for node, position in value.uses():
        mine = node.op_type == "QuantizeLinear" and node.domain == "" and position == 0 and node.graph is value.graph
        other = quantized(node, node.outputs[0], [quantizer.outputs[0].dtype or BYTES[0]], context) if mine else None
        if other is None or node.outputs[0].is_graph_output():
            return [quantizer]
        if other.scale.size != 1 or other.scale != out.scale or other.zero != out.zero:
            return [quantizer]
        found.append(node)
    return found


def _before(node: ir.Node, position: int) -> ir.Node | None:
    """Return the node in front, if nobody else reads what it writes."""
    value = node.inputs[position]
    before = None if value is None or only_reader(value) is not node else value.producer()
    return before if before is not None and len(before.outputs) == 1 else None


def _clipped(node: ir.Node | None, step: np.ndarray, zero: int, context: Context) -> tuple[ir.Node | None, int, int]:
    """Return the node in front of Relus and Clips, and the range that they leave to the quantized output.

    Rounding keeps an order: ``round(clip(v, a, b) / s) = clip(round(v / s), round(a / s), round(b / s))``.
    """
    low, high = LOW, HIGH
    while node is not None and node.domain == "" and node.op_type in ("Relu", "Clip"):
        ends = (0.0, np.inf) if node.op_type == "Relu" else _ends(node, context)
        if ends is None or not ends[0] <= ends[1]:
            return None, low, high
        steps = [int(np.clip(np.rint(np.float32(end) / step) + zero, low, high)) for end in ends]
        low, high = steps
        node = _before(node, 0)
    return node, low, high


def _ends(node: ir.Node, context: Context) -> tuple[float, float] | None:
    found = [-np.inf, np.inf]
    for position in range(1, min(3, len(node.inputs))):
        value = node.inputs[position]
        if value is not None:
            array = context.constants.array(value)
            if array is None or array.size != 1 or np.isnan(array).any():
                return None
            found[position - 1] = float(array.reshape(()))
    return found[0], found[1]


def _sum(node: ir.Node, context: Context) -> tuple[ir.Node | None, Dequantized | None]:
    """Return the product of an addition and its residual; (None, None) where it has not just these."""
    first, second = (dims.sizes(value) for value in node.inputs[:2])
    if first is None or second is None or len(first) != len(second):
        return None, None
    if not all(dims.provably_equal(a, b) for a, b in zip(first, second, strict=True)):
        return None, None
    for position in (0, 1):
        product, beside = _before(node, position), dequantized(node.inputs[1 - position], BYTES, context)
        if product is not None and product.op_type != "DequantizeLinear" and beside is not None:
            return (product, beside) if beside.scale.size == 1 else (None, None)
    return None, None


def _window(node: ir.Node, weights: np.ndarray) -> tuple[np.ndarray, int, dict[str, Any]] | None:
    """Return weights, the axis of the output's channels, and attributes of a convolution."""
    spatial = weights.ndim - 2
    if spatial not in (1, 2) or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    order = list(range(weights.ndim))
    found = {
        "pads": list(node.attributes.get_ints("pads", [0] * 2 * spatial)),
        "strides": list(node.attributes.get_ints("strides", [1] * spatial)),
        "dilations": list(node.attributes.get_ints("dilations", [1] * spatial)),
        "group": node.attributes.get_int("group", 1),
        "input_perm": order,
        "output_perm": order,
    }
    return weights, 0, found


def _matrix(node: ir.Node, weights: np.ndarray) -> tuple[np.ndarray, int, dict[str, Any]] | None:
    """Return ``w[k, n]``, the axis of n in the weights as they were, and no attributes."""
    if weights.ndim != 2 or (dims.rank(node.inputs[0]) or 0) < 2:
        return None
    if node.op_type == "MatMul":
        return weights, 1, {}
    plain = all(node.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
    if not plain or node.attributes.get_int("transA", 0):
        return None
    turned = bool(node.attributes.get_int("transB", 0))
    return (np.ascontiguousarray(weights.T) if turned else weights), 0 if turned else 1, {}


def _bias(node: ir.Node, factor: np.ndarray, outputs: int, context: Context) -> np.ndarray | None:
    """Return the bias as integers in units of ``factor``; zeros where there is none.

    One of floats has to be such integers up to the last bits, as zeros are. onnxruntime rounds any to them: up to half
    a unit, and a unit is large where weights are small (a channel of zeros has any scale).
    """
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return np.zeros(outputs, np.int32)
    found = dequantized(given, (ir.DataType.INT32,), context)
    bias = context.constants.array(given if found is None else found.integers)
    if bias is None or bias.size not in (1, outputs) or (bias.size > 1 and bias.shape[-1] != outputs):
        return None  # [n, 1] has a number for each row
    if found is not None and not found.zero.any() and np.allclose(found.scale.reshape(-1), factor, rtol=ULPS, atol=0):
        return np.broadcast_to(bias.reshape(-1), outputs).astype(np.int32)
    floats = context.constants.array(given)
    if floats is None or floats.dtype != np.float32:
        return None
    steps = floats.reshape(-1).astype(np.float64) / factor
    whole = np.rint(steps)
    same = (np.abs(steps - whole) <= ULPS * np.abs(whole)) & (np.abs(whole) < 2.0**31)
    return np.broadcast_to(whole, outputs).astype(np.int32) if same.all() else None
