"""The micro graphs: one per operator and kind of mask, and the traps where ``f(0)`` is not 0.

Every graph has the batch axis ``N``; ``static`` gives it a size. Seven channels, of which 1, 4 and 6 are dead in one
of these ways, stand in front of the operator in question, and something that could be narrowed stands behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.ops.net import Net, dead

ALIVE = np.array([1, 0, 1, 1, 0, 1, 0], np.float32)
DEAD = [1, 4, 6]
KINDS = ("zeros", "weight mask", "where", "activation mask", "zero scale", "masked bias", "constants")
"""How the channels die; those of the last one keep a bias, so they are constants that are not zero."""


@dataclass(frozen=True)
class Row:
    """One micro graph: what the table calls it, and how it is built with a symbolic batch ``N``."""

    name: str
    build: Callable[[], onnx.ModelProto]


def static(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same model for one batch size: every symbolic axis of its inputs gets it."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    del inferred.graph.value_info[:]
    return inferred


# -- layers with dead channels ----------------------------------------------------------------------------------------


def convolved(net: Net, x: str, kind: str = "zeros", channels: int = 3, k: int = 1, alive: np.ndarray = ALIVE) -> str:
    """A convolution to ``alive.size`` channels whose others are dead in the given way."""
    n = alive.size
    gone = np.flatnonzero(alive == 0)
    w, pads = net.normal(n, channels, k, k), [k // 2] * 4
    column = alive.reshape(n, 1, 1, 1)
    if kind == "zeros":
        return net("Conv", x, dead(w, 0, gone), pads=pads)
    if kind == "weight mask":
        return net("Conv", x, net("Mul", w, column), pads=pads)
    if kind == "where":
        return net("Conv", x, net("Where", column.astype(bool), w, 0.0), pads=pads)
    if kind == "activation mask":
        return net("Mul", net("Conv", x, w, net.normal(n), pads=pads), alive.reshape(1, n, 1, 1))
    if kind == "zero scale":
        y = net("Conv", x, w, pads=pads)
        spread = np.abs(net.normal(n))
        return net("BatchNormalization", y, net.normal(n) * alive, net.normal(n) * alive, net.normal(n), spread)
    if kind == "masked bias":
        return net("Conv", x, net("Mul", w, column), net("Mul", net.normal(n), alive), pads=pads)
    return net("Conv", x, dead(w, 0, gone), net.normal(n), pads=pads)


def connected(net: Net, x: str, kind: str = "zeros", features: int = 3) -> str:
    """A matrix product to seven features of which three are dead."""
    w = net.normal(features, 7)
    if kind == "zeros":
        return net("MatMul", x, w * ALIVE)
    if kind == "activation mask":
        return net("Mul", net("MatMul", x, w), ALIVE)
    if kind == "constants":
        return net("Add", net("MatMul", x, w * ALIVE), net.normal(7))
    return net("MatMul", x, net("Mul", w, ALIVE.reshape(1, 7)))


def image(net: Net, channels: int = 3) -> str:
    """An input of (N, channels, 6, 5)."""
    return net.input("x", "N", channels, 6, 5)


def head(net: Net, y: str, channels: int = 7, k: int = 1) -> onnx.ModelProto:
    """A convolution to two channels at the end."""
    return net.model(net("Conv", y, net.normal(2, channels, k, k), net.normal(2), pads=[k // 2] * 4))


# -- rows -------------------------------------------------------------------------------------------------------------


def _elementwise(op: str, kind: str, k: int, opset: int = 18, **attributes: float) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        return head(net, net(op, convolved(net, image(net), kind), **attributes), k=k)

    return build


def _conv_after(kind: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        return head(net, net("Relu", convolved(net, image(net), kind, k=3)), k=3)

    return build


def _gemm(kind: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", connected(net, net.input("x", "N", 3), kind))
        return net.model(net("Gemm", y, net.normal(7, 2), net.normal(2)))

    return build


def _through(*steps: tuple[str, tuple, dict], kind: str = "zeros", channels: int = 7) -> Callable[[], onnx.ModelProto]:
    """Image operators in a row, then a 1x1 convolution."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = convolved(net, image(net), kind)
        for op, operands, attributes in steps:
            y = net(op, y, *operands, **attributes)
        return head(net, y, channels)

    return build


