"""Sizes of zero in computed shapes copy another size: whatever the model then answers stays its answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.errors import ModelError
from graphopt.facts.stats import stats
from tests.ops.net import Net, Operand, dead

SIZES = (0, 1, 2, 3)


class Shaped(Net):
    """A net whose shapes are computed from those of its input `x: [batch, time, 6]`."""

    def __init__(self, allowzero: int = 0, opset: int = 18) -> None:
        super().__init__(opset)
        self.allowzero: dict[str, Any] = {"allowzero": allowzero} if opset >= 14 else {}
        self.x = self.input("x", "batch", "time", 6)
        self.sizes = {
            name: self("Gather", self("Shape", self.x), [axis], axis=0) for name, axis in (("batch", 0), ("time", 1))
        }

    def reshape(self, value: str, *entries: int | str | tuple[int, str]) -> str:
        """A reshape; `(4, "batch")` is four times the batch."""
        parts: list[Operand] = []
        for entry in entries:
            if isinstance(entry, tuple):
                parts.append(self("Mul", self.sizes[entry[1]], [entry[0]]))
            else:
                parts.append(self.sizes[entry] if isinstance(entry, str) else [entry])
        return self("Reshape", value, self("Concat", *parts, axis=0), **self.allowzero)

    def linear(self, value: str, rows: int, columns: int, gone: Sequence[int] = (), axis: int = 1) -> str:
        """A product with a weight that has zeros."""
        return self("MatMul", value, dead(self.normal(rows, columns), axis, gone))


def merged(allowzero: int = 0, opset: int = 18, gone: Sequence[int] = (2, 3, 8, 9)) -> onnx.ModelProto:
    """Two axes of heads (2, 3) become one in front of time; of no sequences of no steps, time becomes 3."""
    net = Shaped(allowzero, opset)
    y = net("Relu", net.linear(net.x, 6, 12))
    y = net("Sigmoid", net("Transpose", net.reshape(y, "batch", "time", 2, 3, 2), perm=[0, 2, 3, 1, 4]))
    y = net("Sigmoid", net.reshape(y, "batch", 6, "time", 2))
    y = net.reshape(net("Transpose", y, perm=[0, 2, 1, 3]), "batch", "time", 12)
    return net.model(net.linear(y, 12, 5, gone, axis=0))


def annotated() -> onnx.ModelProto:
    """An old opset, for which shapes are only known where the model says them."""
    proto = merged(opset=8)
    reshapes = [node.output[0] for node in proto.graph.node if node.op_type in ("Reshape", "Transpose", "Sigmoid")]
    shapes = [("batch", "time", 2, 3, 2), *[("batch", 2, 3, "time", 2)] * 2, *[("batch", 6, "time", 2)] * 2]
    shapes += [("batch", "time", 6, 2), ("batch", "time", 12)]
    for name, shape in zip(reshapes, shapes, strict=True):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return proto


def rest(named: bool = False, gone: Sequence[int] = (1, 3, 5, 7)) -> onnx.ModelProto:
    """Batch and heads become one; of no steps, time becomes 4, and what is left for the last axis is nothing."""
    net = Shaped()
    y = net("Relu", net.linear(net.x, 6, 8))
    y = net("Sigmoid", net("Transpose", net.reshape(y, "batch", "time", 4, 2), perm=[0, 2, 1, 3]))
    y = net("Sigmoid", net.reshape(y, (4, "batch"), "time", 2 if named else -1))
    y = net("Transpose", net.reshape(y, "batch", 4, "time", 2), perm=[0, 2, 1, 3])
    return net.model(net.linear(net.reshape(y, "batch", "time", 8), 8, 5, gone, axis=0))


def turned(gone: Sequence[int] = (1, 2)) -> onnx.ModelProto:
    """Time comes where three channels were."""
    net = Shaped()
    y = net("Transpose", net("Relu", net.linear(net.x, 6, 3)), perm=[0, 2, 1])
    y = net("Sigmoid", net.reshape(y, "batch", 1, 3, "time"))
    y = net("Sigmoid", net.reshape(y, "batch", 3, "time"))
    return net.model(net.linear(net("Transpose", y, perm=[0, 2, 1]), 3, 5, gone, axis=0))


def first(number: int = 4) -> onnx.ModelProto:
    """Channels come first, and steps where they were: the first size, too, may be copied."""
    net = Shaped()
    y = net("Sigmoid", net("Transpose", net("Relu", net.linear(net.x, 6, number)), perm=[2, 0, 1]))
    y = net("Sigmoid", net.reshape(y, "time", number, "batch"))
    y = net("Sigmoid", net.reshape(y, number, "batch", "time"))
    return net.model(net.linear(net("Transpose", y, perm=[1, 2, 0]), number, 5, (1,), axis=0))


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], int | None]] = {
    # 6x8 and 8x5 are left, and the entries of shapes
    "merged": (merged, 108),
    "merged, zero means zero": (lambda: merged(1), 108),
    "merged, an old opset": (annotated, 108),
    "merged, a near miss": (lambda: merged(gone=(2, 8, 9)), None),
    "rest": (rest, None),
    "rest, a number": (lambda: rest(True), None),
    "rest, a near miss": (lambda: rest(gone=(1, 3, 5)), None),
    "turned": (turned, None),
    "first": (first, None),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", ["smallest", "fastest"])
def test_what_is_copied_stays_what_it_was(name: str, plan: str) -> None:
    build, most = MODELS[name]
    proto = build()
    result = graphopt.optimize(proto, plan=plan, measure=False)  # type: ignore[arg-type]
    original = runtime.session(models.load(proto), optimize=False)
    candidate = runtime.session(result.model, optimize=False)
    compared = 0
    for batch, time in itertools.product(SIZES, SIZES):
        feeds = {"x": np.ones((batch, time, 6), np.float32)}
        try:
            expected = runtime.run(original, feeds)
        except ModelError:
            continue
        (found,) = runtime.run(candidate, feeds)
        assert found.shape == expected[0].shape, (batch, time)
        np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared >= 10
    if most is not None and plan == "smallest":
        assert stats(result.model).parameters <= most
