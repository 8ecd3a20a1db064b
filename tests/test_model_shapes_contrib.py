"""Types and shapes behind onnxruntime's own operators: as onnxruntime computes them, with a symbolic batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import dims
from graphopt import model as models
from graphopt.model_shapes_contrib import MICROSOFT, TABLE
from tests.ops.net import Net
from tests.strategies.check import session
from tests.strategies.graphs import feeds

ONE, SCALE = np.float32(1), np.float32(0.05)
ZERO = np.uint8(3)


def _bytes(net: Net, *shape: int) -> np.ndarray:
    return net.rng.integers(0, 255, shape).astype(np.uint8)


def _quantized(net: Net, *shape: int | str) -> str:
    return net("QuantizeLinear", net.input("x", *shape), SCALE, ZERO)


def _elementwise(net: Net) -> list[str]:
    x = net.input("x", "N", 3, 8)
    bias = net.normal(8)
    names = [net(op, x, domain=MICROSOFT) for op in ("Gelu", "QuickGelu")]
    names += [net(op, x, bias, domain=MICROSOFT) for op in ("BiasGelu", "FastGelu")]
    return names


def _normalizations(net: Net) -> list[str]:
    x = net.input("x", "N", 3, 8)
    names = net.many("SkipLayerNormalization", x, x, net.normal(8), "", net.normal(8), outputs=4, domain=MICROSOFT)
    simplified = net.many("SkipSimplifiedLayerNormalization", x, x, net.normal(8), outputs=4, domain=MICROSOFT)
    plain = net("SimplifiedLayerNormalization", x, net.normal(8), axis=-1, epsilon=1e-5, stash_type=1)
    return [names[0], names[3], simplified[0], simplified[3], plain]


def _contractions(net: Net) -> list[str]:
    x, t = net.input("x", "N", 3, 8), net.input("t", "N", 8, 5)
    image, flat = net.input("image", "N", 3, 9, 7), net.input("flat", "N", 8)
    w = net.normal(5, 3, 3, 2)
    first = net("FusedConv", image, w, net.normal(5), domain=MICROSOFT, activation="Relu", strides=[2, 1])
    again = net("MaxPool", first, kernel_shape=[2, 2])
    again = net(
        "FusedConv", again, net.normal(4, 5, 1, 1), domain=MICROSOFT, activation="LeakyRelu", activation_params=[0.1]
    )
    return [
        again,
        net("FusedGemm", flat, net.normal(5, 8), net.normal(5), domain=MICROSOFT, transB=1, activation="Relu"),
        net("FusedMatMul", x, t, domain=MICROSOFT, alpha=0.5),
        net("FusedMatMul", x, net.normal(5, 8), domain=MICROSOFT, transB=1),
        net("FusedMatMul", t, net.normal(8, 5), domain=MICROSOFT, transA=1),
        net("FusedMatMul", t, x, domain=MICROSOFT, transA=1, transB=1),
        net("FusedMatMul", x, net("Relu", net.normal(5, 8)), domain=MICROSOFT, transB=1),
    ]


def _packed(net: Net) -> list[str]:
    x = net.input("x", "N", 3, 32)
    data, scales = _bytes(net, 5, 2, 8), net.normal(10)
    return [net("MatMulNBits", x, data, scales, domain=MICROSOFT, K=32, N=5, bits=4, block_size=16)]


def _dynamically_quantized(net: Net) -> list[str]:
    x = net.input("x", "N", 3, 8)
    q, scale, zero = net.many("DynamicQuantizeLinear", x, outputs=3)
    w = _bytes(net, 8, 5)
    return [
        net("DynamicQuantizeMatMul", x, w, SCALE, ZERO, domain=MICROSOFT),
        net("MatMulIntegerToFloat", q, w, scale, SCALE, zero, ZERO, domain=MICROSOFT),
    ]


def _quantized_elementwise(net: Net) -> list[str]:
    q = _quantized(net, "N", 3, 8)
    qs = [q, SCALE, ZERO]
    return [
        net("QLinearAdd", *qs, *qs, ONE, ZERO, domain=MICROSOFT),
        net("QLinearMul", *qs, _bytes(net, 8), SCALE, ZERO, ONE, ZERO, domain=MICROSOFT),
        net("QLinearSigmoid", *qs, ONE, ZERO, domain=MICROSOFT),
        net("QLinearLeakyRelu", *qs, ONE, ZERO, domain=MICROSOFT, alpha=0.1),
        net("QLinearSoftmax", *qs, ONE, ZERO, domain=MICROSOFT, axis=-1, opset=13),
        net("QLinearConcat", ONE, ZERO, *qs, *qs, domain=MICROSOFT, axis=1),
        net("DequantizeLinear", q, SCALE, ZERO, domain=MICROSOFT),
        net("QuantizeLinear", net("Relu", "x"), SCALE, np.int8(0), domain=MICROSOFT),
        net("QLinearWhere", net("Greater", "x", 0.0), *qs, *qs, ONE, ZERO, domain=MICROSOFT),
    ]


def _quantized_images(net: Net) -> list[str]:
    q = _quantized(net, "N", 3, 9, 7)
    qs = [q, SCALE, ZERO]
    last = net("Transpose", q, perm=[0, 2, 3, 1])
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}
    w = _bytes(net, 5, 3, 3, 2)
    return [
        net("QLinearGlobalAveragePool", *qs, ONE, ZERO, domain=MICROSOFT),
        net("QLinearAveragePool", *qs, ONE, ZERO, domain=MICROSOFT, **window),
        net("QLinearAveragePool", last, SCALE, ZERO, ONE, ZERO, domain=MICROSOFT, channels_last=1, **window),
        net("NhwcMaxPool", last, domain=MICROSOFT, **window),
        net("QLinearConv", last, SCALE, ZERO, w, SCALE, ZERO, ONE, ZERO, domain=MICROSOFT, channels_last=1, **window),
    ]


def _quantized_products(net: Net) -> list[str]:
    q = _quantized(net, "N", 8)
    w = [_bytes(net, 5, 8), SCALE, ZERO]
    bias = np.arange(5).astype(np.int32)
    return [
        net("QGemm", q, SCALE, ZERO, *w, bias, ONE, ZERO, domain=MICROSOFT, transB=1),
        net("QGemm", q, SCALE, ZERO, *w, bias, domain=MICROSOFT, transB=1),
        net("QGemm", q, SCALE, ZERO, *w, domain=MICROSOFT, transB=1),
    ]


def _attention(net: Net) -> list[str]:
    x, packed = net.input("x", "N", 3, 32), net.input("packed", "N", 3, 64)
    keys = net.input("keys", "N", 3, 16)
    lengths = net("Cast", net("ReduceSum", net("Mul", x, 0.0), [1, 2], keepdims=0), to=6)
    lengths, total = net("Add", lengths, np.int32(2)), np.int32(3)
    pos = np.zeros(1, np.int64)
    caches = [net.normal(7, 4), net.normal(7, 4)]
    shared: dict[str, Any] = {"domain": MICROSOFT, "num_heads": 4, "kv_num_heads": 2}
    past = net.input("past", "N", 2, 5, 8)
    flat: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2}
    four = net("Transpose", net("Reshape", x, [0, 0, 4, 8]), perm=[0, 2, 1, 3])
    sizes: dict[str, Any] = {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 10]}
    return [
        net("RotaryEmbedding", x, pos, *caches, domain=MICROSOFT),
        net("RotaryEmbedding", four, pos, *caches, domain=MICROSOFT),
        net("GroupQueryAttention", x, keys, keys, "", "", lengths, total, **shared),
        *net.many("GroupQueryAttention", packed, "", "", "", "", lengths, total, outputs=3, **shared),
        *net.many("GroupQueryAttention", x, keys, keys, "", "", lengths, total, outputs=3, **shared),
        net("Attention", x, net.normal(32, 24), net.normal(24), domain=MICROSOFT, num_heads=2),
        net("Attention", x, net("Relu", net.normal(32, 24)), net.normal(24), domain=MICROSOFT, num_heads=2),
        net("Attention", x, net.normal(32, 18), net.normal(18), domain=MICROSOFT, **sizes),
        *net.many("Attention", x, keys, keys, "", past, past, outputs=3, **flat),
        *net.many("Attention", x, keys, keys, outputs=3, **flat),
        *net.many("Attention", four, past, past, "", past, past, outputs=3),
    ]


@pytest.mark.parametrize(
    "build",
    [
        _attention,
        _elementwise,
        _normalizations,
        _contractions,
        _packed,
        _dynamically_quantized,
        _quantized_elementwise,
        _quantized_images,
        _quantized_products,
    ],
)
def test_shapes_are_those_of_the_runtime(build: Callable[[Net], list[str]]) -> None:
    net = Net(opset=23)
    names = build(net)
    proto = net.model(*names)
    for output in proto.graph.output:
        output.ClearField("type")
    model = models.load(proto)
    models.infer_shapes(model)
    found = {out.name: (out.dtype, dims.sizes(out)) for node in model.graph for out in node.outputs}
    for output in proto.graph.output:  # types that onnxruntime finds by itself
        output.ClearField("type")
    for batch in (1, 5):
        for name, array in zip(names, session(proto).run(None, feeds(proto, batch)), strict=True):
            dtype, sizes = found[name]
            assert dtype == ir.DataType.from_numpy(np.asarray(array).dtype), name
            assert sizes is not None, name
            shape = np.asarray(array).shape
            expected = [batch if size == "N" else size for size in sizes]
            if "groupquery" in name:  # how long a cache is, a number says that is an input
                expected = [size or actual for size, actual in zip(expected, shape, strict=True)]
            assert tuple(expected) == shape, name


def test_every_row_can_be_read() -> None:
    assert all(domain in ("", MICROSOFT) for domain, _ in TABLE)


def test_a_stand_in_that_does_not_fit_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, (MICROSOFT, "QuickGelu"), "o0 = MatMul(i0, i0)")
    net = Net()
    x = net.input("x", "N", 3, 8)
    known, unknown = net("Gelu", x, domain=MICROSOFT), net("QuickGelu", x, domain=MICROSOFT)
    model = models.load(net.model(known, unknown))
    models.infer_shapes(model)
    found = {out.name: dims.sizes(out) for node in model.graph for out in node.outputs}
    assert found[known] == ("N", 3, 8)


def test_in_subgraphs_too() -> None:
    net = Net()
    inner = Net(seed=1)
    gelu = inner("Gelu", "x", domain=MICROSOFT)
    body = inner.model(gelu).graph
    x, choice = net.input("x", "N", 3, 8), net("Greater", net("ReduceSum", "x", keepdims=0), 0.0)
    result = net("If", choice, then_branch=body, else_branch=body)
    proto = net.model(result)
    proto.opset_import.add(domain=MICROSOFT, version=1)
    model = models.load(proto)
    models.infer_shapes(model)
    assert dims.sizes(model.graph.outputs[0]) == ("N", 3, 8), x