def _residual(first: list[int], second: list[int], kind: str = "zeros") -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        x = image(net)
        alive = [np.array([i not in gone for i in range(7)], np.float32) for gone in (first, second)]
        y = net("Relu", convolved(net, x, kind, alive=alive[0]))
        z = convolved(net, y, kind, channels=7, k=3, alive=alive[1])
        return head(net, net("Relu", net("Add", y, z)), k=3)

    return build


def _from_input() -> onnx.ModelProto:
    net = Net()
    x = image(net, 7)
    return head(net, net("Add", x, convolved(net, x, channels=7)))


def _concat() -> onnx.ModelProto:
    net = Net()
    x = image(net)
    y, z = convolved(net, x), convolved(net, x, "weight mask", alive=np.array([1, 1, 0, 1], np.float32))
    return head(net, net("Relu", net("Concat", y, z, axis=1)), 11, 3)


def _split() -> onnx.ModelProto:
    net = Net()
    parts = net.many("Split", convolved(net, image(net)), [3, 4], outputs=2, axis=1)
    a = net("Conv", parts[0], net.normal(2, 3, 1, 1))
    b = net("Conv", parts[1], net.normal(2, 4, 1, 1))
    return net.model(net("Add", a, b))


def _flatten() -> onnx.ModelProto:
    net = Net()
    y = net("MaxPool", net("Relu", convolved(net, image(net))), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net("Gemm", net("Flatten", y), net.normal(7 * 6, 4), net.normal(4)))


def _reshaped() -> onnx.ModelProto:
    net = Net()
    y = net("Reshape", convolved(net, image(net)), [0, 7, 30])
    y = net("Transpose", y, perm=[0, 2, 1])
    return net.model(net("MatMul", y, net.normal(7, 2)))


def _computed_shape() -> onnx.ModelProto:
    net = Net()
    x = image(net)
    y = convolved(net, x)
    batch = net("Gather", net("Shape", x), [0])
    y = net("Reshape", y, net("Concat", batch, [7, 30], axis=0))
    return net.model(net("Conv", y, net.normal(2, 7, 1)))


def _layout_sandwich() -> onnx.ModelProto:
    net = Net()
    y = net("Transpose", convolved(net, image(net)), perm=[0, 2, 3, 1])
    y = net("Relu", net("Add", y, net.normal(7)))
    return head(net, net("Transpose", y, perm=[0, 3, 1, 2]), k=3)


def _padded(fill: float) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Pad", convolved(net, image(net)), [0, 0, 1, 1, 0, 0, 1, 1], fill, mode="constant")
        return head(net, y)

    return build


def _transposed_conv() -> onnx.ModelProto:
    net = Net()
    y = net("ConvTranspose", net("Relu", convolved(net, image(net))), net.normal(7, 5, 2, 2), strides=[2, 2])
    return head(net, y, 5)


def _depthwise(kind: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", convolved(net, image(net), kind))
        y = net("Conv", y, net.normal(7, 1, 3, 3), net.normal(7), group=7, pads=[1] * 4)
        return head(net, net("Relu", y))

    return build


def _grouped(gone: list[int]) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        alive = np.array([i not in gone for i in range(6)], np.float32)
        y = convolved(net, image(net), alive=alive)
        return head(net, net("Conv", net("Relu", y), net.normal(9, 2, 3, 3), group=3, pads=[1] * 4), 9)

    return build


def _shuffle() -> onnx.ModelProto:
    net = Net()
    y = convolved(net, image(net), alive=np.array([1, 0, 1, 1, 0, 1], np.float32))
    y = net("Reshape", y, [0, 2, 3, 6, 5])
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3, 4]), [0, 6, 6, 5])
    return head(net, y, 6)


def _pixel_shuffle() -> onnx.ModelProto:
    net = Net()
    alive = np.repeat(np.array([1, 0, 1], np.float32), 4)
    y = net("DepthToSpace", convolved(net, image(net), alive=alive), blocksize=2, mode="CRD")
    return head(net, y, 3)


