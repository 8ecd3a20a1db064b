"""channels-last: which images lie in NHWC, and that not a bit of the result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.context import Context
from graphopt.passes.lower.channels_last import ChannelsLast
from graphopt.passes.lower.lower_int8 import LowerInt8
from graphopt.rounds import Settings
from tests.runtime_ops.test_lower_int8 import STEP, Layers

NHWC_IN, NHWC_OUT, NCHW = [0, 3, 1, 2], [0, 2, 3, 1], [0, 1, 2, 3]


def layer(net: Layers, x: str, channels: int, of: int, add: str | None = None, **attributes: Any) -> str:
    """A quantized convolution, to be lowered; its output through Q and DQ."""
    y = net("Conv", x, net.weight(channels, of, 3, 3), pads=[1] * 4, **attributes)
    return net.dq(net.q(y if add is None else net("Add", y, add)))


def ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes.get_ints(name) or ())


def examine(proto: onnx.ModelProto) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Run the pass, compare bit by bit; return the orders of each convolution and the number of Transposes."""
    context: Context = rounds.prepare(models.load(proto), Settings((), target="cuda", operators=True))
    assert LowerInt8().run(context)
    before = context.model.clone()
    changed = ChannelsLast().run(context)
    models.check(context.model)
    if changed:
        assert not ChannelsLast().run(context)
    rng = np.random.default_rng(2)
    for batch in (1, 3):
        feeds = {
            str(value.name): rng.normal(size=[size if isinstance(size, int) else batch for size in value.shape or ()])
            .astype(np.float32)
            for value in context.model.graph.inputs
        }  # fmt: skip
        for operators in (False, True):
            runs = [runtime.run(runtime.session(m, operators=operators), feeds) for m in (before, context.model)]
            for one, other in zip(*runs, strict=True):
                np.testing.assert_array_equal(one, other)
    nodes = [node for node in context.model.graph if node.domain == "graphopt"]
    orders = [(ints(node, "input_perm"), ints(node, "output_perm")) for node in nodes]
    return orders, sum(node.op_type == "Transpose" for node in context.model.graph)


@pytest.mark.parametrize("height", [7, "H"])
def test_a_chain_is_nhwc_inside(height: int | str) -> None:
    net = Layers()
    x = net.read("x", "N", 3, height, 5)
    x = layer(net, x, 5, 3)
    x = layer(net, x, 4, 5, strides=[2, 1])
    proto = net.model(layer(net, x, 2, 4))
    assert examine(proto) == ([(NCHW, NHWC_OUT), (NHWC_IN, NHWC_OUT), (NHWC_IN, NCHW)], 0)


def test_one_layer_stays() -> None:
    net = Layers()
    assert examine(net.model(layer(net, net.read("x", "N", 3, 7, 5), 5, 3))) == ([(NCHW, NCHW)], 0)


def test_others_read_a_copy() -> None:
    net = Layers()
    first = layer(net, net.read("x", "N", 3, 7, 5), 5, 3)
    pooled = net("MaxPool", first, kernel_shape=[2, 2])
    proto = net.model(layer(net, first, 4, 5), net("Relu", pooled))
    assert examine(proto) == ([(NCHW, NHWC_OUT), (NHWC_IN, NCHW)], 1)


def test_a_block_with_a_residual() -> None:
    """The image of the block comes from elsewhere: the first convolution and the addition share one copy of it."""
    net = Layers()
    x = net.read("x", "N", 4, 6, 6, step=STEP["y"], zero=-3)
    y = layer(net, x, 4, 4)
    y = layer(net, y, 4, 4, add=x)
    y = layer(net, y, 4, 4)
    orders, transposes = examine(net.model(y))
    assert orders == [(NCHW, NHWC_OUT), (NHWC_IN, NHWC_OUT), (NHWC_IN, NCHW)] and transposes == 1


def test_a_residual_of_the_last_layer_comes_back() -> None:
    net = Layers()
    x = layer(net, net.read("x", "N", 3, 6, 6), 4, 3)
    y = layer(net, x, 4, 4)
    orders, transposes = examine(net.model(layer(net, y, 4, 4, add=x)))
    assert orders == [(NCHW, NHWC_OUT), (NHWC_IN, NHWC_OUT), (NHWC_IN, NCHW)] and transposes == 1


def test_an_image_that_several_read_is_transposed_once() -> None:
    net = Layers()
    x = net.read("x", "N", 4, 6, 6)
    ends = [layer(net, layer(net, x, 4, 4), 4, 4) for _ in range(2)]
    orders, transposes = examine(net.model(*ends))
    assert orders == [(NHWC_IN, NHWC_OUT), (NHWC_IN, NCHW)] * 2 and transposes == 1


def test_an_output_of_the_graph_keeps_its_order() -> None:
    net = Layers()
    middle = net.q(net("Conv", net.read("x", "N", 3, 7, 5), net.weight(5, 3, 3, 3), pads=[1] * 4))
    proto = net.model(layer(net, net.dq(middle), 4, 5), middle)
    assert examine(proto) == ([(NCHW, NCHW), (NCHW, NCHW)], 0)


def test_one_axis_stays() -> None:
    net = Layers()
    y = net.read("x", "N", 3, 9)
    for channels, of in ((5, 3), (4, 5)):
        y = net.dq(net.q(net("Conv", y, net.weight(channels, of, 3))))
    assert examine(net.model(y)) == ([([0, 1, 2], [0, 1, 2])] * 2, 0)
