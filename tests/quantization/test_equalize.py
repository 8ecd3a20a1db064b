"""Factors move between layers: the function stays the same to the bit, and only where something is gained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphopt
from graphopt import model as models
from graphopt import registry, runtime
from graphopt.errors import UsageError
from graphopt.passes.quantize.equalize import Equalize
from graphopt.quantization.rescale import rescaled
from graphopt.quantization.scaling import scaling
from tests.ops.net import Net, Operand
from tests.quantization.smooth import context_of, evened, skew

WIDTH = 7
Between = Callable[[Net, str], str]


def uneven(between: Between, *, width: int = WIDTH, before: str = "Conv", after: str = "Conv") -> onnx.ModelProto:
    """Two layers whose weights are a thousandfold apart from channel to channel, and something between them."""
    net = Net()
    factors = skew(net.rng, width)
    if before == "Conv":
        x = net.input("x", "N", 3, 6, 6)
        y = net("Conv", x, net.normal(width, 3, 1, 1) * factors.reshape(-1, 1, 1, 1), net.normal(width) * factors)
    else:
        x = net.input("x", "N", 5, 3)
        y = net("Add", net("MatMul", x, net.normal(3, width) * factors), net.normal(width) * factors)
    y = between(net, y)
    if after == "Conv":
        return net.model(net("Conv", y, net.normal(4, width, 1, 1) / factors.reshape(1, -1, 1, 1), net.normal(4)))
    return net.model(net("Gemm" if after == "Gemm" else "MatMul", y, net.normal(width, 4) / factors.reshape(-1, 1)))


def through(op: str, *operands: Operand, **attributes: Any) -> Between:
    return lambda net, y: net(op, y, *operands, **attributes)


def _depthwise(net: Net, y: str) -> str:
    return net("Relu", net("Conv", net("Relu", y), net.normal(WIDTH, 1, 3, 3), net.normal(WIDTH), group=WIDTH))


def _heads(net: Net, y: str) -> str:
    """Attention over [N, 5, 6]: the probabilities come from elsewhere."""
    p = net("Softmax", net.input("p", "N", 2, 5, 5))
    v = net("Transpose", net("Reshape", y, [0, 5, 2, 3]), perm=[0, 2, 1, 3])
    return net("Reshape", net("Transpose", net("MatMul", p, v), perm=[0, 2, 1, 3]), [0, 5, 6])


def _cut_and_joined(net: Net, y: str) -> str:
    a, b = net.many("Split", y, np.array([3, 4]), outputs=2, axis=1)
    return net("Concat", net("Relu", a), net("LeakyRelu", b, alpha=0.25), axis=1)


CROSSED = {
    "nothing": through("Identity"),
    "relu": through("Relu"),
    "leaky": through("LeakyRelu", alpha=0.1),
    "prelu": through("PRelu", np.linspace(0, 0.5, WIDTH, dtype=np.float32).reshape(-1, 1, 1)),
    "clip at zero": through("Clip", np.float32(0)),
    "abs": through("Abs"),
    "max pool": through("MaxPool", kernel_shape=[2, 2]),
    "average pool": through("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "global": through("GlobalAveragePool"),
    "mean of pixels": through("ReduceMean", [2, 3]),
    "constant": through("Add", np.arange(1, WIDTH + 1, dtype=np.float32).reshape(-1, 1, 1)),
    "factors": through("Mul", np.arange(1, WIDTH + 1, dtype=np.float32).reshape(-1, 1, 1)),
    "one factor": through("Mul", np.float32(0.3)),
    "zeros around": through("Pad", [0, 0, 1, 1, 0, 0, 1, 1]),
    "resize": through("Resize", np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="linear"),
    "turned twice": lambda net, y: net("Transpose", net("Transpose", y, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]),
    "a part": lambda net, y: net("Concat", net("Slice", y, [0], [2], [1]), net("Slice", y, [2], [7], [1]), axis=1),
    "cut and joined": _cut_and_joined,
    "depthwise": _depthwise,
}


@pytest.mark.parametrize("name", CROSSED)
def test_factors_cross(name: str) -> None:
    assert evened(uneven(CROSSED[name]), Equalize())


@pytest.mark.parametrize(("before", "after"), [("MatMul", "MatMul"), ("MatMul", "Gemm"), ("Conv", "Gemm")])
def test_factors_cross_products(before: str, after: str) -> None:
    between = through("Relu")
    if after == "Gemm":
        # Both kinds of layers meet behind the mean over pixels or over the sequence.
        axes = [2, 3] if before == "Conv" else [1]
        between = lambda net, y: net("ReduceMean", net("Relu", y), axes, keepdims=0)  # noqa: E731
    assert evened(uneven(between, before=before, after=after), Equalize())


def test_heads_keep_their_factors_apart() -> None:
    assert evened(uneven(_heads, width=6, before="MatMul", after="MatMul"), Equalize())


def _flat(net: Net, y: str) -> str:
    return net("Flatten", net("GlobalMaxPool", y))


def test_flattened_channels() -> None:
    assert evened(uneven(_flat, after="Gemm"), Equalize())


def test_groups_and_transposed() -> None:
    net = Net()
    f, g = skew(net.rng, 6), skew(net.rng, 4)
    y = net("Conv", net.input("x", "N", 2, 5, 5), net.normal(6, 1, 3, 3) * f.reshape(-1, 1, 1, 1), group=2)
    y = net("Conv", net("Relu", y), net.normal(4, 3, 1, 1) / f.reshape(2, 1, 3, 1, 1).repeat(2, 1).reshape(4, 3, 1, 1)
            * g.reshape(-1, 1, 1, 1), group=2)  # fmt: skip
    y = net("ConvTranspose", net("Relu", y), net.normal(4, 3, 2, 2) / g.reshape(-1, 1, 1, 1), net.normal(6), group=2)
    y = net("Conv", net("Relu", y), net.normal(2, 6, 1, 1))
    assert evened(net.model(y), Equalize())


def _also(op: str, **attributes: Any) -> Between:
    """The value has another reader, which would see the factors."""
    return lambda net, y: net("Add", net("Relu", y), net(op, y, **attributes))


STOPPED = {
    "relu6": through("Clip", np.float32(0), np.float32(6)),
    "clip below": through("Clip", np.float32(-1)),
    "sigmoid": through("Sigmoid"),
    "tanh": through("Tanh"),
    "hard swish": through("HardSwish"),
    "softplus": through("Softplus"),
    "another reader": _also("Tanh"),
    "sum over channels": lambda net, y: net("Sub", y, net("ReduceMean", y, [1])),
    "softmax": through("Softmax", axis=1),
    "one number added": through("Add", np.float32(0.5)),
    "ones around": through("Pad", [0, 0, 1, 1, 0, 0, 1, 1], np.float32(1)),
    "an input added": lambda net, y: net("Add", y, net.input("z", "N", WIDTH, 6, 6)),
    "squared": lambda net, y: net("Mul", y, y),
    "divisor": lambda net, y: net("Div", net.input("z", "N", WIDTH, 6, 6), y),
    "normalized": lambda net, y: net("InstanceNormalization", y, net.normal(WIDTH), net.normal(WIDTH)),
    "half precision": lambda net, y: net("Cast", net("Cast", y, to=10), to=1),
    "nan": through("Add", np.full((WIDTH, 1, 1), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", STOPPED)
def test_factors_stop(name: str) -> None:
    assert not evened(uneven(STOPPED[name]), Equalize(), sizes=() if name == "nan" else (1, 5))


def test_a_graph_output_keeps_its_numbers() -> None:
    net = Net()
    f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 6), net.normal(WIDTH, 3, 1, 1) * f))
    z = net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1))
    assert not evened(net.model(z, y), Equalize())


@pytest.mark.parametrize("which", ["before", "after"])
def test_a_shared_weight_stays(which: str) -> None:
    net = Net()
    f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
    x = net.input("x", "N", 3, 6, 6)
    w = net.constant(net.normal(WIDTH, 3, 1, 1) * f)
    v = net.constant(net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1))
    y = net("Conv", net("Relu", net("Conv", x, w)), v)
    again = net("Conv", net("Abs", x), w) if which == "before" else net("Conv", net.input("z", "N", WIDTH, 6, 6), v)
    assert not evened(net.model(y, again), Equalize())


def test_a_weight_that_the_caller_may_override_stays() -> None:
    net = Net()
    f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
    w = net.default("w", net.normal(WIDTH, 3, 1, 1) * f)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 6), w))
    assert not evened(net.model(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1))), Equalize())


def test_nan_and_infinity_in_a_weight() -> None:
    for bad in (np.nan, np.inf):
        net = Net()
        f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
        w = net.normal(WIDTH, 3, 1, 1) * f
        w[2, 1] = bad
        y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 6), w))
        model = net.model(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1)))
        assert not Equalize().run(context_of(model))


def test_a_bias_that_is_computed_holds_the_factors_back() -> None:
    net = Net()
    f = skew(net.rng, WIDTH)
    bias = net("Abs", net.input("b", WIDTH))
    y = net("Conv", net.input("x", "N", 3, 6, 6), net.normal(WIDTH, 3, 1, 1) * f.reshape(-1, 1, 1, 1), bias)
    assert not evened(net.model(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1))), Equalize())


def test_a_bias_that_two_layers_share_becomes_two() -> None:
    net = Net()
    bias = net.constant(net.normal(WIDTH))
    x, outputs = net.input("x", "N", 3, 6, 6), []
    for _ in range(2):
        f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
        y = net("Relu", net("Conv", x, net.normal(WIDTH, 3, 1, 1) * f, bias))
        outputs.append(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1)))
    assert evened(net.model(*outputs), Equalize())


def test_even_layers_are_left_alone() -> None:
    assert not evened(_plain(Net(seed=3), np.ones(32, np.float32)), Equalize())


def _plain(net: Net, factors: np.ndarray) -> onnx.ModelProto:
    n = factors.size
    y = net("Conv", net.input("x", "N", 3, 6, 6), net.normal(n, 3, 3, 3) * factors.reshape(-1, 1, 1, 1))
    return net.model(net("Conv", net("Relu", y), net.normal(5, n, 1, 1) / factors.reshape(1, -1, 1, 1)))


@pytest.mark.parametrize("width", [1, 2, 13])
def test_widths_and_dead_channels(width: int) -> None:
    net = Net()
    factors = skew(net.rng, width)
    rows, columns = net.normal(width, 3, 1, 1) * factors.reshape(-1, 1, 1, 1), net.normal(4, width, 1, 1)
    rows[0], columns[:, -1] = 0, 0
    y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 6), rows))
    evened(net.model(net("Conv", y, columns / factors.reshape(1, -1, 1, 1))), Equalize())


def test_a_weight_at_the_edge_of_the_numbers_is_not_rounded() -> None:
    net = Net()
    f = np.array([2.0**-120, 1, 4, 2.0**100], np.float32)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 2, 2), net.normal(4, 3, 1, 1) * f.reshape(-1, 1, 1, 1)))
    model = net.model(net("Conv", y, (net.normal(3, 4, 1, 1) / f.reshape(1, -1, 1, 1)).astype(np.float32)))
    context = context_of(model)
    Equalize(gain=0).run(context)
    for value in context.model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(1)
        assert np.isfinite(array).all() and (np.abs(array[array != 0]) >= np.finfo(np.float32).tiny).all()
    x = {"x": np.ones((2, 3, 2, 2), np.float32)}
    before, after = (runtime.run(runtime.session(m), x)[0] for m in (models.load(model), context.model))
    np.testing.assert_array_equal(before, after)


def test_large_weights_are_changed_when_they_are_read() -> None:
    net = Net()
    f = skew(net.rng, 300)
    y = net("Relu", net("MatMul", net.input("x", "N", 300), net.normal(300, 300) * f))
    model = net.model(net("MatMul", y, net.normal(300, 300) / f.reshape(-1, 1)))
    context = context_of(model)
    assert evened(model, Equalize(), context, sizes=(0, 3))
    held = [value.const_value for value in context.model.graph.initializers.values()]
    assert len(held) == 2 and all(type(tensor).__name__ == "LazyTensor" for tensor in held)


def test_any_factors_keep_the_function_up_to_rounding() -> None:
    model = uneven(CROSSED["depthwise"])
    context = context_of(model)
    assert Equalize(exact=False).run(context)
    x = {"x": np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)}
    before, after = (runtime.run(runtime.session(m), x)[0] for m in (models.load(model), context.model))
    np.testing.assert_allclose(after, before, rtol=0, atol=4e-6 * np.abs(before).max())


def test_options() -> None:
    assert registry.parse("equalize{gain=3,exact=false}") == [Equalize(exact=False, gain=3.0)]
    for text in ("equalize{gain=-1}", "equalize{gian=1}"):
        with pytest.raises(UsageError):
            registry.parse(text)


def residual(nonlinear: str = "Relu") -> onnx.ModelProto:
    """A stream that two layers write and two read, with uneven channels."""
    net = Net()
    f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
    y = net("Conv", net.input("x", "N", 3, 6, 6), net.normal(WIDTH, 3, 1, 1) * f)
    inner = net(nonlinear, net("Conv", y, net.normal(5, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1)))
    y = net("Add", y, net("Conv", inner, net.normal(WIDTH, 5, 1, 1) * f, net.normal(WIDTH)))
    return net.model(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1)))


def test_a_residual_stream_is_one() -> None:
    found = scaling(context_of(residual()).facts())
    first, inner, second, last = (found.roots[layer.out].ravel() for layer in found.layers)
    assert (first == second).all() and np.unique(first).size == WIDTH
    assert not np.intersect1d(first, inner).size and not last.any()
    assert evened(residual(), Equalize())


def test_a_residual_stream_around_anything() -> None:
    assert evened(residual("Tanh"), Equalize())


def test_a_residual_stream_with_one_reader_too_many() -> None:
    net = Net()
    f = skew(net.rng, WIDTH).reshape(-1, 1, 1, 1)
    y = net("Conv", net.input("x", "N", 3, 6, 6), net.normal(WIDTH, 3, 1, 1) * f)
    y = net("Add", y, net("Sigmoid", y))
    assert not evened(net.model(net("Conv", y, net.normal(4, WIDTH, 1, 1) / f.reshape(1, -1, 1, 1))), Equalize())


# Random chains: whatever the operators, the widths and the order.

STEPS: list[Between] = [
    through("Relu"),
    through("LeakyRelu", alpha=0.5),
    through("Tanh"),
    through("Clip", np.float32(0), np.float32(6)),
    through("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    through("GlobalAveragePool"),
    through("Mul", np.float32(-2)),
    lambda net, y: net("Add", y, net("Abs", y)),
    lambda net, y: net("Concat", y, net("Neg", y), axis=1),
    lambda net, y: net("Slice", y, [0], [3], [1]),
    lambda net, y: net("Sub", y, net("ReduceMean", y, [2, 3])),
    lambda net, y: net("Sub", y, net("ReduceMax", y, [1])),
]


@given(st.lists(st.tuples(st.sampled_from(range(len(STEPS))), st.integers(3, 9), st.integers(0, 2)), max_size=5))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_random_chains_keep_their_function(steps: list[tuple[int, int, int]]) -> None:
    net = Net(seed=len(steps))
    y, channels = net.input("x", "N", 3, 4, 4), 3
    for number, width, kind in steps:
        f = skew(net.rng, width).reshape(-1, 1, 1, 1)
        y = net("Conv", y, net.normal(width, channels, 1, 1) * f, net.normal(width))
        y = STEPS[number](net, y)
        channels = {8: 2 * width, 9: 3}.get(number, width)
        if kind == 1:
            y = net("Conv", y, net.normal(channels, 1, 1, 1), group=channels)
        if kind == 2:
            y = net("Add", y, net("Conv", net("Relu", y), net.normal(channels, channels, 1, 1)))
    evened(net.model(net("Conv", y, net.normal(2, channels, 1, 1))), Equalize(gain=0.1), sizes=(2,))


# What it is for: one scale for a weight, channels that are far apart.


def separable(net: Net, octaves: float) -> onnx.ModelProto:
    """A chain of depthwise separable blocks; ``octaves``: how far apart their channels are."""
    y, width = net.input("x", "N", 3, 12, 12), 16
    before = 3
    undo = np.ones((1, 3, 1, 1), np.float32)
    for _ in range(3):
        f, g = (np.exp2(octaves * net.rng.standard_normal(width)).astype(np.float32) for _ in range(2))
        expand = net.rng.standard_normal((width, before, 1, 1)).astype(np.float32) / before**0.5 * undo
        y = net("Relu", net("Conv", y, expand * f.reshape(-1, 1, 1, 1), 0.1 * net.normal(width) * f))
        filters = net.rng.standard_normal((width, 1, 3, 3)).astype(np.float32) / 3 * (g / f).reshape(-1, 1, 1, 1)
        y = net("Relu", net("Conv", y, filters, 0.1 * net.normal(width) * g, group=width, pads=[1, 1, 1, 1]))
        undo, before = 1 / g.reshape(1, -1, 1, 1), width
    y = net("Conv", y, net.rng.standard_normal((8, width, 1, 1)).astype(np.float32) * undo)
    return net.model(y)


def sqnr(proto: onnx.ModelProto, recover: str, **options: Any) -> float:
    """Output SQNR on other data than that of the calibration, in decibels."""
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((16, 3, 12, 12)).astype(np.float32)} for _ in range(3)]
    result = graphopt.quantize(proto, batches[:2], recover=recover, measure=False, verify=False, **options)
    exact, found = (runtime.run(runtime.session(m), batches[2])[0] for m in (models.load(proto), result.model))
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def test_uneven_channels_with_one_scale_gain_many_decibels() -> None:
    model = separable(Net(seed=1), 2.0)
    without, with_it = (sqnr(model, text, per_channel=False, everything=True) for text in ("", "equalize"))
    even = sqnr(separable(Net(seed=1), 0.0), "", per_channel=False, everything=True)
    assert without < even - 20 and with_it > even - 3, (without, with_it, even)


@pytest.mark.parametrize("octaves", [0.0, 2.0])
def test_nothing_changes_where_rows_have_scales_of_their_own(octaves: float) -> None:
    model = separable(Net(seed=1), octaves)
    assert sqnr(model, "equalize", everything=True) == sqnr(model, "", everything=True)


def test_what_does_not_help_is_undone() -> None:
    context = context_of(
        separable(Net(seed=1), 0.0), [{"x": np.ones((4, 3, 12, 12), np.float32)}], per_channel=False, everything=True
    )
    before = models.serialize(context.model)
    found = scaling(context.facts())
    worse = np.rint(4 * np.random.default_rng(0).standard_normal(found.classes))
    assert rescaled(context, found, worse) == 0
    assert models.serialize(context.model) == before