def _squeeze_and_excite() -> onnx.ModelProto:
    net = Net()
    y = net("Relu", convolved(net, image(net)))
    s = net("Conv", net("GlobalAveragePool", y), net.normal(3, 7, 1, 1), net.normal(3))
    s = net("Sigmoid", net("Conv", net("Relu", s), net.normal(7, 3, 1, 1), net.normal(7)))
    return head(net, net("Mul", y, s), k=3)


def _mean_then_gemm() -> onnx.ModelProto:
    net = Net()
    y = net("ReduceMean", net("Relu", convolved(net, image(net), "constants")), [2, 3], keepdims=0)
    return net.model(net("Gemm", y, net.normal(7, 2), net.normal(2)))


def _feature_mean() -> onnx.ModelProto:
    net = Net()
    y = net("ReduceMean", convolved(net, image(net)), [1], keepdims=1)
    return net.model(net("Mul", y, 2.0))


def _layer_norm() -> onnx.ModelProto:
    net = Net()
    y = connected(net, net.input("x", "N", 4, 3), "zeros")
    y = net("LayerNormalization", y, net.normal(7), net.normal(7), axis=-1)
    return net.model(net("MatMul", y, net.normal(7, 2)))


def _layer_norm_scale() -> onnx.ModelProto:
    net = Net()
    y = net("MatMul", net.input("x", "N", 4, 3), net.normal(3, 7))
    y = net("LayerNormalization", y, net.normal(7) * ALIVE, net.normal(7), axis=-1)
    return net.model(net("MatMul", y, net.normal(7, 2)))


def _rms_norm() -> onnx.ModelProto:
    net = Net()
    y = connected(net, net.input("x", "N", 4, 3), "weight mask")
    mean = net("ReduceMean", net("Mul", y, y), [-1], keepdims=1)
    y = net("Mul", net("Div", y, net("Sqrt", net("Add", mean, 1e-6))), net.normal(7))
    return net.model(net("MatMul", y, net.normal(7, 2)))


