"""Elementwise operators: one position in, the same position out; a fill becomes ``g(fill)``.

Broadcasting aligns axes at the right. An axis of size one is the same constant at every position of the output's axis
only where it is one constant as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.rules import Rule, register, rule, through_links
from graphopt.facts.signs import is_positive
from graphopt.facts.store import Facts, Link, Partial, Spec

Function = Callable[..., np.ndarray]


class Elementwise(Rule):
    """``out = g(a, b, …)`` with broadcasting.

    ``function(node)`` gives g on arrays of fills. ``absorbing(values) -> mask`` tells where one operand's constant
    decides the output alone (``0 * anything = 0``); ``bounded``: finite inputs give finite outputs.
    """

    def __init__(
        self,
        function: Callable[[ir.Node], Function],
        *,
        absorbing: Callable[[np.ndarray], np.ndarray] | None = None,
        absorbed: Callable[[np.ndarray], np.ndarray] | None = None,
        bounded: bool = False,
        operands: int | None = None,
        only_first: bool = False,
    ) -> None:
        self.function = function
        self.absorbing = absorbing
        self.absorbed = absorbed
        self.bounded = bounded
        self.operands = operands
        self.only_first = only_first
        """Only the first operand absorbs (``0 / anything``)."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        if len(node.outputs) > 1 and any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
            return None
        if "broadcast" in node.attributes or "axis" in node.attributes:  # opset < 7: another kind of broadcasting
            return None
        return aligned_spec(node, None if self.operands is None else range(self.operands))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        inputs = self._read(node)
        axes = candidate_axes(node, inputs, facts, self.absorbing)
        if not axes:
            return
        out = node.outputs[0]
        known = dims.static(out)
        if known is None or out.dtype == ir.DataType.STRING:
            return
        function = None
        for axis in axes:
            size = known[axis]
            if size is None:
                continue
            along = [None if v is None else facts.along(v, own_axis(v, axis, len(known)), size) for v in inputs]
            if all(v is None or found is not None for v, found in zip(inputs, along, strict=True)):
                mask = np.logical_and.reduce([found[0] for found in along if found is not None])
                function = function or self.function(node)
                with np.errstate(all="ignore"):
                    fill = np.asarray(function(*[None if found is None else found[1] for found in along]))
                fill = _as_type(fill, out, size)
            else:
                mask = np.zeros(size, bool)
                fill = _as_type(np.zeros(size), out, size)
            if self.absorbing is not None and self.absorbed is not None:
                for position, found in enumerate(along[:1] if self.only_first else along):
                    if found is None:
                        continue
                    if not all(facts.is_finite(v) for i, v in enumerate(inputs) if i != position):
                        continue
                    here = found[0] & self.absorbing(found[1]) & ~mask
                    if here.any():
                        fill = np.where(here, _as_type(self.absorbed(found[1]), out, size), fill)
                        mask = mask | here
            facts.set_dead(out, axis, mask, fill)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return self.bounded

    def _read(self, node: ir.Node) -> list[ir.Value | None]:
        inputs = list(node.inputs)
        return inputs if self.operands is None else inputs[: self.operands]


def own_axis(value: ir.Value, axis: int, rank: int) -> int | None:
    """Return the axis of ``value`` that broadcasting aligns with ``axis`` of an output of ``rank`` axes."""
    own = dims.rank(value)
    if own is None:
        return None
    shifted = axis - (rank - own)
    return shifted if shifted >= 0 else None


