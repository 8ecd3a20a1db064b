"""Operators that onnxruntime's optimizer writes: activations with a bias, contractions with an activation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies.builder import Builder, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.contractions import SIZES, divisors, window
from tests.strategies.steps.guards import small
from tests.strategies.steps.registry import is_image, is_rows, step
from tests.strategies.weights import bias, weight

MICROSOFT = "com.microsoft"
ACTIVATIONS: list[tuple[str, list[float]]] = [
    ("Relu", []),
    ("Tanh", []),
    ("Sigmoid", []),
    ("LeakyRelu", [0.25]),
    ("Clip", [-0.5, 1.5]),
    ("HardSigmoid", [0.25, 0.5]),
]


@step(is_rows, weight=2)
def fused_gelu(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Gelu", "QuickGelu", "FastGelu", "BiasGelu", "FastGelu"])
    inputs: list[Value | str] = [x]
    width = x.shape[-1]
    assert isinstance(width, int)
    if op == "BiasGelu" or (op == "FastGelu" and c.chance(60)):
        inputs.append(bias(b, c, [width]))
    b.push(b.op(op, inputs, x.shape, amp=x.amp + 1, domain=MICROSOFT))


@step(is_image, weight=3)
def fused_conv(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    attributes, sizes = window(c, [d for d in x.shape[2:] if isinstance(d, int)])
    group = c.pick([1, 1, channels, c.pick(divisors(channels))])
    out = group * c.between(1, 2) if group > 1 else c.pick(SIZES)
    shape = (x.shape[0], out, *sizes)
    fan_in = int(np.prod([channels // group, *attributes["kernel_shape"]]))
    w = weight(b, c, [out, channels // group, *attributes["kernel_shape"]], out_axis=0, in_axis=1, fan_in=fan_in)
    inputs: list[Value | str] = [x, w]
    name, parameters = c.pick(ACTIVATIONS)
    if c.chance(70):
        inputs.append(b.const(c.rng.standard_normal(out) * (c.rng.random(out) < 0.6), prefix="b"))
    if c.chance(40):
        others = [v for v in b.pool if v.shape == shape and v.dtype == "f"]
        if others:
            inputs += [""] if len(inputs) == 2 else []
            inputs.append(c.pick(others))
    y = b.op(
        "FusedConv",
        inputs,
        shape,
        amp=x.amp + max([v.amp for v in inputs if isinstance(v, Value)]) + 1,
        domain=MICROSOFT,
        group=group if group > 1 else None,
        activation=name,
        activation_params=parameters or None,
        **attributes,
    )
    b.push(y)


@step(lambda x: is_rows(x) and x.rank == 2, weight=2)
def fused_gemm(b: Builder, c: Choices, x: Value) -> None:
    width = x.shape[1]
    assert isinstance(width, int)
    out, turned = c.pick(SIZES), c.chance(60)
    w = weight(
        b,
        c,
        [out, width] if turned else [width, out],
        out_axis=0 if turned else 1,
        in_axis=1 if turned else 0,
        fan_in=width,
    )
    name, parameters = c.pick(ACTIVATIONS[:4])
    attributes: dict[str, Any] = {"transB": 1} if turned else {}
    if parameters:
        attributes["activation_alpha"] = parameters[0]
    if c.chance(30):
        attributes |= {"alpha": 0.5, "beta": c.pick([1.0, 0.5])}
    inputs: list[Value | str] = [x, w]
    if c.chance(70):
        inputs.append(bias(b, c, [out]))
    b.push(b.op("FusedGemm", inputs, (x.shape[0], out), amp=x.amp + 2, domain=MICROSOFT, activation=name, **attributes))


@step(lambda x: is_rows(x) and x.rank >= 3, weight=2)
def fused_matmul(b: Builder, c: Choices, x: Value) -> None:
    width = x.shape[-1]
    assert isinstance(width, int)
    if c.chance(50):
        out, turned = c.pick(SIZES), c.chance(50)
        shape = [out, width] if turned else [width, out]
        w = weight(b, c, shape, out_axis=0 if turned else 1, in_axis=1 if turned else 0, fan_in=width)
        y = b.op(
            "FusedMatMul", [x, w], (*x.shape[:-1], out), amp=x.amp + 1, domain=MICROSOFT, transB=int(turned), alpha=0.5
        )
        b.push(y)
        return
    b.not_at_zero("a product of two values over an empty batch")
    rows = x.shape[-2]
    if not isinstance(rows, int):
        raise InapplicableError("the product would have the batch in the middle")
    others = [v for v in b.candidates(is_rows) if v.shape == x.shape]
    x, y = small(b, x), small(b, c.pick(others))
    way = c.pick(["columns", "rows"])
    attributes: dict[str, Any]
    if way == "columns":
        attributes, shape, terms = {"transB": 1}, (*x.shape[:-1], rows), width
    else:
        attributes, shape, terms = {"transA": 1}, (*x.shape[:-2], width, width), rows
    alpha = 1.0 / max(terms, 1)
    z = b.op("FusedMatMul", [x, y], shape, domain=MICROSOFT, alpha=alpha, amp=x.amp * y.amp, **attributes)
    b.push(z)
