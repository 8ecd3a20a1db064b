"""An exported model computed with integers alone, in numpy: what a machine without floating point would do.

Sums are int32. From one layer's sums to the next one's levels a number is multiplied by ``s_x s_w / s_y``, which is an
integer of 31 bits and a shift: ``(sum * M) / 2^n``, rounded to the nearest, halves to even, plus the zero point.
Floating point is used twice: to quantize the input of the model, and to scale the integers of its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.patches import Window, patches
from graphopt.errors import ModelError

BITS = 31
"""Digits of a multiplier: with sums of 32 bits the products have room in 64."""


@dataclass(frozen=True)
class Levels:
    """Quantized numbers ``s (q - o)``.

    Attributes:
        q: int32.
        scale: float32: a number, or ``[n]`` along ``axis``.
        zero: The zero point o, of the shape of the scale.
        axis: See there.
    """

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int = 1

    def shifted(self) -> np.ndarray:
        """Return ``q - o``, int32."""
        return self.q - _along(self.zero.astype(np.int32), self.axis, self.q.ndim)


@dataclass(frozen=True)
class Sums:
    """What is not yet brought to levels: the sum over some terms of an integer times a scale.

    Attributes:
        terms: int32 numbers ``[n, channels, ...]``, and their scales: float64, a number or ``[channels]``.
        low: What is below counts as this: 0 behind a ReLU.
        high: What is above counts as this: 6 behind a ReLU6.
    """

    terms: tuple[tuple[np.ndarray, np.ndarray], ...]
    low: float = -math.inf
    high: float = math.inf

    def levels(self, scale: np.ndarray, zero: np.ndarray, kind: np.dtype) -> np.ndarray:
        """Return ``clip(round(sum / scale) + zero)`` as int32, in the range of an integer type."""
        ratios = [np.asarray(own, np.float64) / float(scale) for _, own in self.terms]
        largest = max(float(one.max(initial=0.0)) for one in ratios)
        # Of several terms the products are added up: one digit less for each doubling of their number.
        digits = BITS - (len(self.terms) - 1).bit_length()
        shift = min(digits - math.frexp(largest)[1], 62) if largest else 1
        if shift < 1:
            raise ModelError(f"a scale of {float(scale)} is too small for what it is to hold")
        total = np.int64(0)
        for (numbers, _), ratio in zip(self.terms, ratios, strict=True):
            factors = np.rint(np.ldexp(ratio, shift)).astype(np.int64)
            total = total + numbers.astype(np.int64) * _along(factors, 1, numbers.ndim)
        limits = np.iinfo(kind)
        # Rounding keeps the order: what is cut off first and rounded then may be rounded first.
        low, high = (
            int(min(max(np.rint(end / float(scale)) + int(zero), limits.min), limits.max))
            for end in (self.low, self.high)
        )
        return np.clip(_shifted(np.asarray(total), shift) + int(zero), low, high).astype(np.int32)

    def numbers(self) -> np.ndarray:
        """Return the sums as float32."""
        found = sum(numbers * _along(scale, 1, numbers.ndim) for numbers, scale in self.terms)
        return np.clip(found, self.low, self.high).astype(np.float32)


Known = Levels | Sums | np.ndarray


def run(model: ir.Model, feeds: Mapping[str, np.ndarray], watch: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the outputs of a quantized model by name, and the integers of the values in ``watch``.

    Args:
        model: Made of convolutions, products, additions, pools and what copies numbers, all between Q and DQ, as
            ``export.py`` writes it.
        feeds: float32 inputs by name.
        watch: Names of outputs of QuantizeLinear or Clip.

    Raises:
        ModelError: An operator that is not among those, or one that would have to compute in floating point.
    """
    known: dict[ir.Value, Known] = {value: np.asarray(feeds[str(value.name)]) for value in model.graph.inputs}
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        known[value] = value.const_value.numpy()
    for node in model.graph:
        compute = _OPERATORS.get(node.op_type)
        if compute is None or node.domain not in ("", "ai.onnx"):
            raise ModelError(f"no integer form of {node.op_type}", str(node.name))
        try:
            known[node.outputs[0]] = compute(node, [None if one is None else known[one] for one in node.inputs])
        except _FloatError as error:
            raise ModelError(f"{node.op_type} would compute in floating point: {error}", str(node.name)) from error
    watched = {name: value for value in known if (name := str(value.name)) in watch}
    outputs = {str(value.name): _numbers(known[value]) for value in model.graph.outputs}
    return outputs | {name: np.asarray(known[value]) for name, value in watched.items()}


class _FloatError(Exception):
    """An operand that is not quantized."""


def _shifted(total: np.ndarray, shift: int) -> np.ndarray:
    """Return ``total / 2^shift``, rounded to the nearest integer, halves to even."""
    below = total >> shift
    rest, half = total - (below << shift), np.int64(1) << (shift - 1)
    return below + ((rest > half) | ((rest == half) & (below & 1 == 1)))


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    vector = np.asarray(vector)
    if not vector.ndim:
        return vector
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _numbers(value: Known) -> np.ndarray:
    if isinstance(value, Levels):
        return (value.shifted() * _along(value.scale, value.axis, value.q.ndim)).astype(np.float32)
    return value.numbers() if isinstance(value, Sums) else value