def aligned_spec(node: ir.Node, operands: Sequence[int] | range | None = None) -> Spec | None:
    """Links of right-aligned broadcasting: every input axis that has the output axis's own size."""
    out = node.outputs[0]
    out_sizes = dims.sizes(out)
    if out_sizes is None:
        return None
    links: list[Link] = []
    pinned: set[tuple[int, int]] = set()
    rank = len(out_sizes)
    for operand, value in enumerate(node.inputs):
        if value is None or (operands is not None and operand not in operands):
            continue
        in_sizes = dims.sizes(value)
        if in_sizes is None or len(in_sizes) > rank:
            return None
        offset = rank - len(in_sizes)
        for axis, size in enumerate(in_sizes):
            out_size = out_sizes[axis + offset]
            if (
                (isinstance(out_size, int) and size == out_size and size != 1)
                or (out_size == 1 and size == 1)
                or (not isinstance(out_size, int) and dims.provably_equal(size, out_size))
            ):
                links.append(Link(operand, axis, 0, axis + offset))
            elif size != 1:  # one or the output's size, decided at run time
                pinned.add((0, axis + offset))
    return Spec(links, pinned=frozenset(pinned), reason="an axis of unknown size is broadcast")


def candidate_axes(
    node: ir.Node,
    inputs: Sequence[ir.Value | None],
    facts: Facts,
    absorbing: Callable[[np.ndarray], np.ndarray] | None,
) -> list[int]:
    """Return the output axes along which some position may be dead."""
    rank = dims.rank(node.outputs[0])
    if rank is None:
        return []
    axes: set[int] = set()
    whole = False
    for value in inputs:
        if value is None:
            continue
        own = dims.rank(value)
        if own is None:
            continue
        if is_constant(value):
            if absorbing is None:
                continue
            if own == 0 or facts.constants.size(value) == 1:
                single = facts.constants.single(value)
                whole |= single is not None and bool(absorbing(np.atleast_1d(single)).any())
                continue
            for axis, size in enumerate(dims.static(value) or ()):
                if size is None or size == 1:
                    continue
                found = facts.constants.uniform(value, axis)
                if found is not None and (found[0] & absorbing(found[1])).any():
                    axes.add(axis + rank - own)
        else:
            for axis, dead in facts.dead_axes(value).items():
                if dead.mask.all() and (dead.fill == dead.fill[0]).all():
                    whole = True
                axes.add(axis + rank - own)
    return list(range(rank)) if whole else sorted(axes)


def _as_type(fill: np.ndarray, value: ir.Value, size: int) -> np.ndarray:
    fill = np.broadcast_to(np.asarray(fill), (size,))
    dtype = value.dtype
    if dtype is None:
        return fill.copy()
    with np.errstate(all="ignore"):
        return fill.astype(dtype.numpy())


# -- the table: operator → function of fills -----------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _wide(fn: Callable[[np.ndarray], np.ndarray]) -> Callable[[ir.Node], Function]:
    """Evaluate in float64 and round once: at least as exact as any runtime."""
    return lambda node: lambda x: fn(x.astype(np.float64))


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes.get_float(name, default)


def _gelu(node: ir.Node) -> Function:
    if node.attributes.get_string("approximate", "none") == "tanh":
        return lambda x: (
            0.5 * x.astype(float) * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.astype(float) ** 3)))
        )
    return lambda x: 0.5 * x.astype(float) * (1 + _erf(x.astype(float) / math.sqrt(2)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _elu(alpha: float, scale: float = 1.0) -> Function:
    return lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x.astype(float), 0)))


def _is_inf(node: ir.Node) -> Function:
    return lambda x: np.zeros(x.shape, bool)  # fills are finite


