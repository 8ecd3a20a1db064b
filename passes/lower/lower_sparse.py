"""Layers whose weights are mostly zeros are computed without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant
from graphopt.readers import only_reader
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused
from graphopt.runtime_ops.compact import compact

KINDS = {"Conv": "SparseConv", "Gemm": "SparseGemm", "MatMul": "SparseGemm"}


@dataclass(frozen=True)
class LowerSparse:
    """Call ``SparseConv`` and ``SparseGemm`` where a constant weight has enough zeros, wherever they are.

    1. A ``Conv`` with one or two spatial axes; a ``Gemm``, or ``MatMul`` with a matrix behind it. The weight is stored
       by its nonzeros, so that the model becomes smaller, too.
    2. A bias that is added behind a ``MatMul``, and a ``Relu`` that is the only reader, are computed with it.

    *Options*: ``zeros``, the share of zeros from which on in a convolution, and ``products``, in a product, of which
    one row may be all there is (``tests/bench/ops/sparse.py`` measures both); ``least``, the fewest numbers of a
    weight that are worth a look.

    *Never* unless runtime operators were asked for, and for another target than ``cpu``; where values may be infinite
    (``0 * inf`` is left out); for a filter that reads one channel, which onnxruntime computes otherwise; for types
    other than float32.

    *Needs* masks folded into the weights, and whole dead positions cut out, which saves more.

    ``Relu(Conv(x, W, b))`` -> ``SparseConv(x, values, gaps, b)``
    """

    name: ClassVar[str] = "lower-sparse"
    stage: ClassVar[str] = "lower"

    zeros: float = 0.8
    products: float = 0.85
    least: int = 4096

    def __post_init__(self) -> None:
        for name, share in (("zeros", self.zeros), ("products", self.products)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, not {share}")

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if context.target != "cpu" or not context.assume_finite or not context.runtime_operators:
            return False
        layers = [layer for node in context.graph if (layer := self._layer(node, context.constants)) is not None]
        if not layers or not all(ready(context, name) for name in {KINDS[layer.node.op_type] for layer in layers}):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for layer in layers:
            _lower(layer, edit, context)
        remove_unused(context.graph)
        return context.record({"sparse": len(layers)})

    def _layer(self, node: ir.Node, constants: Constants) -> _Layer | None:
        """Return what is known of a layer that shall be lowered."""
        if node.op_type not in KINDS or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
            return None
        x, weight = node.inputs[:2]
        if x is None or weight is None or not is_constant(weight) or weight.dtype != ir.DataType.FLOAT:
            return None
        sizes = dims.static(weight)
        if sizes is None or math.prod(size or 0 for size in sizes) < self.least or not _fits(node, sizes):
            return None
        array = constants.array(weight)
        share = self.zeros if node.op_type == "Conv" else self.products
        sparse = array is not None and array.size - np.count_nonzero(array) >= share * array.size
        if array is None or not sparse or not np.isfinite(array).all():
            return None
        outputs = array.shape[0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) else 1]
        last, bias = node, _bias(node, constants, outputs)
        if bias is None:
            return None
        if node.op_type == "MatMul" and (added := _added(node, constants, outputs)) is not None:
            last, bias = added
        reader = only_reader(last.outputs[0])
        relu = reader is not None and reader.op_type == "Relu" and reader.domain in ("", "ai.onnx")
        return _Layer(node, reader if relu and reader is not None else last, bias, relu)


@dataclass(frozen=True)
class _Layer:
    """A layer that is lowered: its product, the node whose output it becomes, its bias, and whether Relu is in it."""

    node: ir.Node
    last: ir.Node
    bias: np.ndarray | ir.Value
    relu: bool


def _fits(node: ir.Node, sizes: Sequence[int | None]) -> bool:
    """Tell whether attributes and ranks are those that the operator can say."""
    rank = len(sizes)
    if node.op_type == "Conv":
        said = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return said and rank in (3, 4) and sizes[1] != 1 and min(node.attributes.get_ints("pads", [0])) >= 0
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1 and not node.attributes.get_int("transA", 0)
        return plain and rank == 2
    return rank == 2 and (dims.rank(node.inputs[0]) or 0) >= 2


def _bias(node: ir.Node, constants: Constants, outputs: int) -> np.ndarray | ir.Value | None:
    """Return the bias of a layer; None where it is another one than a number an output."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(outputs, np.float32)
    if node.op_type == "Conv":
        return value
    array = constants.array(value) if is_constant(value) else None
    if array is None or array.dtype != np.float32 or node.attributes.get_float("beta", 1.0) != 1:
        return None
    return _row(array, outputs, 2)


def _row(array: np.ndarray, outputs: int, rank: int) -> np.ndarray | None:
    """Return numbers that are added to every row as a vector; None if they are not that."""
    whole = (
        array.ndim <= rank and array.size in (1, outputs) and array.size == array.shape[-1:][0] if array.ndim else True
    )
    return np.broadcast_to(array.reshape(-1), (outputs,)).copy() if whole else None


def _added(node: ir.Node, constants: Constants, outputs: int) -> tuple[ir.Node, np.ndarray] | None:
    """Return the Add behind a product that adds a bias, and the bias."""
    reader = only_reader(node.outputs[0])
    if reader is None or reader.op_type != "Add" or reader.domain not in ("", "ai.onnx"):
        return None
    other = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
    array = constants.array(other) if other is not None and is_constant(other) else None
    row = None if array is None else _row(array, outputs, dims.rank(node.inputs[0]) or 0)
    return None if row is None else (reader, row)


def _lower(layer: _Layer, edit: Edit, context: Context) -> None:
    node, result = layer.node, layer.last.outputs[0]
    x, weight = node.inputs[:2]
    assert weight is not None
    array = context.constants.array(weight)
    assert array is not None
    if node.attributes.get_int("transB", 0):
        array = array.T
    values, gaps = compact(array)
    context.constants.release(weight)
    bias = layer.bias if isinstance(layer.bias, ir.Value) else edit.constant(layer.bias, f"{weight.name}_bias")
    attributes: dict[str, object] = {"shape": list(array.shape), "relu": int(layer.relu)}
    if node.op_type == "Conv":
        axes = array.ndim - 2
        attributes["group"] = node.attributes.get_int("group", 1)
        attributes["strides"] = list(node.attributes.get_ints("strides", [1] * axes))
        attributes["dilations"] = list(node.attributes.get_ints("dilations", [1] * axes))
        valid = node.attributes.get_string("auto_pad", "NOTSET") == "VALID"
        attributes["pads"] = [0] * 2 * axes if valid else list(node.attributes.get_ints("pads", [0] * 2 * axes))
    new = call(
        context,
        edit,
        KINDS[node.op_type],
        [x, edit.constant(values, f"{weight.name}_values"), edit.constant(gaps, f"{weight.name}_gaps"), bias],
        edit.before(layer.last),
        result.name or "sparse",
        dims.sizes(result),
        result,
        attributes,
    )
    edit.stand_in(result, new, list(result.uses()))