def _sums(value: Known | None) -> Sums:
    """Return an operand as sums: levels are their own first term."""
    if isinstance(value, Levels):
        return Sums(((value.shifted(), np.asarray(value.scale, np.float64)),))
    if isinstance(value, Sums):
        return value
    raise _FloatError("an operand is not quantized")


def _levels(value: Known | None) -> Levels:
    if isinstance(value, Levels):
        return value
    raise _FloatError("an operand is not on levels")


def _quantize(node: ir.Node, inputs: list[Known | None]) -> np.ndarray:
    value, scale, zero = inputs[0], np.asarray(inputs[1]), np.asarray(inputs[2])
    if isinstance(value, np.ndarray):
        steps = np.rint(value / scale).astype(np.int64) + int(zero)
        limits = np.iinfo(zero.dtype)
        return np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return _sums(value).levels(scale, zero, zero.dtype).astype(zero.dtype)


def _dequantize(node: ir.Node, inputs: list[Known | None]) -> Levels:
    q, scale, zero = (np.asarray(one) for one in inputs)
    return Levels(q.astype(np.int32), scale, zero, node.attributes.get_int("axis", 1))


def _clip(node: ir.Node, inputs: list[Known | None]) -> Known:
    low, high = (np.asarray(one) for one in inputs[1:])
    if isinstance(inputs[0], np.ndarray):
        return np.clip(inputs[0], low, high)
    value = _sums(inputs[0])
    return replace(value, low=max(value.low, float(low)), high=min(value.high, float(high)))


def _conv(node: ir.Node, inputs: list[Known | None]) -> Sums:
    x, weight = _levels(inputs[0]), _levels(inputs[1])
    w, rank = weight.shifted(), weight.q.ndim - 2
    ones, nothing = [1] * rank, [0] * 2 * rank
    ints = node.attributes.get_ints
    window = Window(
        tuple(w.shape[2:]),
        tuple(ints("strides", None) or ones),
        tuple(ints("dilations", None) or ones),
        tuple(ints("pads", None) or nothing),
        node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        node.attributes.get_int("group", 1),
    )
    numbers = x.shifted()
    spans = [(taps - 1) * by + 1 for taps, by in zip(window.kernel, window.dilations, strict=True)]
    padding = window.padding(numbers.shape[2:])
    places = [
        (size + sum(pad) - span) // stride + 1
        for size, pad, span, stride in zip(numbers.shape[2:], padding, spans, window.strides, strict=True)
    ]
    rows = w.reshape(window.groups, -1, w[0].size)
    parts = [part @ rows.transpose(0, 2, 1) for part in patches(numbers, window, positions=0)]  # [groups, n, filters]
    if not parts:
        return Sums(((np.zeros((len(numbers), len(w), *places), np.int32), np.asarray(weight.scale, np.float64)),))
    found = np.concatenate(parts, axis=1).transpose(1, 0, 2).reshape(len(numbers), math.prod(places), len(w))
    found = np.moveaxis(found, 2, 1).reshape(len(numbers), len(w), *places)
    return _product(found, x, weight, inputs)


def _gemm(node: ir.Node, inputs: list[Known | None]) -> Sums:
    x, weight = _levels(inputs[0]), _levels(inputs[1])
    turned = node.attributes.get_int("transB", 0)
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1:
        raise _FloatError("it scales or transposes what it reads")
    matrix = weight.shifted()
    return _product(x.shifted() @ (matrix.T if turned else matrix), x, weight, inputs)


def _product(found: np.ndarray, x: Levels, weight: Levels, inputs: list[Known | None]) -> Sums:
    """Return int32 sums with the bias added to them."""
    scale = np.asarray(x.scale, np.float32) * np.asarray(weight.scale, np.float32)
    if len(inputs) > 2 and inputs[2] is not None:
        bias = _levels(inputs[2])
        if not np.array_equal(np.broadcast_to(bias.scale, scale.shape), scale):
            raise _FloatError("its bias has another scale than its sums")
        found = found + _along(bias.q, 1, found.ndim)
    return Sums(((found.astype(np.int32), scale.astype(np.float64)),))


def _relu(node: ir.Node, inputs: list[Known | None]) -> Sums:
    value = _sums(inputs[0])
    return replace(value, low=max(value.low, 0.0))


def _add(node: ir.Node, inputs: list[Known | None]) -> Sums:
    values = [_sums(one) for one in inputs]
    if any(one.low > -math.inf or one.high < math.inf for one in values):
        raise _FloatError("it adds what was cut off and is not on levels")
    return Sums(tuple(term for one in values for term in one.terms))


def _average(node: ir.Node, inputs: list[Known | None]) -> Sums:
    value = _levels(inputs[0])
    axes = tuple(range(2, value.q.ndim))
    numbers = value.shifted().sum(axis=axes, keepdims=True, dtype=np.int32)
    return Sums(((numbers, np.asarray(value.scale, np.float64) / math.prod(value.q.shape[2:])),))


