"""Pools and global pools."""

from __future__ import annotations

from typing import Any

from tests.strategies.builder import Builder, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import small
from tests.strategies.steps.registry import is_image, step


def _output(size: int, begin: int, end: int, kernel: int, stride: int, dilation: int, ceil: bool) -> int:
    reach = dilation * (kernel - 1) + 1
    room = size + begin + end - reach
    if room < 0:
        raise InapplicableError("the window is larger than the value")
    out = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (out - 1) * stride >= size + begin:
        raise InapplicableError("a window in the padding alone: shape inference and kernels of onnxruntime disagree")
    return out


@step(is_image, weight=5)
def pool(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["MaxPool", "AveragePool", "AveragePool", "MaxPool", "LpPool"])
    spatial = [d for d in x.shape[2:] if isinstance(d, int)]
    auto = c.pick(["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"])
    dilatable = op == "MaxPool" or (op == "AveragePool" and b.opset >= 19) or (op == "LpPool" and b.opset >= 18)
    ceil = c.chance(25) and auto == "NOTSET" and (op != "LpPool" or b.opset >= 18)
    counts = c.chance(40)
    kernel, strides, dilations, begins, ends, sizes = [], [], [], [], [], []
    for size in spatial:
        k, s = min(c.between(1, 3), size), c.pick([1, 2, 1])
        d = c.pick([1, 1, 1, 2]) if dilatable and auto == "NOTSET" and op == "MaxPool" else 1
        if d * (k - 1) + 1 > size:
            d = 1
        begin, end = (c.below(k), c.below(k)) if auto == "NOTSET" and c.chance(60) else (0, 0)
        if auto.startswith("SAME"):
            s = min(s, k)  # onnxruntime would compute negative pads
            out = -(-size // s)
        else:
            out = _output(size, begin, end, k, s, d, ceil)
        row = (k, s, d, begin, end, out)
        for target, number in zip((kernel, strides, dilations, begins, ends, sizes), row, strict=True):
            target.append(number)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif any(begins + ends):
        attributes["pads"] = begins + ends
    if any(d != 1 for d in dilations):
        attributes["dilations"] = dilations
    if ceil:
        attributes["ceil_mode"] = 1
    amp, grain = x.amp, x.grain if op == "MaxPool" else None
    if op == "AveragePool" and counts:
        attributes["count_include_pad"] = 1
    if op == "LpPool":
        attributes["p"] = c.pick([2, 1])
        x = small(b, x)
        amp = x.amp * 3
    b.push(b.op(op, [x], (*x.shape[:2], *sizes), amp=amp, grain=grain, **attributes))


@step(is_image, weight=2)
def global_pool(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
    if op == "GlobalLpPool" and b.opset >= 22:
        raise InapplicableError("not in onnxruntime 1.31")
    amp = x.amp
    attributes: dict[str, Any] = {}
    if op == "GlobalLpPool":
        attributes["p"] = c.pick([2, 1])
        amp = x.amp * 5
    grain = x.grain if op == "GlobalMaxPool" else None
    b.push(b.op(op, [x], (*x.shape[:2], *[1] * (x.rank - 2)), amp=amp, grain=grain, **attributes))
