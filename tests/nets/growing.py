"""Graphs of any length, each with another structure that could make a pass look at everything for everything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.ops.net import Net, dead

CHANNELS = 8


def _filters(net: Net, inputs: int = CHANNELS) -> np.ndarray:
    """Weights (8, inputs, 1, 1), half of the filters dead."""
    gone = net.rng.permutation(CHANNELS)[: CHANNELS // 2]
    return dead(net.normal(CHANNELS, inputs, 1, 1) * 0.3, 0, list(gone))


def chain(nodes: int) -> onnx.ModelProto:
    """Masked convolutions, batch norms and activations in a row."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    for _ in range(nodes // 4):
        numbers = net.normal(CHANNELS)
        y = net("BatchNormalization", y, numbers, numbers, numbers, np.abs(numbers))
        mask = dead(np.ones((CHANNELS, 1, 1, 1), np.float32), 0, list(net.rng.permutation(CHANNELS)[: CHANNELS // 2]))
        y = net("Conv", net("Relu", y), net("Mul", net.normal(CHANNELS, CHANNELS, 1, 1), mask), net.normal(CHANNELS))
    return net.model(net("Conv", y, net.normal(2, CHANNELS, 1, 1)))


def stream(nodes: int) -> onnx.ModelProto:
    """One residual stream that every block reads and adds to."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    for _ in range(nodes // 4):
        z = net("Conv", net("Relu", net("Conv", y, _filters(net))), _filters(net))
        y = net("Add", y, z)
    return net.model(net("Conv", y, net.normal(2, CHANNELS, 1, 1)))


def fan(nodes: int) -> onnx.ModelProto:
    """One value that very many layers read, weights that they share, and a tree of sums."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    shared = _filters(net)
    name = net.constant(shared)
    parts = [net("Relu", net("Conv", y, name if i % 2 else _filters(net))) for i in range(nodes // 3)]
    while len(parts) > 1:
        left = parts[len(parts) // 2 * 2 :]
        parts = [net("Add", a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + left
    return net.model(net("Conv", parts[0], net.normal(2, CHANNELS, 1, 1)))


def movers(nodes: int) -> onnx.ModelProto:
    """Channels that are cut apart, put together, turned and turned back."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    for _ in range(nodes // 7):
        a, b = net.many("Split", y, [3, 5], outputs=2, axis=1)
        y = net("Concat", b, net("Relu", a), axis=1)
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 3, 1]), [0, 16, CHANNELS])
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1]), [0, CHANNELS, 4, 4])
        y = net("Conv", y, _filters(net))
    return net.model(net("Conv", y, net.normal(2, CHANNELS, 1, 1)))


def views(nodes: int) -> onnx.ModelProto:
    """The same numbers turned and reshaped again and again: in a quantized model all of them have one scale."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    for _ in range(nodes // 4):
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 3, 1]), [0, 16, CHANNELS])
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1]), [0, CHANNELS, 4, 4])
    return net.model(net("Conv", y, net.normal(2, CHANNELS, 1, 1)))


def joined(nodes: int) -> onnx.ModelProto:
    """Products of one value and one weight, all of them, put together by one Concat."""
    net = Net()
    y = net("MatMul", net.input("x", "N", 3), dead(net.normal(3, CHANNELS), 1, [1, 4, 5]))
    shared = net.constant(dead(net.normal(CHANNELS, CHANNELS), 1, [0, 2, 5]))
    parts = [net("MatMul", net("Mul", y, net.normal(1)), shared) for _ in range(nodes // 2)]
    return net.model(net("MatMul", net("Concat", *parts, axis=1), net.normal(CHANNELS * len(parts), 2)))


def bodies(nodes: int) -> onnx.ModelProto:
    """Branches in a row that read weights and values outside of them."""
    net = Net()
    flag, y = net.input("flag", dtype="b"), net("Conv", net.input("x", "N", 3, 4, 4), _filters(net, 3))
    for number in range(nodes // 5):
        branches = {}
        for branch, op in (("then", "Relu"), ("else", "Abs")):
            name = f"{branch}{number}"
            out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CHANNELS, 4, 4])
            inside = [
                helper.make_node("Conv", [y, net.constant(_filters(net))], [f"{name}_conv"], name=f"{name}_conv"),
                helper.make_node(op, [f"{name}_conv"], [name], name=name),
            ]
            branches[f"{branch}_branch"] = helper.make_graph(inside, name, [], [out])
        y = net("If", flag, **branches)
    return net.model(net("Conv", y, net.normal(2, CHANNELS, 1, 1)))


GROWING: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "stream": stream,
    "fan": fan,
    "movers": movers,
    "views": views,
    "joined": joined,
    "bodies": bodies,
}
"""By name: called with about how many nodes."""
