"""Layers that multiply signs by signs are computed on single bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    4. A max pool, or a max pool and a batch-norm, between a convolution and that ``Where`` become a max pool of int8:
       a maximum is above a threshold where one of its numbers is. A negative factor of the norm turns the comparison
       round and flips the channel's bits in the layers that read it.

    *Options*: ``least``, the fewest numbers side by side (input channels of a group, or rows of a matrix) that are
    worth it: from 4 on, a layer is faster than the float one on the CPU; ``sign``, whether ``Sign`` counts as -1 or +1,
    although it is 0 at 0, where the layer then takes -1.

    *Never* unless runtime operators were asked for; for other types than float32, other convolutions than over images,
    or weights that hold a 0.

    *Needs* batch-norms folded into the weights.

    ``Conv(Where(x > 0, 1, -1), W, b)`` -> ``BinaryConv(x, bits of W, s, b)``
    """

    name: ClassVar[str] = "lower-binary"
    stage: ClassVar[str] = "lower"

    least: int = 4
    sign: bool = False

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if context.target not in ("cpu", "cuda") or not context.runtime_operators:
            return False
        through = context.assume_finite  # what a clip makes of NaN depends on who clips
        found = (self._layer(node, context.constants, through) for node in context.graph)
        layers = {layer.node: layer for layer in found if layer is not None}
        names = {KINDS[node.op_type] for node in layers}
        if not layers or not all(ready(context, name) and ready(context, name + "Sign") for name in names):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        compared = 0
        for node in list(layers):
            compared += self._lower(layers[node], layers, edit, context)
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
        if array.shape[1] < self.least or not scale.any():
            return None
        if not (np.isfinite(scale) & (scale == scale[:, :1])).all():  # a filter of zeros has the scale 0
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
        if node.op_type == "MaxPool" and value.dtype == ir.DataType.INT8 and node.inputs[0] is not None:
            node = node.inputs[0].producer() or node
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
        return _behind(above, constants) if through else above

    def _lower(self, layer: _Layer, layers: dict[ir.Node, _Layer], edit: Edit, context: Context) -> bool:
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
        signs, result, array = self._signs(layer, layers, context), node.outputs[0], layer.weight
        if signs is not None:
            limits, flipped = signs.thresholds(layer)
            name, operands = name + "Sign", [edit.constant(limits, f"{base}_threshold")]
            for reader in {use.node for use in signs.result.uses()}:
                layers[reader] = layers[reader].flipped(flipped)
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
        if signs is not None:
            result = signs.result
            if signs.pool is not None:
                place, like = edit.before(signs.pool), signs.pool.outputs[0]
                options = list(signs.pool.attributes.values())
                sizes = dims.sizes(like)
                shape = None if sizes is None else list(sizes)
                new = edit.node("MaxPool", [new], place, f"{like.name}_signs", shape, like, options, ir.DataType.INT8)
        edit.stand_in(result, new, list(result.uses()))
        return signs is not None

    def _signs(self, layer: _Layer, layers: dict[ir.Node, _Layer], context: Context) -> _Signs | None:
        """Return what takes the signs of a layer's result, for layers that will be lowered alone."""
        if not isinstance(layer.bias, np.ndarray):
            return None
        constants, through = context.constants, context.assume_finite
        value = root = layer.node.outputs[0]
        pool: ir.Node | None = None
        norm: tuple[np.ndarray, np.ndarray] | None = None
        for _ in range(10):  # functions that keep signs, pool, norm; a comparison; a Where, or a Cast and two steps
            uses = list(value.uses())
            if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not layer.node.graph:
                return None
            node = uses[0].node
            if pool is None and _pools(node, context) and (value if not through else _behind(value, constants)) is root:
                pool, root = node, node.outputs[0]
            elif pool is not None and norm is None and value is root and pool.inputs[0] is layer.node.outputs[0]:
                norm = _norm(node, constants)  # of the sums themselves: where they were clipped, only signs are known
                root = root if norm is None else node.outputs[0]
            value = node.outputs[0]
            if self._source(value, constants, through) is root:
                break
        else:
            return None
        readers = [use for use in value.uses() if use.idx != 0 or use.node not in layers]
        kinds = {use.node.op_type for use in value.uses()}
        if readers or value.is_graph_output() or (pool is not None and kinds != {"Conv"}):
            return None
        return _Signs(value, pool, norm)


@dataclass(frozen=True)
class _Layer:
    """A layer that is lowered: weights with the output channels first, what scales each, and the bias."""

    node: ir.Node
    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | ir.Value

    def flipped(self, channels: np.ndarray) -> _Layer:
        """Return the layer for an input of which some channels (bool) have changed their sign."""
        if not channels.any():
            return self
        groups = self.node.attributes.get_int("group", 1)
        factor = np.where(channels, -1, 1).astype(self.weight.dtype).reshape(groups, 1, -1, 1, 1)
        grouped = self.weight.reshape(groups, -1, *self.weight.shape[1:])
        return replace(self, weight=(grouped * factor).reshape(self.weight.shape))


@dataclass(frozen=True)
class _Signs:
    """What stands between a layer and those that read its signs."""

    result: ir.Value
    """The signs."""
    pool: ir.Node | None
    norm: tuple[np.ndarray, np.ndarray] | None
    """Factor and offset of a batch-norm behind the pool."""

    def thresholds(self, layer: _Layer) -> tuple[np.ndarray, np.ndarray]:
        """Return thresholds for the sums of a layer, and for which channels the signs are the other way round."""
        assert isinstance(layer.bias, np.ndarray)
        gain, offset = layer.scale.astype(np.float64), layer.bias.astype(np.float64)
        if self.norm is not None:
            factor, shift = self.norm
            gain, offset = factor * gain, factor * offset + shift
        flipped = gain < 0
        # -(S > t) for S a maximum: it is not above t where no sum is, and -sum > -t is what a threshold can say.
        limits, turned = bits.thresholds(np.where(flipped, -gain, gain), np.where(flipped, -offset, offset))
        assert not turned.any()
        if flipped.any():  # of what was turned round, 0 itself belongs to the other side: sums of t, too
            with np.errstate(divide="ignore", invalid="ignore"):
                exact = offset / -gain
            limits = np.where(flipped, np.ceil(exact) - 0.5, limits).astype(np.float32)
        return limits, flipped


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


def _behind(value: ir.Value | None, constants: Constants) -> ir.Value | None:
    """Return what functions that keep signs were computed from."""
    while value is not None and (node := value.producer()) is not None and _keeps(node, constants):
        value = node.inputs[0]
    return value


def _pools(node: ir.Node, context: Context) -> bool:
    """Tell whether a node is a max pool that onnxruntime has for int8, too."""
    known = node.op_type == "MaxPool" and node.domain in ("", "ai.onnx") and context.opset >= 12
    return known and context.target == "cpu" and len([out for out in node.outputs if out.uses()]) == 1


def _norm(node: ir.Node, constants: Constants) -> tuple[np.ndarray, np.ndarray] | None:
    """Return factor and offset of a batch-norm in evaluation mode, float64; None of anything else."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return None
    if node.attributes.get_int("training_mode", 0) or any(out.uses() for out in node.outputs[1:]):
        return None
    arrays = [constants.array(v) if v is not None and is_constant(v) else None for v in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return None
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        offset = shift - mean * factor
    return (factor, offset) if np.isfinite(factor).all() and np.isfinite(offset).all() else None


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
