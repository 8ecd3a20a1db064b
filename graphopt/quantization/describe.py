"""What a quantization decided, in rows for the report and in histograms to look at.

To be called while the model is still in float: after the scales are final and before ``qdq.insert`` renames anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.solve import Parameters
from graphopt.context import Context
from graphopt.model_check import source_line
from graphopt.quantization.placement import Activation, Placement, Weight
from graphopt.quantization.state import State
from graphopt.report.culprits import called
from graphopt.report.quantized import Drawing, NodeRow, QuantizeReport, TensorKind, TensorRow, worst

BARS = 96
"""Bars of a histogram that is drawn."""

MOST_SCALES = 65_536
"""More scales of one tensor than this (blocks of a large weight) are not listed."""


def described(context: Context) -> QuantizeReport:
    """Return the report of a quantization: tensors, operators, and the worst tensors with their histograms."""
    state = _state(context)
    report = QuantizeReport(tensors=tensor_rows(context), nodes=node_rows(state.placement), method=state.request.method)
    report.batches = state.calibrated
    report.weights = _types(row.dtype for row in report.tensors if row.kind == "weight")
    report.activations = _types(row.dtype for row in report.tensors if row.kind == "activation")
    report.integer_nodes, report.float_nodes = len(state.placement.nodes), len(state.placement.kept)
    chosen = worst(report.tensors)
    drawn = {one.name: one for one in drawings(context, {row.name for row in chosen})}
    report.worst = [drawn[row.name] for row in chosen if row.name in drawn]
    return report


def node_rows(placement: Placement) -> list[NodeRow]:
    """Return one row for each operator that was considered: those on integers first, then those that stay in float."""
    quantized = [
        NodeRow(_name(node), node.op_type, kernel, _traffic(node, placement), "", source_line(node))
        for node, kernel in placement.nodes.items()
    ]
    return quantized + [
        NodeRow(_name(one.node), one.node.op_type, None, "", one.reason, source_line(one.node))
        for one in placement.kept
    ]


def _name(node: ir.Node) -> str:
    return node.name or called(node)


def tensor_rows(context: Context) -> list[TensorRow]:
    """Return one row for each quantized tensor: activations in the order of the graph, then weights."""
    state = _state(context)
    rows = []
    for row in state.placement.activations.values():
        found = state.parameters.get(row.value)
        if found is not None:
            seen = state.histograms.get(str(row.value.name), Histogram())
            producer = row.value.producer()
            node = "graph input" if producer is None else called(producer)
            rows.append(_row(row, "activation", node, found, (seen.minimum, seen.maximum)))
    for row in state.placement.weights.values():
        found = state.parameters.get(row.value)
        if found is not None:
            readers = ", ".join(dict.fromkeys(called(node) for node, _ in row.readers))
            rows.append(_row(row, "weight", readers, found, _ends(context, row)))
    return rows


def drawings(context: Context, only: Collection[str] | None = None) -> Iterator[Drawing]:
    """Yield the histogram of each quantized tensor (of those named in ``only``) with the range of its scale."""
    state = _state(context)
    for row in state.placement.activations.values():
        name = str(row.value.name)
        found = state.parameters.get(row.value)
        if found is not None and (only is None or name in only) and name in state.histograms:
            seen = state.histograms[name]
            ends = _range(row.grid, found, (seen.minimum, seen.maximum))
            low, high, counts = _bars(seen.centres(), seen.counts, seen.minimum, seen.maximum)
            yield Drawing(name, "activation", row.grid.name, _decibels(found), low, high, counts, *ends)
    for row in state.placement.weights.values():
        name = str(row.value.name)
        found = state.parameters.get(row.value)
        if found is not None and (only is None or name in only):
            array = context.constants.array(row.value)
            if array is not None and array.size:
                yield _weight(name, row, found, array)
                context.constants.release(row.value)


def _weight(name: str, row: Weight, found: Parameters, array: np.ndarray) -> Drawing:
    scale, zero = _spread(found.scale, row, array.shape), _spread(found.zero_point, row, array.shape)
    one = found.scale.size == 1
    # One range holds for all channels where it is the integers, shifted so that zero is zero.
    steps = array if one else array / np.where(scale == 0, 1, scale)
    ends = _range(row.grid, found, (float(array.min()), float(array.max())))
    if not one:
        ends = row.grid.low - float(np.max(zero)), row.grid.high - float(np.min(zero))
    low, high, counts = _bars(steps.reshape(-1), None, float(steps.min()), float(steps.max()))
    unit = "value" if one else "steps"
    return Drawing(name, "weight", row.grid.name, _decibels(found), low, high, counts, *ends, unit)


def _bars(
    values: np.ndarray, counts: np.ndarray | None, low: float, high: float
) -> tuple[float, float, list[int]]:  # fmt: skip
    """Return both ends and the counts of ``BARS`` equally wide bins."""
    if not math.isfinite(low) or not math.isfinite(high):
        return 0.0, 0.0, []
    if low == high:  # everything is one number: a bar around it
        low, high = low - 0.5, high + 0.5
    inside = np.clip(values.astype(np.float64), low, high)
    found, _ = np.histogram(inside, BARS, (low, high), weights=counts)
    return low, high, [int(count) for count in found]


def _spread(parameter: np.ndarray, row: Weight, shape: tuple[int, ...]) -> np.ndarray:
    """Return scales (or zero points) so that they broadcast against the weight."""
    if parameter.ndim == 0 or parameter.size == 1:
        return parameter.reshape(())
    if row.axis is None:
        return parameter
    if row.block:  # [rows, blocks], the rows being all other axes in order
        rest = [size for axis, size in enumerate(shape) if axis != row.axis]
        wide = np.repeat(parameter, row.block, axis=-1)[..., : shape[row.axis]]
        return np.moveaxis(wide.reshape([*rest, shape[row.axis]]), -1, row.axis)
    return parameter.reshape([-1 if axis == row.axis else 1 for axis in range(len(shape))])


def _row(
    row: Activation | Weight, kind: TensorKind, node: str, found: Parameters, seen: tuple[float, float]
) -> TensorRow:
    listed = found.scale.size <= MOST_SCALES
    low, high = _range(row.grid, found, seen)
    return TensorRow(
        name=str(row.value.name),
        dtype=row.grid.name,
        scale=np.asarray(found.scale, np.float64).tolist() if listed else None,
        zero_point=np.asarray(found.zero_point).tolist() if listed else None,
        mse=float(np.mean(found.mse)) if found.mse.size else 0.0,
        sqnr_db=_decibels(found),
        method=found.method,
        kind=kind,
        node=node,
        axis=row.axis if isinstance(row, Weight) else None,
        block=row.block if isinstance(row, Weight) else 0,
        low=low,
        high=high,
        minimum=seen[0],
        maximum=seen[1],
    )


def _range(grid: Grid, found: Parameters, seen: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest and the largest number that can be represented, in any channel; scales may be negative.

    The scale of a channel or block of zeros says nothing: it has no power, or its step is larger than all there is.
    """
    if not found.scale.size:
        return 0.0, 0.0
    alive = np.asarray(found.power) > 0
    if alive.shape != found.scale.shape:
        alive = np.abs(found.scale) <= 2 * max(abs(end) for end in seen)
    which = alive if alive.any() else np.full(found.scale.shape, True)
    scale, zero = np.asarray(found.scale, np.float64)[which], np.asarray(found.zero_point)[which]
    ends = [scale * (end - zero) for end in (grid.low, grid.high)]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))


