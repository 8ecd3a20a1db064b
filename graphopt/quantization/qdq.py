"""How: carries a placement out. Knows ONNX only; where and what were decided before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import Parameters
from graphopt.context import Context
from graphopt.quantization.placement import Activation, Bias, Placement, Weight
from graphopt.rewrite.edit import Cursor, Edit

Codes = Mapping[ir.Value, np.ndarray]
"""Integers of weights that were rounded otherwise than to nearest (AdaRound, GPTQ); int64, of the weight's shape."""


def insert(context: Context, placement: Placement, found: Mapping[ir.Value, Parameters], codes: Codes) -> None:
    """Put Q and DQ around the activations, and DQ behind the integer weights and biases of a placement.

    ``found`` has parameters for every activation and weight of the placement.
    """
    edit = Edit(context.bare(), "composed", cut_weights=True)
    for weight in placement.weights.values():
        _weight(edit, weight, found[weight.value], codes.get(weight.value))
    for bias in placement.biases:
        _bias(edit, bias, found[bias.activation], found[bias.weight], placement.weights[bias.weight])
    for activation in placement.activations.values():
        _activation(edit, activation, found[activation.value])
    context.record({"quantized tensors": len(placement.activations) + len(placement.weights)})


def _parameters(edit: Edit, value: ir.Value, grid: Grid, found: Parameters) -> list[ir.Value | None]:
    """Return the scale and zero point as initializers."""
    dtype = ir.DataType[grid.storage.upper()]
    like = ir.DataType.FLOAT if value.dtype is None else value.dtype
    scale = edit.constant(found.scale.astype(like.numpy()), f"{value.name}_scale", like)
    zero = edit.constant(found.zero_point.astype(dtype.numpy()), f"{value.name}_zero_point", dtype)
    return [scale, zero]


def _activation(edit: Edit, row: Activation, found: Parameters) -> None:
    value, grid = row.value, row.grid
    readers = [use for use in value.uses() if use.node.op_type != "QuantizeLinear"]
    outputs = [i for i, out in enumerate(edit.graph.outputs) if out is value]
    parameters = _parameters(edit, value, grid, found)
    dtype = ir.DataType[grid.storage.upper()]
    place = edit.behind(value)
    shape = dims.sizes(value)
    name = str(value.name)
    q = edit.node("QuantizeLinear", [value, *parameters], place, f"{name}_quantized", shape, value, dtype=dtype)
    if grid.clipped:
        ends = [edit.constant(np.array(end, dtype.numpy()), f"{name}_{which}", dtype)
                for which, end in (("low", grid.low), ("high", grid.high))]  # fmt: skip
        q = edit.node("Clip", [q, *ends], place, f"{name}_clipped", shape, value, dtype=dtype)
    back = edit.node("DequantizeLinear", [q, *parameters], place, f"{name}_dequantized", shape, value)
    for use in readers:
        use.node.replace_input_with(use.idx, back)
    if outputs and value.producer() is not None:
        value.name, back.name = edit.name(f"{name}_float"), name
        for position in outputs:
            edit.graph.outputs[position] = back


def _weight(edit: Edit, row: Weight, found: Parameters, codes: np.ndarray | None) -> None:
    array = edit.facts.constants.array(row.value)
    assert array is not None
    dtype = ir.DataType[row.grid.storage.upper()]
    scale, zero = _along(found.scale, row, array.ndim), _along(found.zero_point, row, array.ndim)
    if codes is None:
        steps = np.rint(array / scale) + zero
        codes = np.clip(steps, row.grid.low, row.grid.high)
    stored = edit.initializer(ir.Tensor(codes.astype(dtype.numpy()), dtype=dtype), f"{row.value.name}_quantized")
    attributes = [] if row.axis is None else [ir.AttrInt64("axis", row.axis)]
    place = Cursor.behind(stored, edit.graph)
    inputs = [stored, *_parameters(edit, row.value, row.grid, found)]
    back = edit.node(
        "DequantizeLinear", inputs, place, f"{row.value.name}_dequantized", array.shape, row.value, attributes
    )
    for node, position in row.readers:
        node.replace_input_with(position, back)


def _along(parameter: np.ndarray, row: Weight, rank: int) -> np.ndarray:
    if row.axis is None or not parameter.ndim:
        return parameter
    return parameter.reshape([-1 if axis == row.axis else 1 for axis in range(rank)])


def _bias(edit: Edit, row: Bias, activation: Parameters, weight: Parameters, of: Weight) -> None:
    array = edit.facts.constants.array(row.value)
    assert array is not None and row.value.dtype is not None
    scale = (activation.scale * weight.scale).astype(np.float32)
    codes = np.clip(np.rint(array.astype(np.float64) / scale), -(2.0**31), 2.0**31 - 1).astype(np.int32)
    stored = edit.constant(codes, f"{row.value.name}_quantized")
    zero = edit.constant(np.zeros(scale.shape, np.int32), f"{row.value.name}_zero_point")
    inputs: list[ir.Value | None] = [stored, edit.constant(scale, f"{row.value.name}_scale", row.value.dtype), zero]
    attributes = [ir.AttrInt64("axis", 0)] if scale.ndim else []
    place = Cursor(edit.graph, before=row.node)
    back = edit.node(
        "DequantizeLinear", inputs, place, f"{row.value.name}_dequantized", array.shape, row.value, attributes
    )
    row.node.replace_input_with(row.position, back)
