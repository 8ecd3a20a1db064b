"""Quantized weights as matrices, and the rows of their inputs that these are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.gptq import round_to
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.patches import Window, flat, patches
from graphopt.context import Context

_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass
class Reader:
    """A node that multiplies its input with a weight.

    Attributes:
        node: The node.
        x: Its input.
        window: The geometry of a convolution.
        turned: A Gemm that reads ``x`` transposed.
        grid: Type of x; None where it stays in float.
        scale: Of x.
        zero: Zero point of x.
    """

    node: ir.Node
    x: ir.Value
    window: Window | None = None
    turned: bool = False
    grid: Grid | None = None
    scale: float = 1.0
    zero: int = 0

    @property
    def largest(self) -> float | None:
        """The largest magnitude of what ``rows`` yields where these are integers."""
        if self.grid is None or self.grid.floating:
            return None
        return max(self.grid.high - self.zero, self.zero - self.grid.low)

    def rows(self, x: np.ndarray, positions: int) -> Iterator[np.ndarray]:
        """Yield ``[groups, n, K]`` rows of the input, in steps of its type: integers, whose products sum up exactly.

        Where x is quantized, the rows are ``q - O``, x divided by its scale; else x as it is.
        """
        if self.grid is not None and not self.grid.floating:
            codes = round_to(x, np.array(self.scale, x.dtype), np.array(self.zero), self.grid) - self.zero
            x = codes.astype(np.float32)
        if self.turned:
            x = np.swapaxes(x, -1, -2)
        return flat(x, positions=positions) if self.window is None else patches(x, self.window, positions=positions)


@dataclass
class Layer:
    """A weight with all who read it quantized.

    Attributes:
        value: The initializer.
        array: What it holds.
        shape: (groups, rows, K): a convolution in groups is several products.
        flipped: The weight is stored as ``[K, rows]``.
        readers: Who multiply with it.
    """

    value: ir.Value
    array: np.ndarray
    shape: tuple[int, int, int]
    flipped: bool
    readers: list[Reader] = field(default_factory=list)

    def matrix(self) -> np.ndarray:
        """Return the weight as ``[groups, rows, K]`` float64."""
        return (self.array.T if self.flipped else self.array).astype(np.float64).reshape(self.shape)

    def unmatrix(self, matrix: np.ndarray) -> np.ndarray:
        """Return ``[groups, rows, K]`` in the shape of the weight."""
        if self.flipped:
            return np.ascontiguousarray(matrix.reshape(self.shape[1:]).T)
        return matrix.reshape(self.array.shape)

    def by_row(self, parameter: np.ndarray) -> np.ndarray:
        """Return a scale or zero point, a number or ``[groups * rows]``, as ``[groups, rows]``."""
        return np.broadcast_to(np.asarray(parameter).reshape(-1), (self.shape[0] * self.shape[1],)).reshape(
            self.shape[:2]
        )


def layers(context: Context) -> tuple[list[Layer], list[str]]:
    """Return the weights of the placement that are matrices, in the order of the graph, and why others are not."""
    state = context.quantization
    assert state is not None
    order = {node: i for i, node in enumerate(context.model.graph)}
    found: list[tuple[int, Layer]] = []
    refused: list[str] = []
    for value, row in state.placement.weights.items():
        if not any(node.op_type in _OPERATORS and position == 1 for node, position in row.readers):
            continue
        array = context.constants.array(value)
        shapes = {_shape(node, position, array) for node, position in row.readers}
        shape = shapes.pop() if len(shapes) == 1 else None
        reason = None
        if array is None or shape is None:
            reason = "it is not read as a matrix"
        elif row.block:
            reason = "its scales belong to blocks"
        elif row.axis is not None and row.axis % array.ndim != shape[3]:
            reason = "its scales do not belong to rows"
        if reason is not None or array is None or shape is None:
            refused.append(f"weight {value.name!r} is rounded to nearest: {reason}")
            continue
        layer = Layer(value, array, shape[:3], shape[4])
        layer.readers = [_reader(context, node) for node, _ in row.readers]
        found.append((min(order.get(node, 0) for node, _ in row.readers), layer))
    return [layer for _, layer in sorted(found, key=lambda item: item[0])], refused


def _shape(node: ir.Node, position: int, array: np.ndarray | None) -> tuple[int, int, int, int, bool] | None:
    """Return (groups, rows, K, axis of the rows, whether the rows lie along the last axis)."""
    if array is None or node.domain or node.op_type not in _OPERATORS or position != 1 or not array.size:
        return None
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        return groups, len(array) // groups, math.prod(array.shape[1:]), 0, False
    if array.ndim != 2:
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
        return 1, array.shape[0], array.shape[1], 0, False
    return 1, array.shape[1], array.shape[0], 1, True


def _reader(context: Context, node: ir.Node) -> Reader:
    state, x = context.quantization, node.inputs[0]
    assert state is not None and x is not None
    reader = Reader(node, x)
    if node.op_type == "Conv":
        w = node.inputs[1]
        assert w is not None and w.shape is not None
        reader.window = _window(node, tuple(int(size) for size in w.shape[2:]))  # type: ignore[arg-type]
    elif node.op_type == "Gemm":
        reader.turned = bool(node.attributes.get_int("transA", 0))
    row = state.placement.activations.get(x)
    if row is not None and x in state.parameters and state.parameters[x].scale.ndim == 0:
        reader.grid = row.grid
        reader.scale, reader.zero = float(state.parameters[x].scale), int(state.parameters[x].zero_point)
    return reader


def _window(node: ir.Node, kernel: tuple[int, ...]) -> Window:
    rank = len(kernel)

    def ints(name: str, default: int, count: int = rank) -> tuple[int, ...]:
        return tuple(node.attributes.get_ints(name, ())) or (default,) * count

    return Window(
        kernel,
        ints("strides", 1),
        ints("dilations", 1),
        ints("pads", 0, 2 * rank),
        node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        node.attributes.get_int("group", 1),
    )
