"""Layers that multiply signs by signs are computed on single bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused
from graphopt.runtime_ops.binary_gemm import bits
from graphopt.runtime_ops.operator import DOMAIN

KINDS = {"Conv": "BinaryConv", "Gemm": "BinaryGemm", "MatMul": "BinaryGemm"}
SIGNED = {name + "Sign" for name in KINDS.values()}


@dataclass(frozen=True)
class LowerBinary:
    """Call ``BinaryConv`` and ``BinaryGemm`` where a layer multiplies -1 and +1 by weights of one size a filter.

    1. What is -1 or +1 is the result of a ``Where`` between these two numbers, or ``2 b - 1`` of a condition; if the
       condition is ``x > 0``, the operator reads ``x``; and what is in front of a function that keeps signs (a clip
       around 0, Relu, PRelu, LeakyRelu, Tanh).
    2. A weight is ``s`` or ``-s`` in all places of an output channel: its bits are stored, and ``s`` scales the sum.
    3. Where the result is read by such a ``Where`` alone, and that by such layers alone, the layer compares its sum
       with a threshold and hands on int8. Sums are integers here; where they meet a threshold exactly, what the float
       layer says depends on how it rounds.

    *Options*: ``least``, the fewest numbers side by side (input channels of a group, or rows of a matrix) that are
    worth a word of 64 bits; ``sign``, whether ``Sign`` counts as -1 or +1, although it is 0 at 0, where the layer then
    takes -1.

    *Never* unless runtime operators were asked for; for other types than float32, other convolutions than over images,
    or weights that hold a 0.

    *Needs* batch-norms folded into the weights.

    ``Conv(Where(x > 0, 1, -1), W, b)`` -> ``BinaryConv(x, bits of W, s, b)``
    """

    name: ClassVar[str] = "lower-binary"
    stage: ClassVar[str] = "lower"

    least: int = 32
    sign: bool = False

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if context.target not in ("cpu", "cuda") or not context.runtime_operators:
            return False
        through = context.assume_finite  # what a clip makes of NaN depends on who clips
        layers = [layer for node in context.graph if (layer := self._layer(node, context.constants, through))]
        nodes = {layer.node for layer in layers}
        names = {KINDS[layer.node.op_type] for layer in layers}
        if not layers or not all(ready(context, name) and ready(context, name + "Sign") for name in names):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        compared = 0
        for layer in layers:
            compared += self._lower(layer, nodes, edit, context)
        remove_unused(context.graph)
        return context.record({"binary": len(layers), "thresholds": compared})

    def _layer(self, node: ir.Node, constants: Constants, through: bool) -> _Layer | None:
        """Return what is known of a layer that shall be lowered."""
        if node.op_type not in KINDS or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
            return None
        x, weight = node.inputs[:2]
        if x is None or weight is None or not is_constant(weight) or x.dtype != ir.DataType.FLOAT:
            return None
        if not _fits(node, dims.rank(weight)) or self._source(x, constants, through) is None:
            return None
        array = constants.array(weight)
        if array is None or array.dtype != np.float32 or array.size == 0:
            return None
        if node.op_type != "Conv" and not node.attributes.get_int("transB", 0):
            array = array.T
        scale = np.abs(array).reshape(len(array), -1)
        if array.shape[1] < self.least or not (np.isfinite(scale) & (scale > 0) & (scale == scale[:, :1])).all():
            return None
        bias = _bias(node, constants, len(array))
        return None if bias is None else _Layer(node, array, scale[:, 0].copy(), bias)

    def _source(self, value: ir.Value, constants: Constants, through: bool) -> ir.Value | None:
        """Return what has the signs of a value that is -1 or +1; None where it may be something else.

        ``through``: what functions that keep signs were computed from, too.
        """
        node = value.producer()
        if node is None:
            return None
        if node.domain == DOMAIN:
            return value if node.op_type in SIGNED else None
        if node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Sign":
            return node.inputs[0] if self.sign and node.inputs[0] is not None else None
        condition = _condition(node, constants)
        if condition is None:
            return None
        compared = condition.producer()
        if compared is None or compared.domain not in ("", "ai.onnx") or not _ascending(node, constants):
            return value
        above, zero = compared.inputs[:2] if len(compared.inputs) == 2 else (None, None)
        if compared.op_type == "Less":
            above, zero = zero, above
        elif compared.op_type != "Greater":
            return value
        known = above is not None and zero is not None and above.dtype == ir.DataType.FLOAT
        if not known or _number(zero, constants, dims.rank(above)) != 0:
            return value
        while through and above is not None and (node := above.producer()) is not None and _keeps(node, constants):
            above = node.inputs[0]
        return above

    def _lower(self, layer: _Layer, lowered: set[ir.Node], edit: Edit, context: Context) -> bool:
        """Replace a layer; return whether it compares."""
        node, constants = layer.node, context.constants
        x, weight = node.inputs[:2]
        assert x is not None and weight is not None
        source = self._source(x, constants, context.assume_finite)
        assert source is not None
        name, base = KINDS[node.op_type], weight.name or "weight"
        attributes: dict[str, object] = {"k": layer.weight.shape[1]}
        if node.op_type == "Conv":
            valid = node.attributes.get_string("auto_pad", "NOTSET") == "VALID"
            attributes = {
                "channels": layer.weight.shape[1],
                "group": node.attributes.get_int("group", 1),
                "strides": list(node.attributes.get_ints("strides", [1, 1])),
                "dilations": list(node.attributes.get_ints("dilations", [1, 1])),
                "pads": [0] * 4 if valid else list(node.attributes.get_ints("pads", [0] * 4)),
            }
        signs, result, array = self._signs(layer, lowered, context), node.outputs[0], layer.weight
        if signs is not None:
            assert isinstance(layer.bias, np.ndarray)
            limits, flipped = bits.thresholds(layer.scale, layer.bias)
            assert not flipped.any()  # a scale is above 0: its sign is in the bits
            name, result, operands = name + "Sign", signs.outputs[0], [edit.constant(limits, f"{base}_threshold")]
        else:
            bias = layer.bias if isinstance(layer.bias, ir.Value) else edit.constant(layer.bias, f"{base}_bias")
            operands = [edit.constant(layer.scale, f"{base}_scale"), bias]
        packed = bits.pack_filters(array) if node.op_type == "Conv" else bits.pack(array)
        constants.release(weight)
        new = call(
            context,
            edit,
            name,
            [source, edit.constant(packed, f"{base}_bits"), *operands],
            edit.before(node),
            result.name or "binary",
            dims.sizes(result),
            result,
            attributes,
            None if signs is None else ir.DataType.INT8,
        )
        edit.stand_in(result, new, list(result.uses()))
        return signs is not None

    def _signs(self, layer: _Layer, lowered: set[ir.Node], context: Context) -> ir.Node | None:
        """Return the node behind a layer that takes its sign, for layers that will be lowered alone."""
        if not isinstance(layer.bias, np.ndarray):
            return None
        result, found = layer.node.outputs[0], None
        value = result
        for _ in range(8):  # functions that keep signs; a comparison; a Where, or a Cast and two steps to 2 b - 1
            uses = list(value.uses())
            if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not layer.node.graph:
                return None
            found = uses[0].node
            value = found.outputs[0]
            if self._source(value, context.constants, context.assume_finite) is result:
                break
        else:
            return None
        readers = [use for use in value.uses() if use.idx != 0 or use.node not in lowered]
        return None if readers or value.is_graph_output() else found


@dataclass(frozen=True)
class _Layer:
    """A layer that is lowered: weights with the output channels first, what scales each, and the bias."""

    node: ir.Node
    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | ir.Value


def _fits(node: ir.Node, rank: int | None) -> bool:
    """Tell whether attributes and ranks are those that the operator can say."""
    if node.op_type == "Conv":
        said = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return said and rank == 4 and min(node.attributes.get_ints("pads", [0])) >= 0
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1 and node.attributes.get_float("beta", 1.0) == 1
        return plain and not node.attributes.get_int("transA", 0) and rank == 2
    return rank == 2 and (dims.rank(node.inputs[0]) or 0) >= 1


def _bias(node: ir.Node, constants: Constants, outputs: int) -> np.ndarray | ir.Value | None:
    """Return the bias of a layer; None where it is another one than a number an output."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(outputs, np.float32)
    array = constants.array(value) if is_constant(value) else None
    if array is None:
        return value if node.op_type == "Conv" else None
    row = array.size in (1, outputs) and array.shape[-1:] in ((), (array.size,)) and array.ndim <= 2
    return np.broadcast_to(array.reshape(-1), (outputs,)).astype(np.float32) if row else None