UNARY: dict[str, Callable[[ir.Node], Function]] = {
    "Abs": lambda n: np.abs,
    "Acos": _wide(np.arccos),
    "Acosh": _wide(np.arccosh),
    "Asin": _wide(np.arcsin),
    "Asinh": _wide(np.arcsinh),
    "Atan": _wide(np.arctan),
    "Atanh": _wide(np.arctanh),
    "BitwiseNot": lambda n: np.bitwise_not,
    "Cast": lambda n: lambda x: x,
    "Ceil": _wide(np.ceil),
    "Celu": lambda n: (
        lambda x: (
            np.maximum(x, 0)
            + np.minimum(0, _float(n, "alpha", 1.0) * np.expm1(x.astype(float) / _float(n, "alpha", 1.0)))
        )
    ),
    "Cos": _wide(np.cos),
    "Cosh": _wide(np.cosh),
    "Elu": lambda n: _elu(_float(n, "alpha", 1.0)),
    "Erf": _wide(_erf),
    "Exp": _wide(np.exp),
    "Floor": _wide(np.floor),
    "Gelu": _gelu,
    "HardSigmoid": lambda n: (
        lambda x: np.clip(_float(n, "alpha", 0.2) * x.astype(float) + _float(n, "beta", 0.5), 0, 1)
    ),
    "HardSwish": _wide(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Identity": lambda n: lambda x: x,
    "IsInf": _is_inf,
    "IsNaN": _is_inf,
    "LeakyRelu": lambda n: lambda x: np.where(x < 0, _float(n, "alpha", 0.01) * x.astype(float), x),
    "Log": _wide(np.log),
    "Mish": _wide(lambda x: x * np.tanh(np.logaddexp(0, x))),
    "Neg": lambda n: np.negative,
    "Not": lambda n: np.logical_not,
    "Reciprocal": _wide(np.reciprocal),
    "Relu": lambda n: lambda x: np.maximum(x, 0),
    "Round": _wide(np.rint),
    "Selu": lambda n: _elu(_float(n, "alpha", 1.6732632423543772), _float(n, "gamma", 1.0507009873554805)),
    "Shrink": lambda n: (
        lambda x: np.where(
            x < -_float(n, "lambd", 0.5),
            x.astype(float) + _float(n, "bias", 0.0),
            np.where(x > _float(n, "lambd", 0.5), x.astype(float) - _float(n, "bias", 0.0), 0),
        )
    ),
    "Sigmoid": _wide(_sigmoid),
    "Sign": lambda n: np.sign,
    "Sin": _wide(np.sin),
    "Sinh": _wide(np.sinh),
    "Softplus": _wide(lambda x: np.logaddexp(0, x)),
    "Softsign": _wide(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _wide(np.sqrt),
    "Swish": lambda n: lambda x: x * _sigmoid(_float(n, "alpha", 1.0) * x.astype(float)),
    "Tan": _wide(np.tan),
    "Tanh": _wide(np.tanh),
    "ThresholdedRelu": lambda n: lambda x: np.where(x > _float(n, "alpha", 1.0), x, 0),
}

_BOUNDED = {
    "Abs", "Atan", "Asinh", "Cos", "Erf", "HardSigmoid", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Sign",
    "Sin", "Softsign", "Tanh", "ThresholdedRelu", "Elu", "Ceil", "Floor", "Round", "Not", "Clip", "Max", "Min", "Where",
}  # fmt: skip


def _reduced(fn: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[ir.Node], Function]:
    def variadic(*values: np.ndarray) -> np.ndarray:
        result = values[0]
        for value in values[1:]:
            result = fn(result, value)
        return result

    return lambda node: variadic


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        safe = np.where(b == 0, 1, b)
        return np.where(b == 0, 0, np.trunc(a / safe)).astype(a.dtype)
    return a / b


def _mod(node: ir.Node) -> Function:
    if node.attributes.get_int("fmod", 0):
        return np.fmod
    return lambda a, b: np.mod(a, np.where(b == 0, 1, b))


def _shift(node: ir.Node) -> Function:
    return np.left_shift if node.attributes.get_string("direction", "") == "LEFT" else np.right_shift


BINARY: dict[str, Callable[[ir.Node], Callable[..., Any]]] = {
    "Add": lambda n: np.add,
    "BitShift": _shift,
    "BitwiseAnd": lambda n: np.bitwise_and,
    "BitwiseOr": lambda n: np.bitwise_or,
    "BitwiseXor": lambda n: np.bitwise_xor,
    "Equal": lambda n: np.equal,
    "Greater": lambda n: np.greater,
    "GreaterOrEqual": lambda n: np.greater_equal,
    "Less": lambda n: np.less,
    "LessOrEqual": lambda n: np.less_equal,
    "Max": _reduced(np.maximum),
    "Mean": lambda n: lambda *values: sum(v.astype(np.float64) for v in values) / len(values),
    "Min": _reduced(np.minimum),
    "Mod": _mod,
    "Or": lambda n: np.logical_or,
    "Pow": lambda n: lambda a, b: np.power(a.astype(np.float64), b.astype(np.float64)),
    "PRelu": lambda n: lambda x, slope: np.where(x < 0, x * slope, x),
    "Sub": lambda n: np.subtract,
    "Sum": _reduced(np.add),
    "Xor": lambda n: np.logical_xor,
}

for _name, _function in UNARY.items():
    register(_name, Elementwise(_function, bounded=_name in _BOUNDED, operands=1))
for _name, _function in BINARY.items():
    register(_name, Elementwise(_function, bounded=_name in _BOUNDED))
register("CastLike", Elementwise(lambda n: lambda x: x, operands=1))


def _is_zero(x: np.ndarray) -> np.ndarray:
    return x == 0


register("Mul", Elementwise(lambda n: np.multiply, absorbing=_is_zero, absorbed=np.zeros_like))
register("And", Elementwise(lambda n: np.logical_and, absorbing=np.logical_not, absorbed=np.zeros_like))
register("Or", Elementwise(lambda n: np.logical_or, absorbing=lambda x: x.astype(bool), absorbed=np.ones_like))


@rule("Div")
class Div(Elementwise):
    """``a / b``; an integer division by zero proves nothing."""

    def __init__(self) -> None:
        super().__init__(lambda n: _divide, absorbing=_is_zero, absorbed=np.zeros_like, only_first=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        divisor = node.inputs[1]
        array = facts.constants.array(divisor) if divisor is not None and is_constant(divisor) else None
        if (array is not None and not (array == 0).any()) or is_positive(divisor, facts.constants):
            super().forward(node, spec, facts)
        elif node.outputs[0].dtype is not None and node.outputs[0].dtype.is_floating_point():
            _DIVIDE.forward(node, spec, facts)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """A divisor under a dead zero is needed all the same: what nobody needs may become zero, and 0 / 0 is NaN."""
        super().backward(node, spec, facts)
        out, divisor = node.outputs[0], node.inputs[1]
        known = dims.static(out)
        if divisor is None or known is None or is_constant(divisor) or facts.demand.get(out) is None:
            return
        for link in spec.of_operand(1):
            size, dead = known[link.out_axis], facts.dead_axes(out).get(link.out_axis)
            if size is None or dead is None:
                continue
            own = facts.dead_axes(divisor).get(link.axis)
            absorbed = dead.mask if own is None else dead.mask & ~own.mask
            needed = facts.demanded(out, link.out_axis, size) & absorbed
            if needed.any():
                facts.contribute(divisor, {link.axis: needed})


_DIVIDE = Elementwise(lambda n: _divide)
"""Division by something that may be zero: constants only where both are."""

register("PRelu", Elementwise(BINARY["PRelu"], absorbing=_is_zero, absorbed=np.zeros_like, only_first=True))


@rule("Clip")
class Clip(Elementwise):
    """``min(max(x, lo), hi)``; lo and hi are scalars (attributes before opset 11)."""

    def __init__(self) -> None:
        super().__init__(self._clip, bounded=True)

    @staticmethod
    def _clip(node: ir.Node) -> Function:
        if "min" in node.attributes or "max" in node.attributes:
            low, high = _float(node, "min", -np.inf), _float(node, "max", np.inf)
            return lambda x, *_: np.minimum(np.maximum(x, low), high)

        def clip(x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> np.ndarray:
            x = x if low is None else np.maximum(x, low)
            return x if high is None else np.minimum(x, high)

        return clip

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        return aligned_spec(node, (0,))


@rule("Dropout")
class Dropout(Elementwise):
    """Identity, unless it trains."""

    def __init__(self) -> None:
        super().__init__(lambda n: lambda x: x, bounded=True, operands=1)

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if training is not None:
            array = facts.constants.array(training)
            if array is None or bool(array.any()):
                return None
        return super().spec(node, facts)


@rule("Where")
class Where(Elementwise):
    """``condition ? a : b``; a constant condition selects one operand, two equal constants need no condition."""

    def __init__(self) -> None:
        super().__init__(lambda n: np.where, bounded=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out = node.outputs[0]
        known = dims.static(out)
        if known is None or any(v is None for v in node.inputs):
            return
        for axis in candidate_axes(node, node.inputs, facts, lambda x: np.ones(x.shape, bool)):
            size = known[axis]
            if size is None:
                continue
            empty = (np.zeros(size, bool), np.zeros(size))
            found = [facts.along(v, own_axis(v, axis, len(known)), size) or empty for v in node.inputs if v is not None]
            (c_mask, c), (a_mask, a), (b_mask, b) = found
            chosen = c.astype(bool)
            from_a = a_mask & c_mask & chosen
            from_b = b_mask & c_mask & ~chosen
            same = a_mask & b_mask & (a == b)
            fill = np.where(from_b, b, a)
            facts.set_dead(out, axis, from_a | from_b | same, _as_type(fill, out, size))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        # A constant condition reads only the side it chooses.
        condition, known = node.inputs[0], dims.static(node.outputs[0])
        more: dict[int, Partial] = {}
        if condition is not None and known is not None and is_constant(condition):
            for link in spec.links:
                size = known[link.out_axis]
                if link.operand == 0 or size is None:
                    continue
                found = facts.along(condition, own_axis(condition, link.out_axis, len(known)), size)
                if found is None:
                    continue
                chosen = found[1].astype(bool)
                more.setdefault(link.operand, {})[link.axis] = ~found[0] | (chosen if link.operand == 1 else ~chosen)
        more = {k: {a: m for a, m in partial.items() if not m.all()} for k, partial in more.items()}
        through_links(node, spec, facts, more)


@rule("BatchNormalization")
class BatchNormalization(Rule):
    """``f' = (f - mean) / sqrt(var + eps) * scale + bias``; a zero scale makes a constant out of a live channel."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known = dims.rank(node.outputs[0])
        if known is None or node.attributes.get_int("training_mode", 0) or not node.attributes.get_int("spatial", 1):
            return None
        if known < 2 or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
            return None
        links = [Link(0, axis, 0, axis) for axis in range(known)]
        links += [Link(operand, 0, 0, 1) for operand in range(1, 5)]
        return Spec(links)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        x = node.inputs[0]
        known = dims.static(node.outputs[0])
        if x is None or known is None or known[1] is None:
            return
        size = known[1]
        arrays = [facts.constants.array(v) if v is not None and is_constant(v) else None for v in node.inputs[1:5]]
        if any(array is None or array.shape != (size,) for array in arrays):
            return
        scale, bias, mean, var = (np.asarray(array, np.float64) for array in arrays)
        along = facts.along(x, 1, size)
        mask = np.zeros(size, bool)
        fill = np.zeros(size)
        if along is not None:
            mask |= along[0]
            fill = np.where(along[0], along[1], 0).astype(np.float64)
        if facts.is_finite(x):
            mask = mask | (scale == 0)
        if not mask.any():
            return
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
            mask = mask & np.isfinite(factor) & np.isfinite(mean)
            fill = (fill - mean) * factor + bias
        facts.set_dead(node.outputs[0], 1, mask, _as_type(fill, node.outputs[0], size))
