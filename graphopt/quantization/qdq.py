"""How: carries a placement out. Knows ONNX only; where and what were decided before.

An activation passes through ``QuantizeLinear``, a ``Clip`` where its type has fewer numbers than its storage, and
``DequantizeLinear``; the three are there once, whoever reads them. Weights and biases are stored as integers in front
of a ``DequantizeLinear``. The names of graph inputs and outputs stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import Parameters
from graphopt.context import Context
from graphopt.quantization.direct import copy_integers
from graphopt.quantization.guard import guard, guard_bodies
from graphopt.quantization.placement import Activation, Bias, Placement, Weight
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.weights import derived

Codes = Mapping[ir.Value, np.ndarray]
"""Integers of weights that were rounded otherwise than to nearest (AdaRound, GPTQ), of the weight's shape."""

_CHUNK = 1 << 18
"""Numbers of a weight that are turned into integers at a time."""

CLIPPED = frozenset({"int8", "uint8"})
"""Quantized types that onnxruntime's Clip takes; of others the float is clipped in front of the Q."""


def insert(context: Context, placement: Placement, found: Mapping[ir.Value, Parameters], codes: Codes) -> None:
    """Put Q and DQ around the activations, and DQ behind the integer weights and biases of a placement.

    ``found`` has parameters for every activation and weight of the placement.
    """
    for _ in context.graphs():  # new names must not hide those of bodies
        pass
    edit = Edit(context.bare(), "composed", cut_weights=True)
    for weight in placement.weights.values():
        _weight(edit, weight, found[weight.value], codes.get(weight.value))
    for bias in placement.biases:
        _bias(edit, bias, found[bias.activation], found[bias.weight])
    outputs: dict[ir.Value, list[int]] = {}
    for position, value in enumerate(edit.graph.outputs):
        outputs.setdefault(value, []).append(position)
    for activation in placement.activations.values():
        _activation(edit, activation, found[activation.value], outputs.get(activation.value, []))
    copy_integers(edit, placement)
    guard(edit, placement)
    guard_bodies(edit)
    context.record({"quantized tensors": len(placement.activations) + len(placement.weights)})


def _activation(edit: Edit, row: Activation, found: Parameters, outputs: list[int]) -> None:
    value, grid = row.value, row.grid
    readers = [(use.node, use.idx) for use in value.uses()] if row.readers is None else row.readers
    place, name, shape = edit.behind(value), str(value.name), dims.sizes(value)
    parameters = _parameters(edit, name, value, grid, found)
    dtype = _storage(grid)

    def clip(what: ir.Value, ends: np.ndarray, kind: ir.DataType | None) -> ir.Value:
        low, high = (
            edit.constant(end.reshape(()), f"{name}_{which}", kind)
            for which, end in zip(("low", "high"), ends, strict=True)
        )
        return edit.node("Clip", [what, low, high], place, f"{name}_clipped", shape, what)

    q = value
    if grid.clipped and grid.storage not in CLIPPED:
        q = clip(q, _ends(grid, found).astype(_like(value).numpy()), _like(value))
    q = edit.node("QuantizeLinear", [q, *parameters], place, f"{name}_quantized", shape, value, dtype=dtype)
    if grid.clipped and grid.storage in CLIPPED:
        q = clip(q, np.array([grid.low, grid.high], dtype.numpy()), dtype)
    back = edit.node("DequantizeLinear", [q, *parameters], place, f"{name}_dequantized", shape, value)
    for node, position in readers:
        node.replace_input_with(position, back)
    if row.readers is None and outputs and value.producer() is not None:
        value.name, back.name = edit.name(f"{name}_float"), name
        back.doc_string = value.doc_string
        back.metadata_props.update(value.metadata_props)
        for position in outputs:
            edit.graph.outputs[position] = back


def _weight(edit: Edit, row: Weight, found: Parameters, codes: np.ndarray | None) -> None:
    assert not row.block, "weights in blocks are written by graphopt.quantization.weight_only"
    source = edit.facts.constants.tensor(row.value)
    shape = tuple(source.shape.numpy())
    dtype, name = _storage(row.grid), str(row.value.name)
    if codes is None:
        scale, zero = _along(found.scale, row, len(shape)), _along(found.zero_point, row, len(shape))
        tensor = derived(source, lambda array: stored(array, scale, zero, row.grid), shape, dtype=dtype)
    else:
        tensor = ir.Tensor(_cast(codes, row.grid), dtype=dtype)
    integers = edit.initializer(tensor, f"{name}_quantized")
    attributes = [ir.AttrInt64("axis", row.axis)] if row.axis is not None and found.scale.ndim else []
    inputs = [integers, *_parameters(edit, name, row.value, row.grid, found)]
    first = row.readers[0][0] if row.readers else None
    alone = first is not None and len(row.readers) == 1 and first.graph is edit.graph
    place = Cursor(edit.graph, before=first) if alone else Cursor.behind(integers, edit.graph)
    back = edit.node("DequantizeLinear", inputs, place, f"{name}_dequantized", shape, row.value, attributes)
    for node, position in row.readers:
        node.replace_input_with(position, back)