def _statistics(op: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(21)
        alive = np.array([1, 1, 0, 0, 1, 1], np.float32)
        y = convolved(net, image(net), alive=alive)
        more = {"num_groups": 3} if op == "GroupNormalization" else {}
        return head(net, net(op, y, net.normal(6), net.normal(6) * alive, **more), 6)

    return build


def _attention(value_alone: bool) -> Callable[[], onnx.ModelProto]:
    """Two heads of three features; head 1 is dead, in all of its projections or in the value's alone."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 4, 6)
        alive = np.repeat(np.array([1, 0], np.float32), 3)

        def heads(masked: bool) -> str:
            y = net("MatMul", x, net.normal(6, 6) * (alive if masked else 1))
            return net("Transpose", net("Reshape", y, [0, 4, 2, 3]), perm=[0, 2, 1, 3])

        q, k, v = heads(not value_alone), heads(not value_alone), heads(True)
        scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), 0.577)
        y = net("Transpose", net("MatMul", net("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        return net.model(net("MatMul", net("Reshape", y, [0, 4, 6]), net.normal(6, 5)))

    return build


def _query_key_features() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", "N", 4, 6)
    alive = np.tile(np.array([1, 0, 1], np.float32), 2)

    def heads(mask: np.ndarray | float) -> str:
        y = net("MatMul", x, net.normal(6, 6) * mask)
        return net("Transpose", net("Reshape", y, [0, 4, 2, 3]), perm=[0, 2, 1, 3])

    q, k, v = heads(alive), heads(1.0), heads(1.0)
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    y = net("Transpose", net("MatMul", net("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.model(net("MatMul", net("Reshape", y, [0, 4, 6]), net.normal(6, 5)))


def _grouped_query() -> onnx.ModelProto:
    """Four query heads of two features share two key and value heads; the query heads 2 and 3 are not read."""
    net = Net()
    x = net.input("x", "N", 4, 6)

    def heads(number: int) -> str:
        y = net("Reshape", net("MatMul", x, net.normal(6, 2 * number)), [0, 4, number, 2])
        return net("Transpose", y, perm=[0, 2, 1, 3])

    def repeated(y: str) -> str:
        y = net("Expand", net("Unsqueeze", y, [2]), [1, 2, 2, 4, 2])
        return net("Reshape", y, [0, 4, 4, 2])

    q, k, v = heads(4), repeated(heads(2)), repeated(heads(2))
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    y = net("Transpose", net("MatMul", net("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.model(net("MatMul", net("Reshape", y, [0, 4, 8]), dead(net.normal(8, 5), 0, [4, 5, 6, 7])))


def _gated() -> onnx.ModelProto:
    """SwiGLU: a unit is dead where the gate or the up projection is."""
    net = Net()
    x = net.input("x", "N", 4, 3)
    gate, up = connected(net, x, "zeros"), net("MatMul", x, net.normal(3, 7))
    return net.model(net("MatMul", net("Mul", net("Mul", gate, net("Sigmoid", gate)), up), net.normal(7, 3)))


def _lstm(op: str, gates: int) -> Callable[[], onnx.ModelProto]:
    """Hidden units 1 and 3 of 5 have zero weights and biases in all gates; the first state is zero."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net("Transpose", net.input("x", "N", 4, 3), perm=[1, 0, 2])
        gone = [5 * gate + unit for gate in range(gates) for unit in (1, 3)]
        w, r = dead(net.normal(1, 5 * gates, 3), 1, gone), dead(net.normal(1, 5 * gates, 5), 1, gone)
        bias = np.zeros((1, 10 * gates), np.float32)
        y = net.many(op, x, w, r, bias, outputs=2, hidden_size=5)[0]
        return net.model(net("MatMul", net("Squeeze", y, [1]), net.normal(5, 2)))

    return build


def _input_of_lstm() -> onnx.ModelProto:
    net = Net()
    x = net("Transpose", connected(net, net.input("x", "N", 4, 3), "weight mask"), perm=[1, 0, 2])
    y = net.many("LSTM", x, net.normal(1, 20, 7), net.normal(1, 20, 5), outputs=2, hidden_size=5)[0]
    return net.model(net("MatMul", net("Squeeze", y, [1]), net.normal(5, 2)))


def _dequantized_weight() -> onnx.ModelProto:
    net = Net()
    w = dead(net.rng.integers(1, 100, (7, 3, 1, 1)).astype(np.int8), 0, DEAD)
    scale = (np.abs(net.normal(7)) / 100).astype(np.float32)
    y = net("Conv", image(net), net("DequantizeLinear", w, scale, np.zeros(7, np.int8), axis=0))
    return head(net, net("Relu", y), k=3)


def _quantized_values() -> onnx.ModelProto:
    net = Net()
    y = net("Relu", convolved(net, image(net)))
    scale, zero = np.float32(0.02), np.uint8(3)
    y = net("DequantizeLinear", net("QuantizeLinear", y, scale, zero), scale, zero)
    return head(net, y)


def _if_body() -> onnx.ModelProto:
    """Both branches are convolutions with dead filters, over a value from outside that has dead channels too."""
    net = Net()
    y = convolved(net, image(net))

    def branch(name: str) -> onnx.GraphProto:
        weights = onnx.numpy_helper.from_array(dead(net.normal(4, 7, 1, 1), 0, [2]), f"{name}_w")
        node = helper.make_node("Conv", [y, f"{name}_w"], [f"{name}_y"], name=f"{name}_conv")
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 4, 6, 5])
        return helper.make_graph([node], name, [], [result], [weights])

    gate = net.input("gate_c", dtype="b")
    chosen = net("If", gate, then_branch=branch("then"), else_branch=branch("other"))
    return head(net, chosen, 4)


def _embedding() -> onnx.ModelProto:
    net = Net()
    y = net("Gather", dead(net.normal(11, 7), 1, DEAD), net.input("ids", "N", 4, dtype="i"))
    return net.model(net("MatMul", net("Relu", y), net.normal(7, 2)))


def _einsum() -> onnx.ModelProto:
    net = Net()
    y = connected(net, net.input("x", "N", 4, 3))
    return net.model(net("Einsum", y, net.normal(7, 2), equation="bti,io->bto"))