def _ends(context: Context, row: Weight) -> tuple[float, float]:
    array = context.constants.array(row.value)
    if array is None or not array.size:
        return math.inf, -math.inf
    ends = float(array.min()), float(array.max())
    context.constants.release(row.value)
    return ends


def _decibels(found: Parameters) -> float | None:
    """Return the SQNR; None where nothing is lost."""
    if not found.mse.size:
        return None
    decibels = found.sqnr_db
    return decibels if math.isfinite(decibels) else None


def _traffic(node: ir.Node, placement: Placement) -> str:
    """Say what goes in and out of an operator: ``uint8 x int8 -> uint8``."""

    def kind(value: ir.Value | None) -> str | None:
        row = None if value is None else placement.activations.get(value) or placement.weights.get(value)
        return None if row is None else row.grid.name

    inputs = [name for value in node.inputs if (name := kind(value))]
    outputs = {name for value in node.outputs if (name := kind(value) or kind(_behind(value)))}
    return f"{' x '.join(inputs)} -> {', '.join(sorted(outputs)) or 'float'}"


def _behind(value: ir.Value) -> ir.Value | None:
    """Return what the only reader of a value makes of it: a Relu or Clip that the quantized operator takes over."""
    uses = list(value.uses())
    return uses[0].node.outputs[0] if len(uses) == 1 and uses[0].node.op_type in ("Relu", "Clip") else None


def _types(names: Collection[str] | Iterator[str]) -> str | None:
    return ", ".join(dict.fromkeys(names)) or None


def _state(context: Context) -> State:
    assert context.quantization is not None, "only a model that is being quantized has rows to show"
    return context.quantization