def _condition(node: ir.Node, constants: Constants) -> ir.Value | None:
    """Return the condition of which a node makes -1 and +1."""
    if node.op_type == "Where" and node.inputs[0] is not None:
        rank = dims.rank(node.inputs[0])
        pair = {_number(value, constants, rank) for value in node.inputs[1:]}
        return node.inputs[0] if pair == {1.0, -1.0} else None
    step = {"Sub": 1.0, "Add": -1.0}.get(node.op_type)
    doubled = node.inputs[0].producer() if step is not None and node.inputs[0] is not None else None
    if (
        doubled is None
        or doubled.op_type != "Mul"
        or doubled.domain not in ("", "ai.onnx")
        or doubled.inputs[0] is None
    ):
        return None
    rank = dims.rank(node.outputs[0])
    if _number(node.inputs[1], constants, rank) != step or _number(doubled.inputs[1], constants, rank) != 2:
        return None
    cast = doubled.inputs[0].producer()
    condition = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return condition if condition is not None and condition.dtype == ir.DataType.BOOL else None


def _ascending(node: ir.Node, constants: Constants) -> bool:
    """Tell whether a true condition gives +1."""
    return node.op_type != "Where" or _number(node.inputs[1], constants, dims.rank(node.inputs[0])) == 1


def _keeps(node: ir.Node, constants: Constants) -> bool:
    """Tell whether a function of one number is above 0 where the number is, and nowhere else."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type in ("Relu", "Tanh", "Identity"):
        return True
    if node.op_type == "LeakyRelu":
        return node.attributes.get_float("alpha", 0.01) >= 0
    if node.op_type == "PRelu":
        slope = node.inputs[1]
        array = constants.array(slope) if slope is not None and is_constant(slope) else None
        return array is not None and bool((array >= 0).all())
    if node.op_type != "Clip":
        return False
    limits = [node.attributes.get_float("min", -np.inf), node.attributes.get_float("max", np.inf)]
    for position, value in enumerate(node.inputs[1:3]):
        if value is not None:
            limit = _number(value, constants, 0)
            if limit is None:
                return False
            limits[position] = limit
    return limits[0] <= 0 < limits[1]


def _number(value: ir.Value | None, constants: Constants, rank: int | None) -> float | None:
    """Return the only number of a constant that adds no axes to something of a rank."""
    array = constants.array(value) if value is not None and is_constant(value) else None
    return None if array is None or array.size != 1 or array.ndim > (rank or 0) else float(array.reshape(()))
