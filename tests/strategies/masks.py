"""Masks in every form that exports produce: what is masked, in which type, through which plumbing, applied how."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.strategies.builder import Builder, Dim, Value
from tests.strategies.recipe import Choices, InapplicableError


def pattern(c: Choices, size: int) -> np.ndarray:
    """Which of `size` positions live, as bool[size]: none dead .. all dead."""
    kind = c.pick(
        ["half", "one dead", "half", "prefix", "one alive", "half", "none dead", "alternate", "all dead", "most"]
    )
    alive = np.ones(size, bool)
    if kind == "half":
        alive = np.arange(size) % 2 == 0 if size < 2 else c.rng.permutation(size) < (size + 1) // 2
    elif kind == "one dead":
        alive[c.below(size)] = False
    elif kind == "prefix":
        alive[max(1, size // 2) :] = False
    elif kind == "one alive":
        alive[:] = False
        alive[c.below(size)] = True
    elif kind == "alternate":
        alive[c.below(2) :: 2] = False
    elif kind == "all dead":
        alive[:] = False
    elif kind == "most":
        alive = c.rng.random(size) < 0.3
    return alive


def _cast(b: Builder, name: str, to: int) -> str:
    return b.raw("Cast", [name], to=to)[0]


def _vector(b: Builder, c: Choices, size: int) -> tuple[str, str]:
    """The name and dtype ('f', 'i', 'b') of a constant one-dimensional mask, sometimes one that was used before."""
    known = b.shared.get(("mask", size), [])
    if known and c.chance(35):
        entry = c.pick(known)
        return entry[1:], entry[0]
    alive = pattern(c, size)
    kind = c.pick(["f", "f", "b", "i", "f"])
    array = alive.astype({"f": np.float32, "b": np.bool_, "i": np.int64}[kind])
    if kind == "f" and c.chance(12):  # a soft mask: some entries are scales
        array *= c.rng.choice([0.5, 1.0, 1.5], size).astype(np.float32)
    if kind == "i" and c.chance(30):
        array = array.astype(c.pick([np.int32, np.uint8, np.int8]))
    name = b.const(array, prefix="mask", node=c.chance(30))
    b.shared.setdefault(("mask", size), []).append(kind + name)
    return name, kind


def _uniform(b: Builder, c: Choices, size: int) -> tuple[str, str]:
    """A mask of one value for all positions, by ConstantOfShape."""
    value = np.array([c.below(2)], np.float32)
    shape = b.ints([size])
    return b.raw("ConstantOfShape", [shape], value=numpy_helper.from_array(value))[0], "f"


def _placed(b: Builder, c: Choices, name: str, size: int, rank: int, axis: int) -> str:
    """Brings a vector to the axis of a value of that rank; some ways leave leading ones away."""
    target = [1] * rank
    target[axis] = size
    short = target[axis:]
    way = c.pick(["reshape", "unsqueeze", "transpose", "reshape -1", "steps", "short"])
    if rank == 1 or (way == "short" and len(short) == 1):
        return name
    if way == "reshape":
        return b.raw("Reshape", [name, b.ints(target)])[0]
    if way == "short":
        return b.raw("Reshape", [name, b.ints(short)])[0]
    if way == "reshape -1":
        return b.raw("Reshape", [name, b.ints([-1 if i == axis else d for i, d in enumerate(target)])])[0]
    if way == "unsqueeze":
        return b.raw("Unsqueeze", [name, b.ints([i for i in range(rank) if i != axis])])[0]
    if way == "steps":
        for i in range(axis):
            name = b.raw("Unsqueeze", [name, b.ints([i])])[0]
        for _ in range(axis + 1, rank):
            name = b.raw("Unsqueeze", [name, b.ints([-1])])[0]
        return name
    last = b.raw("Reshape", [name, b.ints([1] * (rank - 1) + [size])])[0]
    perm = list(range(rank))
    perm[axis], perm[-1] = rank - 1, axis
    return b.raw("Transpose", [last], perm=perm)[0]


def _direct(b: Builder, c: Choices, size: int, rank: int, axis: int) -> tuple[str, str]:
    """A constant mask that already has the rank of what it masks."""
    alive = pattern(c, size)
    kind = c.pick(["f", "b", "f", "i"])
    shape = [1] * rank
    shape[axis] = size
    array = alive.reshape(shape).astype({"f": np.float32, "b": np.bool_, "i": np.int64}[kind])
    return b.const(array, prefix="mask"), kind


def _dynamic(b: Builder, c: Choices, size: int, rank: int, axis: int) -> tuple[str, str]:
    """A mask that is a graph input."""
    kind = c.pick(["f", "b"])
    name = b.input_once(f"gate_{kind}{size}", (size,), kind)
    if c.chance(25):  # a default value, which a user may override
        default = pattern(c, size).astype(np.float32 if kind == "f" else np.bool_)
        b.initializers.setdefault(name, numpy_helper.from_array(default, name))
    return _placed(b, c, name, size, rank, axis), kind


def _mask(b: Builder, c: Choices, shape: tuple[Dim, ...], axis: int) -> tuple[str, str]:
    size = shape[axis]
    if not isinstance(size, int):
        raise InapplicableError("a mask along the batch")
    rank = len(shape)
    source = c.pick(["direct", "vector", "vector", "direct", "vector", "uniform", "dynamic"])
    if source == "direct":
        name, kind = _direct(b, c, size, rank, axis)
    elif source == "dynamic" and c.chance(50):
        name, kind = _dynamic(b, c, size, rank, axis)
    else:
        name, kind = _uniform(b, c, size) if source == "uniform" else _vector(b, c, size)
        if kind != "f" and c.chance(30):  # cast before the plumbing
            name, kind = _cast(b, name, TensorProto.FLOAT), "f"
        if kind == "f" and c.chance(15):
            name = b.raw("Sub", [b.const(np.float32(1)), name])[0]
        name = _placed(b, c, name, size, rank, axis)
    change = c.pick(["none", "none", "none", "complement", "product", "twice"])
    if change == "complement":
        if kind == "b":
            name = b.raw("Not", [name])[0]
        elif kind == "f":
            name = b.raw("Sub", [b.const(np.float32(1)), name])[0]
    elif change == "product" and kind != "i":
        other, other_kind = _direct(b, c, size, rank, axis)
        other = other if other_kind == kind else _cast(b, other, TensorProto.BOOL if kind == "b" else TensorProto.FLOAT)
        name = b.raw("And" if kind == "b" else "Mul", [name, other])[0]
    elif change == "twice" and kind == "f":
        name = b.raw("Mul", [name, name])[0]
    if kind != "b" and c.chance(10):
        name, kind = _cast(b, name, TensorProto.BOOL), "b"
    static = all(isinstance(d, int) for d in shape)
    if c.chance(12) and static:
        name = b.raw("Expand", [name, b.ints([d for d in shape if isinstance(d, int)])])[0]
    return name, kind


def apply(b: Builder, c: Choices, x: Value, axis: int) -> Value:
    """`x` masked along the axis; constants are given as values too (weights, biases)."""
    axis %= x.rank
    name, kind = _mask(b, c, x.shape, axis)
    amp, grain = x.amp * 1.5, x.grain + 1 if x.grain is not None else None
    if kind == "i":
        name, kind = _cast(b, name, TensorProto.FLOAT), "f"
    if kind == "b":
        way = c.pick(["cast", "where", "where not", "where fill"])
        if way == "cast":
            name = _cast(b, name, TensorProto.FLOAT)
        else:
            fill = np.float32(0 if way != "where fill" else c.pick([0.5, -1.0, 2.0]))
            filler = b.const(fill if c.chance(50) else np.full([1] * x.rank, fill, np.float32), prefix="fill")
            if way == "where not" and c.chance(50):
                name = b.raw("Not", [name])[0]
                return b.op("Where", [name, filler, x], x.shape, amp=max(amp, 2.0), grain=grain)
            order = [name, x, filler] if way != "where not" else [name, filler, x]
            return b.op("Where", order, x.shape, amp=max(amp, 2.0), grain=grain)
    form = c.pick(["mul", "mul", "swapped", "function", "mul", "expand like"])
    if form == "function":
        node = helper.make_node("Mul", ["x", "m"], ["y"], name="masked_mul")
        b.function(
            "Masked",
            lambda: helper.make_function(
                "local", "Masked", ["x", "m"], ["y"], [node], [helper.make_opsetid("", b.opset)]
            ),
        )
        return b.op("Masked", [x, name], x.shape, amp=amp, grain=grain, domain="local")
    if form == "expand like":
        full = b.raw("Shape", [x.name])[0]
        name = b.raw("Expand", [name, full])[0]
    order = [name, x] if form == "swapped" else [x, name]
    return b.op("Mul", order, x.shape, amp=amp, grain=grain)


def apply_constant_function(b: Builder, c: Choices, x: Value, axis: int) -> Value:
    """`x` masked inside a function that holds the mask as its own constant."""
    axis %= x.rank
    size = x.shape[axis]
    if not isinstance(size, int):
        raise InapplicableError("a mask along the batch")
    shape = [1] * x.rank
    shape[axis] = size
    mask = numpy_helper.from_array(pattern(c, size).reshape(shape).astype(np.float32))
    name = b.fresh("MaskedHere")
    relu = c.chance(40)
    body = [
        helper.make_node("Constant", [], ["m"], value=mask),
        helper.make_node("Mul", ["x", "m"], ["t" if relu else "y"]),
    ]
    if relu:
        body.append(helper.make_node("Relu", ["t"], ["y"]))
    opset = [helper.make_opsetid("", b.opset)]
    b.function(name, lambda: helper.make_function("local", name, ["x"], ["y"], body, opset))
    return b.op(name, [x], x.shape, grain=x.grain, domain="local")
