"""If, Loop and Scan with random layers inside: every other step may stand in a body."""

from __future__ import annotations

import bisect

import numpy as np
import onnx
from onnx import helper

from tests.strategies import masks
from tests.strategies.builder import ONNX_TYPE, Builder, Shape, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import calm
from tests.strategies.steps.registry import STEPS, is_float, step

BYTES = 14
"""Bytes of a step inside a body."""


def _inside(b: Builder, data: list[bytes], seed: int, x: Value) -> tuple[Builder, Value]:
    """Runs steps in a builder of their own, which sees the weights, inputs and functions of the outer one."""
    inner = Builder(b.opset, b.dynamic, b.constant_nodes, value_info=False, zero=b.zero)
    inner._names = b._names
    inner.inputs, inner.functions = b.inputs, b.functions
    inner.shared = {key: list(names) for key, names in b.shared.items()}
    inner.push(x)
    for number, content in enumerate(data):
        c = Choices(content, seed + number)
        current = inner.pool[-1]
        steps = [s for s in STEPS if s.since <= b.opset and s.applies(current)]
        total = [0]
        for s in steps:
            total.append(total[-1] + s.weight)
        steps[bisect.bisect_right(total, c.below(total[-1])) - 1].run(inner, c, calm(inner, c, current))
    b._names = inner._names
    made = {name for node in inner.nodes for name in node.output}
    if inner.pool[-1].name not in made or inner.pool[-1].dtype != "f":
        raise InapplicableError("nothing was made")
    for node in inner.nodes:
        for name in node.input:
            b.use(name)
    return inner, inner.pool[-1]


def _info(name: str, shape: Shape, dtype: str = "f") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPE[dtype], shape)


def _some(c: Choices, most: int) -> list[bytes]:
    return [bytes(c.below(256) for _ in range(BYTES)) for _ in range(c.between(1, most))]


@step(is_float, weight=2)
def branches(b: Builder, c: Choices, x: Value) -> None:
    """An If with the same layers in both branches but other weights; sometimes the condition is a constant."""
    constant, again = c.chance(15), c.chance(30)
    data = _some(c, 2)
    seed = int(c.rng.integers(2**16))
    graphs, results = [], []
    for name in ("yes", "no"):
        inner, y = _inside(b, data, seed, x)
        if again or name == "no":
            y = masks.apply(inner, Choices(data[0], 1), y, y.rank - 1)
            b._names = inner._names
        results.append(y)
        graphs.append(
            helper.make_graph(inner.nodes, name, [], [_info(y.name, y.shape)], list(inner.initializers.values()))
        )
        seed += 1 if c.chance(50) else 0
    if results[0].shape != results[1].shape:
        raise InapplicableError("the branches differ")
    flag = b.const(np.array(c.chance(50)), node=False) if constant else b.input_once("flag", (), "b")
    amp = max(y.amp for y in results)
    b.push(b.op("If", [flag], results[0].shape, amp=amp, then_branch=graphs[0], else_branch=graphs[1]))


@step(is_float, weight=1)
def layered_loop(b: Builder, c: Choices, x: Value) -> None:
    """A Loop of layers: what fits becomes the next state, anything else is collected."""
    trips = c.pick([2, 1, 0, 3])
    if c.chance(40):
        x = masks.apply(b, c, x, x.rank - 1)
    state = Value(b.fresh("state"), x.shape, amp=max(x.amp, 1.0))
    inner, y = _inside(b, _some(c, 2), int(c.rng.integers(2**16)), state)
    carried = y.shape == x.shape
    (following,) = inner.raw(c.pick(["Tanh", "Softsign"]), [y.name if carried else state.name])
    names = {key: b.fresh(key) for key in ("i", "go")}
    inner._names = b._names
    (on,) = inner.raw("Identity", [names["go"]])
    outputs = [_info(on, (), "b"), _info(following, x.shape)]
    collected = not carried or c.chance(30)
    if collected:
        (copy,) = inner.raw("Identity", [y.name])
        outputs.append(_info(copy, y.shape))
    b._names = inner._names
    given = [_info(names["i"], (), "i"), _info(names["go"], (), "b"), _info(state.name, x.shape)]
    body = helper.make_graph(inner.nodes, "body", given, outputs, list(inner.initializers.values()))
    count = b.const(np.array(trips, np.int64), node=False)
    go = b.const(np.array(True), node=False)
    results = b.raw("Loop", [count, go, x.name], outputs=2 if collected else 1, body=body)
    b.push(Value(results[0], x.shape, amp=max(x.amp, 1.0)))
    if collected and trips and y.rank < 5:
        b.push(Value(results[1], (trips, *y.shape), amp=y.amp))


@step(lambda x: x.dtype == "f" and x.rank >= 3, weight=1)
def layered_scan(b: Builder, c: Choices, x: Value) -> None:
    """A Scan along a static axis that collects what layers make of a slice, and how its state goes on."""
    b.not_at_zero("onnxruntime 1.31 divides by zero")
    axes = [axis for axis in range(x.rank) if isinstance(x.shape[axis], int)]
    axis = c.pick(axes[1:] or axes)
    steps = x.shape[axis]
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    row = Value(b.fresh("row"), rest, amp=x.amp)
    inner, y = _inside(b, _some(c, 2), int(c.rng.integers(2**16)), row)
    state = b.fresh("state")
    inner._names = b._names
    (following,) = inner.raw("Tanh", [inner.raw("Add", [state, row.name])[0]])
    (copy,) = inner.raw("Identity", [y.name])
    b._names = inner._names
    outputs = [_info(following, rest), _info(copy, y.shape)]
    body = helper.make_graph(
        inner.nodes, "body", [_info(state, rest), _info(row.name, rest)], outputs, list(inner.initializers.values())
    )
    start = b.op("ReduceMax", [x], rest, axes=[axis], keepdims=0) if b.opset < 18 else None
    if start is None:
        start = b.op("ReduceMax", [x, b.ints([axis])], rest, keepdims=0)
    out_axis = c.below(y.rank + 1)
    results = b.raw(
        "Scan",
        [start.name, x.name],
        outputs=2,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[out_axis],
        body=body,
    )
    b.push(Value(results[0], rest, amp=1.0))
    if y.rank < 5:
        b.push(Value(results[1], (*y.shape[:out_axis], steps, *y.shape[out_axis:]), amp=y.amp))
