"""Products with weights of a few levels become an operator that reads two or four bits of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant, stored
from graphopt.readers import only_reader
from graphopt.rewrite.dequantized import Dequantized, dequantized
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, ready
from graphopt.rewrite.unused import remove_unused
from graphopt.runtime_ops.ternary_gemm.reference import pack

BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True)
class LowerLowBits:
    """Write a product of quantized activations and weights of at most 16 levels as ``TernaryGemm``.

    1. ``DQ(x), DQ(w) -> MatMul`` or Gemm, where the constant integers ``w`` less their zero points have at most 4
       levels (ternary ones have 3), reads two bits a weight; with at most 16 levels four bits.
    2. A constant that is added to each row goes into it.

    *Options* ``least``: weights that a layer has at least; ``levels``: levels that it has at most.

    *Never* where something else reads what lies between, for activations with several scales, or for weights with
    scales along the axis that is summed over.

    *Needs* runtime operators (``--operators``).

    ``DQ, DQ -> MatMul -> Add`` -> ``TernaryGemm``
    """

    least: int = 1 << 16
    levels: int = 16

    name: ClassVar[str] = "lower-low-bits"
    stage: ClassVar[str] = "lower"

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ValueError(f"least is a number of weights from 1 on, not {self.least}")
        if not 1 <= self.levels <= 16:
            raise ValueError(f"levels is from 1 to 16, not {self.levels}")

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not context.runtime_operators:
            return False
        layers = [layer for node in context.graph if (layer := self._layer(node, context)) is not None]
        if not layers or not ready(context, "TernaryGemm"):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for layer in layers:
            _write(layer, context, edit)
        remove_unused(context.graph)
        return context.record({"low-bits": len(layers)})

    def _layer(self, node: ir.Node, context: Context) -> _Layer | None:
        """Return what ends in a product; None where TernaryGemm would not compute the same, or need not."""
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
            return None
        turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        plain = node.attributes.get_float("alpha", 1.0) == 1 and not node.attributes.get_int("transA", 0)
        x, w = (dequantized(value, BYTES, context) for value in node.inputs[:2])
        if x is None or w is None or not plain or x.scale.size != 1 or (dims.rank(x.integers) or 0) < 2:
            return None
        sizes = dims.static(w.integers)
        if sizes is None or len(sizes) != 2 or not is_constant(w.integers) or None in sizes:
            return None
        if (sizes[0] or 0) * (sizes[1] or 0) < self.least or (w.scale.size > 1 and w.axis != int(not turned)):
            return None
        integers = context.constants.array(w.integers)
        if integers is None:
            return None
        along = (-1, 1) if turned else (1, -1)
        whole = integers.astype(np.int16) - (
            w.zero.astype(np.int16).reshape(along) if w.zero.size > 1 else int(w.zero[0])
        )
        levels = np.unique(whole)
        if levels.size > self.levels or levels[0] < -128 or levels[-1] > 127:
            return None
        whole = whole if turned else whole.T
        last, bias = _bias(node, whole.shape[0], context)
        if bias is None:
            return None
        return _Layer(last, x, np.searchsorted(levels, whole), levels.astype(np.int8), w.scale, bias)


@dataclass
class _Layer:
    """A product, and the node whose output it becomes."""

    last: ir.Node
    x: Dequantized
    codes: np.ndarray
    """``[N, K]``"""
    levels: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def _bias(node: ir.Node, outputs: int, context: Context) -> tuple[ir.Node, np.ndarray | None]:
    """Return the last node of a layer and its bias; None where it is no constant row."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is not None:
        if node.attributes.get_float("beta", 1.0) != 1:
            return node, None
        behind = stored(given)
        if behind is None:
            return node, _row(given, outputs, context)
        integers = None if behind.inputs[0] is None else context.constants.array(behind.inputs[0])
        numbers = [None if value is None else context.constants.array(value) for value in behind.inputs[1:]]
        if integers is None or not numbers or any(array is None or array.size not in (1, outputs) for array in numbers):
            return node, None
        scale, zero = numbers[0], numbers[1] if len(numbers) > 1 else None
        if scale is None or integers.size not in (1, outputs) or (zero is not None and zero.any()):
            return node, None
        row = integers.reshape(-1).astype(np.float32) * scale.reshape(-1)
        return node, row.astype(np.float32)
    out = node.outputs[0]
    reader = only_reader(out)
    if _is_sum(reader):
        other = reader.inputs[1] if reader.inputs[0] is out else reader.inputs[0]
        row = None if other is None else _row(other, outputs, context)
        if row is not None:
            return reader, row
    return node, np.zeros(1, np.float32)


def _is_sum(node: ir.Node | None) -> TypeGuard[ir.Node]:
    return node is not None and node.op_type == "Add" and node.domain in ("", "ai.onnx")


def _row(value: ir.Value, outputs: int, context: Context) -> np.ndarray | None:
    """Return a constant that is added to every row."""
    array = context.constants.array(value) if is_constant(value) else None
    if array is None or array.dtype != np.float32 or array.ndim > 2 or array.size not in (1, outputs):
        return None
    return array.reshape(-1) if array.size == 1 or array.shape[-1] == outputs else None


def _write(layer: _Layer, context: Context, edit: Edit) -> None:
    old, x = layer.last.outputs[0], layer.x
    name = old.name or "product"
    bits = 2 if layer.levels.size <= 4 else 4
    levels = np.zeros(1 << bits, np.int8)
    levels[: layer.levels.size] = layer.levels
    inputs = [
        edit.current(x.integers),
        edit.constant(pack(layer.codes, bits), f"{name}_codes"),
        edit.constant(levels, f"{name}_levels"),
        edit.constant(layer.scale, f"{name}_scale"),
        edit.constant(layer.bias, f"{name}_bias"),
        edit.constant(x.scale.reshape(()), f"{name}_step"),
        edit.constant(x.zero.reshape(()), f"{name}_zero"),
    ]
    users = list(old.uses())
    new = call(
        context, edit, "TernaryGemm", inputs, edit.before(layer.last), name, dims.sizes(old), old,
        {"bits": bits, "stored": 1}, ir.DataType.FLOAT,
    )  # fmt: skip
    edit.stand_in(old, new, users)