def _max_pool(node: ir.Node, inputs: list[Known | None]) -> Levels:
    value = _levels(inputs[0])
    ints, rank = node.attributes.get_ints, value.q.ndim - 2
    kernel, pads = tuple(ints("kernel_shape", None) or ()), tuple(ints("pads", None) or [0] * 2 * rank)
    if node.attributes.get_int("ceil_mode", 0) or any(by != 1 for by in ints("dilations", None) or ()):
        raise _FloatError("a pool that is rounded up or has gaps is not known here")
    strides = ints("strides", None) or [1] * rank
    padded = np.pad(
        value.q,
        [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))],
        constant_values=np.iinfo(np.int32).min,
    )
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=tuple(range(2, 2 + rank)))
    views = views[(slice(None), slice(None), *(slice(None, None, by) for by in strides))]
    return replace(value, q=views.max(axis=tuple(range(-rank, 0))))


def _moved(change: Callable[[ir.Node, np.ndarray, list[Known | None]], np.ndarray]) -> Callable[..., Known]:
    """Return an operator that only moves numbers, for levels and for sums with one scale for all."""

    def compute(node: ir.Node, inputs: list[Known | None]) -> Known:
        value = inputs[0]
        if isinstance(value, Levels) and not np.ndim(value.scale):
            return replace(value, q=change(node, value.q, inputs))
        if isinstance(value, Sums) and not any(np.ndim(scale) for _, scale in value.terms):
            terms = tuple((change(node, numbers, inputs), scale) for numbers, scale in value.terms)
            return replace(value, terms=terms)
        if isinstance(value, np.ndarray):
            return change(node, value, inputs)
        raise _FloatError("channels with scales of their own are moved")

    return compute


def _flattened(node: ir.Node, x: np.ndarray, inputs: list[Known | None]) -> np.ndarray:
    axis = node.attributes.get_int("axis", 1) % (x.ndim + 1)
    return x.reshape(math.prod(x.shape[:axis]), -1) if x.size else x.reshape(0, math.prod(x.shape[axis:]))


def _reshaped(node: ir.Node, x: np.ndarray, inputs: list[Known | None]) -> np.ndarray:
    sizes = [int(size) for size in np.asarray(inputs[1])]
    if not node.attributes.get_int("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _transposed(node: ir.Node, x: np.ndarray, inputs: list[Known | None]) -> np.ndarray:
    return x.transpose(node.attributes.get_ints("perm", None))


def _cut(node: ir.Node, x: np.ndarray, inputs: list[Known | None]) -> np.ndarray:
    starts, ends, axes, steps = ([int(one) for one in np.asarray(each)] for each in (*inputs[1:], None, None)[:4])
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _padded(node: ir.Node, inputs: list[Known | None]) -> np.ndarray:
    x, pads = inputs[0], np.asarray(inputs[1])
    if not isinstance(x, np.ndarray) or len(inputs) > 3:
        raise _FloatError("it pads what is not on levels, or some axes only")
    return np.pad(x, pads.reshape(2, -1).T, constant_values=np.asarray(inputs[2]))


def _shape(node: ir.Node, inputs: list[Known | None]) -> np.ndarray:
    value = inputs[0]
    shape = value.q.shape if isinstance(value, Levels) else _numbers(value).shape if value is not None else ()
    return np.array(shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)], np.int64)


def _sizes(change: Callable[[ir.Node, list[np.ndarray]], np.ndarray]) -> Callable[..., np.ndarray]:
    """Return an operator for what shapes are computed with."""

    def compute(node: ir.Node, inputs: list[Known | None]) -> np.ndarray:
        arrays = [one for one in inputs if isinstance(one, np.ndarray)]
        if len(arrays) != len(inputs) or arrays[0].dtype.kind != "i":
            raise _FloatError("an operand is not quantized")
        return change(node, arrays)

    return compute


_OPERATORS: dict[str, Callable[[ir.Node, list[Known | None]], Known]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Relu": _relu,
    "Add": _add,
    "GlobalAveragePool": _average,
    "MaxPool": _max_pool,
    "Flatten": _moved(_flattened),
    "Reshape": _moved(_reshaped),
    "Transpose": _moved(_transposed),
    "Slice": _moved(_cut),
    "Pad": _padded,
    "Shape": _shape,
    "Cast": _sizes(lambda node, x: x[0].astype(ir.DataType(node.attributes.get_int("to", 7)).numpy())),
    "Squeeze": _sizes(lambda node, x: x[0].reshape([] if len(x) < 2 else np.squeeze(x[0], tuple(x[1])).shape)),
    "Unsqueeze": _sizes(lambda node, x: np.expand_dims(x[0], tuple(x[1]))),
    "Gather": _sizes(lambda node, x: np.take(x[0], x[1], node.attributes.get_int("axis", 0))),
    "Concat": _sizes(lambda node, x: np.concatenate(x, node.attributes.get_int("axis", 0))),
}