def _half() -> onnx.ModelProto:
    net = Net()
    y = net("Cast", image(net), to=TensorProto.FLOAT16)
    y = net("Conv", y, dead(net.normal(7, 3, 1, 1), 0, DEAD).astype(np.float16))
    y = net("Conv", net("Relu", y), net.normal(2, 7, 1, 1).astype(np.float16))
    return net.model(net("Cast", y, to=TensorProto.FLOAT))


def _at_the_output(bias: bool) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(convolved(net, image(net), "constants" if bias else "zeros", channels=3, k=3))

    return build


def _unread() -> onnx.ModelProto:
    net = Net()
    y = net("Relu", net("Conv", image(net), net.normal(7, 3, 3, 3), net.normal(7), pads=[1] * 4))
    return net.model(net("Conv", y, dead(net.normal(2, 7, 3, 3), 1, DEAD), pads=[1] * 4))


def _dead_network() -> onnx.ModelProto:
    net = Net()
    y = net("Gemm", net.input("x", "N", 3), np.zeros((3, 5), np.float32), net.normal(5))
    return net.model(net("Gemm", net("Sigmoid", y), net.normal(5, 2), net.normal(2)))


def _softmax_over_channels() -> onnx.ModelProto:
    net = Net()
    return head(net, net("Softmax", convolved(net, image(net)), axis=1))


def _arg_max() -> onnx.ModelProto:
    net = Net()
    y = convolved(net, image(net), "weight mask")
    return net.model(net("Cast", net("ArgMax", y, axis=1, keepdims=1), to=1))


def _where_of_two() -> onnx.ModelProto:
    net = Net()
    x = image(net)
    y, z = net("Conv", x, net.normal(7, 3, 1, 1)), net("Conv", x, net.normal(7, 3, 1, 1))
    return head(net, net("Where", ALIVE.reshape(1, 7, 1, 1).astype(bool), y, z))


def _product_of_two() -> onnx.ModelProto:
    net = Net()
    x = image(net)
    return head(net, net("Mul", convolved(net, x), convolved(net, x, alive=np.array([0, 1, 1, 1, 1, 1, 1.0]))), k=3)


def _scale() -> tuple[str, tuple, dict]:
    numbers = np.random.default_rng(5).normal(size=(4, 7)).astype(np.float32)
    return "BatchNormalization", (numbers[0], numbers[1], numbers[2], np.abs(numbers[3]) + 0.1), {}


def _prelu() -> tuple[str, tuple, dict]:
    return "PRelu", (np.linspace(0.1, 0.7, 7, dtype=np.float32).reshape(7, 1, 1),), {}


def _resize() -> tuple[str, tuple, dict]:
    return "Resize", ("", np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}


def _pool(op: str, **more: int) -> tuple[str, tuple, dict]:
    return op, (), {"kernel_shape": [3, 3], "pads": [1] * 4, **more}


_UNARY = (
    ("LeakyRelu", {"alpha": 0.2}, 18),
    ("HardSwish", {}, 18),
    ("Gelu", {}, 20),
    ("Tanh", {}, 18),
)
_TRAPS = (
    ("Sigmoid", {}, 18),
    ("Softplus", {}, 18),
    ("Exp", {}, 18),
    ("Cos", {}, 18),
    ("HardSigmoid", {}, 18),
)

