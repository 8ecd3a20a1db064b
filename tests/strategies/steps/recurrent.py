"""Recurrent layers: gates that are silent, units that nobody reads, both directions, states from outside."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Value
from tests.strategies.recipe import Choices
from tests.strategies.steps.registry import batch_first, step
from tests.strategies.weights import weight

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
CANDIDATE = {"GRU": 2, "LSTM": 3, "RNN": 0}


@step(lambda x: x.dtype == "f" and x.rank == 3 and batch_first(x), weight=2)
def recurrent(b: Builder, c: Choices, x: Value) -> None:
    """(N, T, C) as sequences of length T, one for each sample."""
    b.not_at_zero("onnxruntime 1.31 terminates the process")
    op = c.pick(["GRU", "LSTM", "RNN"])
    n, t, k = x.shape
    assert isinstance(t, int) and isinstance(k, int)
    hidden = c.pick([3, 2, 5, 4])
    direction = c.pick(["forward", "forward", "bidirectional", "reverse"])
    sides = 2 if direction == "bidirectional" else 1
    flags: dict[str, Any] = {"direction": direction, "hidden_size": hidden}
    if op == "GRU" and c.chance(50):
        flags["linear_before_reset"] = 1
    if op == "LSTM" and c.chance(15):
        flags["input_forget"] = 1
    if c.chance(15):
        flags["clip"] = 0.75
    if op == "RNN" and c.chance(30):
        flags["activations"] = [c.pick(["Relu", "Sigmoid", "Softsign"])] * sides
    turned = b.op("Transpose", [x], (t, n, k), perm=[1, 0, 2])
    operands: list[Value | str] = [turned, *_weights(b, c, op, sides, hidden, k)]
    states = _states(b, c, n, sides, hidden)
    peepholes = op == "LSTM" and c.chance(20)
    if states or peepholes:
        operands += [""] * (5 - len(operands))  # no lengths; perhaps no bias
        operands += states or [""]
        if op == "LSTM":
            operands += states or [""]
        if peepholes:
            operands.append(b.const(c.rng.standard_normal((sides, 3 * hidden)).astype(np.float32)))
    # Relu over a sequence may grow with every step.
    amp = 1.0 if flags.get("activations", [""])[0] != "Relu" else x.amp * t * 2
    if c.chance(20):
        names = b.raw(op, [o.name if isinstance(o, Value) else o for o in operands], outputs=2, **flags)
        last = Value(names[1], (sides, n, hidden), amp=amp)
        b.push(b.op("Gather", [last, b.const(np.array(c.below(sides), np.int64))], (n, hidden), amp=amp, axis=0))
        y = Value(names[0], (t, sides, n, hidden), amp=amp)
    else:
        y = b.op(op, operands, (t, sides, n, hidden), amp=amp, **flags)
    if sides == 1:
        y = b.op("Squeeze", [y, b.ints([1])], (t, n, hidden))
        b.push(b.op("Transpose", [y], (n, t, hidden), perm=[1, 0, 2]))
        return
    y = b.op("Transpose", [y], (n, t, sides, hidden), perm=[2, 0, 1, 3])
    b.push(b.op("Reshape", [y, b.ints([0, 0, sides * hidden])], (n, t, sides * hidden)))


def _weights(b: Builder, c: Choices, op: str, sides: int, hidden: int, inputs: int) -> list[str]:
    """W, R and B; often some units have silent candidates, or are read by nobody."""
    rows = GATES[op] * hidden
    w = (c.rng.standard_normal((sides, rows, inputs)) / np.sqrt(inputs)).astype(np.float32)
    r = (c.rng.standard_normal((sides, rows, hidden)) / np.sqrt(hidden)).astype(np.float32)
    bias = c.rng.standard_normal((sides, 2 * rows)).astype(np.float32) * np.float32(0.5)
    way = c.pick(["plain", "silent", "silent", "unread", "masked", "one side"])
    alive = masks.pattern(c, hidden)
    if way == "masked":
        shared = weight(b, c, [sides, rows, inputs], out_axis=1, in_axis=2, fan_in=inputs)
        return [shared.name, b.const(r), b.const(bias)]
    if way in ("silent", "one side"):
        dead = CANDIDATE[op] * hidden + np.flatnonzero(~alive)
        chosen = slice(0, 1) if way == "one side" else slice(None)
        w[chosen, dead], r[chosen, dead], bias[chosen, dead], bias[chosen, rows + dead] = 0, 0, 0, 0
        if c.chance(25) and dead.size:  # silent units that read one another
            r[:, dead[0], dead % hidden] = 0.5
    elif way == "unread":
        unread = np.flatnonzero(~alive)
        r[:, :, unread] = 0
        if c.chance(50):  # ... but by one another
            r[:, unread, unread[:1]] = 0.5
    found = [b.const(w), b.const(r)]
    return found if c.chance(20) and way != "silent" else [*found, b.const(bias)]


def _states(b: Builder, c: Choices, n: int | str, sides: int, hidden: int) -> list[str]:
    """An initial state for h (and c), from outside or of zeros; or none."""
    way = c.pick(["none", "none", "none", "zeros", "outside", "masked"])
    if way == "none":
        return []
    shape = (sides, n, hidden)
    if way == "zeros":
        if not isinstance(n, int):
            size = b.raw("Shape", [b.pool[0].name])[0]
            if b.pool[0].shape[0] != BATCH:
                return []
            size = b.raw("Slice", [size, b.ints([0]), b.ints([1])])[0]
            size = b.raw("Concat", [b.ints([sides]), size, b.ints([hidden])], axis=0)[0]
            return [b.raw("ConstantOfShape", [size])[0]]
        return [b.const(np.zeros((sides, n, hidden), np.float32))]
    name = b.input_once(f"state{sides}x{hidden}", shape, "f")
    return [name] if way == "outside" else [masks.apply(b, c, Value(name, shape), 2).name]
