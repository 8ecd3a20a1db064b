"""Reduce* of every kind, ArgMax, TopK, CumSum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies.builder import BATCH, Builder, Dim, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import positive, small
from tests.strategies.steps.registry import static_axes, step

KINDS = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


@step(lambda x: x.dtype == "f" and x.rank >= 2, weight=5)
def reduce(b: Builder, c: Choices, x: Value) -> None:
    kind = c.pick(KINDS)
    keep = c.chance(50)
    as_input = b.opset >= 18 or kind == "Sum"
    allowed = static_axes(x) if kind != "Sum" or c.chance(80) else list(range(x.rank))
    if not allowed:
        raise InapplicableError("only the batch")
    how = c.pick(["some", "some", "some", "all", "none"])
    axes: list[int] | None = [c.pick(allowed)] if c.chance(50) else [a for a in allowed if c.chance(60)]
    attributes: dict[str, Any] = {}
    if how == "none" and as_input:  # nothing is reduced
        attributes["noop_with_empty_axes"] = 1
        axes = [] if c.chance(50) else None
        reduced: list[int] = []
        kind = c.pick(["Mean", "Sum", "Max", "Min"]) if b.opset >= 18 else "Sum"
    elif how == "all" and kind in ("Sum", "Mean", "L1") and BATCH not in x.shape:
        axes, reduced, keep = None, list(range(x.rank)), True
    else:
        axes = axes or [allowed[-1]]
        reduced = list(axes)
    if kind == "LogSum":
        x = positive(b, x)
    elif kind in ("Prod", "SumSquare", "LogSumExp", "L2"):
        x = small(b, x, 1.5)
    count = 1
    for a in reduced:
        size = x.shape[a]
        count *= size if isinstance(size, int) else 7
    shape: list[Dim] = []
    for i, d in enumerate(x.shape):
        if i not in reduced:
            shape.append(d)
        elif keep:
            shape.append(1)
    inputs: list[Value | str] = [x]
    if axes is not None:
        # With an empty batch onnxruntime 1.31 does not reduce over negative axes: the shape is wrong.
        signed = [a - x.rank if not b.zero and c.chance(40) else a for a in axes]
        if as_input:
            inputs.append(b.ints(signed))
        else:
            attributes["axes"] = signed
    if not keep or c.chance(50):
        attributes["keepdims"] = int(keep)
    grown = {
        "Sum": count**0.5,
        "L1": count,
        "L2": count**0.5,
        "SumSquare": count,
        "LogSum": 2.0,
        "LogSumExp": 2.0 + x.amp,
    }
    amp = x.amp * grown.get(kind, 1.0)
    grain = x.grain if kind in ("Max", "Min") else None
    if kind == "Sum" and x.grain is not None:
        amp, grain = x.amp * count, x.grain
    b.push(
        b.op(
            "Reduce" + kind,
            inputs,
            tuple(shape),
            amp=min(amp, 3.4**8) if kind != "Prod" else 1.5**4,
            grain=grain,
            **attributes,
        )
    )


@step(lambda x: x.dtype == "f" and bool(static_axes(x)), weight=1)
def cumsum(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    size = x.shape[axis]
    assert isinstance(size, int)
    at = b.const(np.array(axis if c.chance(60) else axis - x.rank, np.int64))
    flags: dict[str, Any] = {"exclusive": 1} if c.chance(25) else {}
    if c.chance(25):
        flags["reverse"] = 1
    b.push(b.op("CumSum", [x, at], x.shape, amp=x.amp * size, grain=x.grain, **flags))


@step(lambda x: x.dtype == "f" and bool(static_axes(x)), weight=1)
def top_k(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    size = x.shape[axis]
    assert isinstance(size, int)
    k = c.between(1, size)
    shape = tuple(k if i == axis else d for i, d in enumerate(x.shape))
    # The indices of ties would depend on rounding: only the values are used.
    values, _ = b.multi("TopK", [x, b.ints([k])], [shape, shape], axis=axis, largest=int(not c.chance(40)))
    b.infos.pop()
    b.push(values)


@step(lambda x: x.dtype == "f" and x.exact and x.rank >= 2 and bool(static_axes(x)), weight=1)
def arg_max(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    keep = c.chance(60)
    shape = tuple(1 if i == axis else d for i, d in enumerate(x.shape) if keep or i != axis)
    op = c.pick(["ArgMax", "ArgMin"])
    b.push(b.op(op, [x], shape, dtype="i", amp=8.0, grain=0, axis=axis, keepdims=int(keep)))
