"""Nets that onnxruntime's own quantizer wrote: what ``optimize --target cuda`` makes runtime operators of."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import graphopt
from graphopt import model as models
from graphopt import runtime
from tests.ops.net import Net
from tests.quantization.nets import cnn
from tests.runtime_ops.running import need_library

SIGNED, UNSIGNED = QuantType.QInt8, QuantType.QUInt8
WAYS: dict[str, dict[str, Any]] = {
    "uint8": {"activation_type": UNSIGNED, "weight_type": SIGNED},
    "uint8, channels, reduced": {
        "activation_type": UNSIGNED, "weight_type": SIGNED, "per_channel": True, "reduce_range": True,
    },
    "int8, channels": {"activation_type": SIGNED, "weight_type": SIGNED, "per_channel": True},
    "int8, symmetric": {
        "activation_type": SIGNED, "weight_type": SIGNED, "extra_options": {"ActivationSymmetric": True},
    },
}  # fmt: skip


def mobile() -> onnx.ModelProto:
    """An inverted bottleneck with ReLU6, its depthwise convolution and its residual; HardSwish behind it."""
    net = Net(opset=20, seed=3)

    def conv(x: str, inputs: int, outputs: int, size: int, group: int = 1) -> str:
        weight = net.normal(outputs, inputs // group, size, size) * np.float32((inputs // group * size * size) ** -0.5)
        return net("Conv", x, weight, net.normal(outputs), pads=[size // 2] * 4, group=group)

    x = conv(net.input("x", "N", 3, 7, 5), 3, 5, 3)
    y = net("Clip", conv(x, 5, 16, 1), 0.0, 6.0)
    y = net("Clip", conv(y, 16, 16, 3, group=16), 0.0, 6.0)
    y = net("HardSwish", net("Add", x, conv(y, 16, 5, 1)))
    return net.model(conv(y, 5, 4, 1))


def tokens() -> onnx.ModelProto:
    """Attention of one head, and two products with biases that are added behind them, each with a residual."""
    net = Net(opset=20, seed=4)
    x = net.input("x", "N", 7, 16)

    def linear(x: str, inputs: int, outputs: int) -> str:
        return net("Add", net("MatMul", x, net.normal(inputs, outputs) * np.float32(inputs**-0.5)), net.normal(outputs))

    q, k, v = (linear(x, 16, 16) for _ in range(3))
    scores = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = net("Add", x, linear(net("MatMul", scores, v), 16, 16))
    y = linear(net("Relu", linear(x, 16, 24)), 24, 16)
    return net.model(net("Add", x, y))


NETS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, int], dict[str, int]]] = {
    "residual": (lambda: cnn(opset=20), {"Int8Conv": 3, "Int8Gemm": 1}, {}),
    "mobile": (mobile, {"Int8Conv": 5}, {}),
    "tokens": (tokens, {"Int8Gemm": 6}, {"MatMul": 2}),
}
"""How to build it, what is lowered, and which products stay: those of two activations."""


class _Some(CalibrationDataReader):
    def __init__(self, shape: list[int]) -> None:
        rng = np.random.default_rng(7)
        self.rest = iter([{"x": rng.normal(size=[4, *shape]).astype(np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return next(self.rest, None)


def quantized(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    before, after = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(proto, before)
    shape = [size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    logging.disable(logging.WARNING)  # it recommends its own preparation
    try:
        quantize_static(before, after, _Some(shape), quant_format=QuantFormat.QDQ, **options)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(after)


@pytest.mark.parametrize(("name", "way"), [
    *(("residual", way) for way in WAYS), *((name, way) for name in ("mobile", "tokens") for way in list(WAYS)[1:3]),
])  # fmt: skip
def test_what_is_lowered(name: str, way: str, tmp_path: Path) -> None:
    """Verified against the net as it was given; kernels and functions agree to the bit, and with onnxruntime's own."""
    build, lowered, stays = NETS[name]
    proto = quantized(build(), tmp_path, **WAYS[way])
    result = graphopt.optimize(proto, target="cuda", measure=False)
    assert result.report.verify is not None and result.report.verify.passed
    assert result.report.operators is not None and dict(result.report.operators.calls) == lowered
    kinds = Counter(node.op_type for node in result.model.graph)
    assert {kind: kinds[kind] for kind in ("Conv", "Gemm", "MatMul") if kinds[kind]} == stays
    need_library()
    sessions = [
        runtime.session(result.model, optimize=False),
        runtime.session(result.model, optimize=False, operators=False),
        runtime.session(result.model, integers=True),
        runtime.session(models.load(proto), integers=True),
    ]
    rng = np.random.default_rng(11)
    for batch in (1, 5):
        shape = [size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
        feeds = {"x": rng.normal(size=[batch, *shape]).astype(np.float32)}
        kernels, functions, ours, theirs = (runtime.run(session, feeds)[0] for session in sessions)
        assert kernels.tobytes() == functions.tobytes()
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("options", "reason"), [
    ({"extra_options": {"QuantizeBias": False}}, "the bias is not of integers in units of both scales (4)"),
    ({"weight_type": UNSIGNED}, "the weights have zero points (4)"),
])  # fmt: skip
def test_what_stays(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    proto = quantized(cnn(opset=20), tmp_path, **WAYS["uint8, channels, reduced"] | options)
    result = graphopt.optimize(proto, target="cuda", measure=False)
    assert result.report.operators is None
    assert any(reason in row.message for row in result.report.warnings)