ROWS: tuple[Row, ...] = (
    *(Row(f"Conv-Relu-Conv, {kind}", _conv_after(kind)) for kind in KINDS),
    *(Row(f"MatMul-Relu-Gemm, {kind}", _gemm(kind)) for kind in ("zeros", "weight mask", "activation mask")),
    Row("MatMul-Relu-Gemm, constants", _gemm("constants")),
    *(Row(f"{op}, 1x1", _elementwise(op, "zeros", 1, opset, **more)) for op, more, opset in _UNARY),
    *(Row(f"{op}, activation mask", _elementwise(op, "activation mask", 3)) for op in ("Abs", "Elu")),
    *(Row(f"trap: {op}, 1x1", _elementwise(op, "weight mask", 1, opset, **more)) for op, more, opset in _TRAPS),
    *(Row(f"trap: {op}, zero padding", _elementwise(op, "zeros", 3, opset, **more)) for op, more, opset in _TRAPS[:3]),
    Row("trap: bias, zero padding", _elementwise("Identity", "constants", 3)),
    Row("trap: Relu over a bias", _elementwise("Relu", "constants", 1)),
    Row("trap: BatchNormalization shifts", _through(_scale(), ("Relu", (), {}))),
    Row("trap: Pad with 0.5", _padded(0.5)),
    Row("Pad with 0", _padded(0.0)),
    Row("PRelu", _through(_prelu())),
    Row("Clip", _through(("Clip", (0.0, 6.0), {}), kind="where")),
    Row("MaxPool", _through(_pool("MaxPool"))),
    Row("AveragePool", _through(_pool("AveragePool"), kind="activation mask")),
    Row("trap: AveragePool of constants", _through(_pool("AveragePool", count_include_pad=1), kind="constants")),
    Row("GlobalAveragePool", _through(("GlobalAveragePool", (), {}))),
    Row("Resize", _through(_resize())),
    Row("Slice of pixels", _through(("Slice", ([1, 0], [5, 4], [2, 3]), {}))),
    Row("Slice of channels", _through(("Slice", ([1], [6], [1]), {}), channels=5)),
    Row("Gather of channels", _through(("Gather", ([5, 1, 0, 0],), {"axis": 1}), channels=4)),
    Row("residual, equal masks", _residual(DEAD, DEAD)),
    Row("residual, equal masks, weight mask", _residual(DEAD, DEAD, "weight mask")),
    Row("residual, unequal masks", _residual(DEAD, [1, 2, 6])),
    Row("residual, activation masks", _residual([1, 4], [0, 4], "activation mask")),
    Row("residual from the input", _from_input),
    Row("product of two branches", _product_of_two),
    Row("Where of two branches", _where_of_two),
    Row("Concat", _concat),
    Row("Split", _split),
    Row("Flatten-Gemm", _flatten),
    Row("Reshape-Transpose-MatMul", _reshaped),
    Row("Reshape to a computed shape", _computed_shape),
    Row("between two Transposes", _layout_sandwich),
    Row("ConvTranspose", _transposed_conv),
    Row("depthwise", _depthwise("zeros")),
    Row("depthwise, constants", _depthwise("constants")),
    Row("grouped, a group dies", _grouped([2, 3])),
    Row("grouped, equal survivors", _grouped([0, 3, 5])),
    Row("grouped, unequal survivors", _grouped([0, 2, 3])),
    Row("channel shuffle", _shuffle),
    Row("pixel shuffle", _pixel_shuffle),
    Row("squeeze and excite", _squeeze_and_excite),
    Row("mean of pixels, constants", _mean_then_gemm),
    Row("trap: mean of channels", _feature_mean),
    Row("trap: LayerNormalization", _layer_norm),
    Row("LayerNormalization, zero scale", _layer_norm_scale),
    Row("RMS norm", _rms_norm),
    Row("InstanceNormalization", _statistics("InstanceNormalization")),
    Row("GroupNormalization", _statistics("GroupNormalization")),
    Row("attention, dead head", _attention(False)),
    Row("attention, dead value head", _attention(True)),
    Row("attention, dead query features", _query_key_features),
    Row("grouped-query attention", _grouped_query),
    Row("SwiGLU", _gated),
    Row("LSTM, dead units", _lstm("LSTM", 4)),
    Row("GRU, dead units", _lstm("GRU", 3)),
    Row("LSTM, dead inputs", _input_of_lstm),
    Row("dequantized weights", _dequantized_weight),
    Row("quantized values", _quantized_values),
    Row("If", _if_body),
    Row("embedding", _embedding),
    Row("Einsum", _einsum),
    Row("half precision", _half),
    Row("dead at the output", _at_the_output(False)),
    Row("constants at the output", _at_the_output(True)),
    Row("unread channels", _unread),
    Row("dead network", _dead_network),
    Row("trap: Softmax over channels", _softmax_over_channels),
    Row("trap: ArgMax over channels", _arg_max),
)