def _bias(edit: Edit, row: Bias, activation: Parameters, weight: Parameters) -> None:
    """Store a bias with exactly the scale that integer kernels take it to have, whatever is written beside it.

    A float16 scale cannot say ``s_x s_w``: there the bias stays in float.
    """
    array = edit.facts.constants.array(row.value)
    assert array is not None
    if _like(row.value) != ir.DataType.FLOAT:
        return
    scale = np.asarray(activation.scale, np.float32) * np.asarray(weight.scale, np.float32)
    steps = np.rint(array.astype(np.float64) / scale.astype(np.float64))
    if not (np.abs(steps) < 2.0**31).all():
        return
    name = str(row.value.name)
    integers = edit.constant(steps.astype(np.int32), f"{name}_quantized")
    zero = edit.constant(np.zeros(scale.shape, np.int32), f"{name}_zero_point")
    inputs: list[ir.Value | None] = [integers, edit.constant(scale, f"{name}_scale"), zero]
    attributes = [ir.AttrInt64("axis", 0)] if scale.ndim else []
    place = Cursor(edit.graph, before=row.node)
    back = edit.node("DequantizeLinear", inputs, place, f"{name}_dequantized", array.shape, row.value, attributes)
    row.node.replace_input_with(row.position, back)


def stored(array: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the numbers of a grid nearest to ``array / scale + zero``, in the type that they are stored in."""
    found = np.empty(array.shape, _storage(grid).numpy())
    whole, into = np.atleast_1d(array), np.atleast_1d(found)
    each = max(1, _CHUNK * len(whole) // max(array.size, 1))
    for start in range(0, len(whole), each):  # float64 takes eight times the memory of the result
        part = slice(start, start + each)
        own, point = (p[part] if p.ndim and len(p) > 1 else p for p in (np.asarray(scale), np.asarray(zero)))
        steps = whole[part].astype(np.float64)
        steps /= own.astype(np.float64)
        into[part] = _cast(steps if grid.floating else np.rint(steps, out=steps) + point, grid)
    return found


def _cast(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Return numbers of a grid in the type that they are stored in; what lies outside goes to the nearer end."""
    kept = np.clip(codes, grid.low, grid.high)
    dtype = _storage(grid).numpy()
    # The small types of ml_dtypes are reached through types that numpy knows.
    return kept.astype(np.float32 if grid.floating else np.int32).astype(dtype)


def _parameters(edit: Edit, name: str, value: ir.Value, grid: Grid, found: Parameters) -> list[ir.Value | None]:
    """Return scale and zero point as initializers; the scale is of the type of the value."""
    like, dtype = _like(value), _storage(grid)
    scale = np.asarray(found.scale).astype(like.numpy())
    zero = np.zeros(scale.shape) if grid.floating else np.asarray(found.zero_point)
    return [
        edit.constant(scale, f"{name}_scale", like),
        edit.constant(_cast(zero, grid), f"{name}_zero_point", dtype),
    ]


def _ends(grid: Grid, found: Parameters) -> np.ndarray:
    """Return the smallest and the largest number that can be represented."""
    return (np.array([grid.low, grid.high]) - float(found.zero_point)) * float(found.scale)


def _along(parameter: np.ndarray, row: Weight, rank: int) -> np.ndarray:
    parameter = np.asarray(parameter)
    if row.axis is None or not parameter.ndim:
        return parameter
    return parameter.reshape([-1 if axis == row.axis % rank else 1 for axis in range(rank)])


def _storage(grid: Grid) -> ir.DataType:
    return ir.DataType[grid.storage.upper()]


def _like(value: ir.Value) -> ir.DataType:
    return ir.DataType.FLOAT if value.dtype is None else value.dtype


def in_type(found: Parameters, value: ir.Value, *, above: bool = True) -> Parameters:
    """Return parameters whose scale is a number of the value's own type (float16 has 11 digits and ends at 6e-5).

    ``above``: the scale may be rounded up; it may not where it must respect the end of a Clip.
    """
    like = _like(value)
    if like == ir.DataType.FLOAT:
        return found
    dtype = like.numpy()
    info = ml_dtypes.finfo(dtype)
    scale = np.clip(found.scale, float(info.smallest_normal), float(info.max)).astype(dtype)
    if not above:
        scale = np.where(scale.astype(np.float64) > found.scale, np.nextafter(scale, dtype.type(0)), scale)
    return replace(found, scale=np.maximum(scale, info.smallest_normal).astype(dtype))
