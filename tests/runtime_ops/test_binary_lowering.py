"""Layers that multiply signs by signs become binary operators, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.passes.lower.lower_binary import LowerBinary
from graphopt.verify import Reference
from tests.ops.net import Net

ONE, MINUS, ZERO = (np.array(number, np.float32) for number in (1, -1, 0))


def lowered(proto: onnx.ModelProto, *, asked: bool = True, finite: bool = True, **options: Any) -> list[str]:
    """Run the pass, prove the result equal, and return the operators that are left."""
    model = models.load(proto)
    models.infer_shapes(model)
    context = Context(model, Constants(), target="cpu", assume_finite=finite)
    context.runtime_operators = asked
    changed = LowerBinary(**options).run(context)
    left = [node.op_type for node in context.model.graph]
    if changed and not options.get("sign"):
        assert Reference(proto).compare(context.model).passed
        assert not LowerBinary(**options).run(context)
    return left


def sign(net: Net, x: Any) -> Any:
    return net("Where", net("Greater", x, ZERO), ONE, MINUS)


def signs(net: Net, *shape: int) -> np.ndarray:
    return np.where(net.normal(*shape) > 0, 1, -1).astype(np.float32)


def scaled(net: Net, *shape: int) -> np.ndarray:
    """Weights of one size a filter."""
    return signs(net, *shape) * np.abs(net.normal(shape[0])).astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))


def test_a_convolution_of_signs() -> None:
    net = Net()
    x = net.input("x", "N", 40, 7, 7)
    y = net("Conv", sign(net, x), scaled(net, 6, 40, 3, 3), net.normal(6), pads=[1, 0, 1, 2], strides=[2, 1])
    assert lowered(net.model(y)) == ["BinaryConv"]


def test_groups_and_other_ways_to_write_a_sign() -> None:
    net = Net()
    x = net.input("x", "N", 64, 5, 5)
    ones = net("Cast", net("Less", ZERO, x), to=int(ir.DataType.FLOAT))
    y = net("Sub", net("Mul", ones, np.array(2, np.float32)), ONE)
    y = net("Conv", y, scaled(net, 6, 32, 3, 3), group=2)
    assert lowered(net.model(y)) == ["BinaryConv"]


def test_another_condition_stays_and_its_result_is_read() -> None:
    net = Net()
    x = net.input("x", "N", 40)
    y = net("Where", net("Greater", x, np.array(0.5, np.float32)), MINUS, ONE)
    y = net("MatMul", y, scaled(net, 9, 40).T.copy())
    assert lowered(net.model(y)) == ["Greater", "Where", "BinaryGemm"]


def test_between_binary_layers_is_a_threshold() -> None:
    net = Net()
    x = net.input("x", "N", 40, 6, 6)
    y = net("Conv", sign(net, x), scaled(net, 33, 40, 3, 3), net.normal(33), pads=[1, 1, 1, 1])
    y = net("Conv", sign(net, y), scaled(net, 35, 33, 3, 3), net.normal(35))
    assert lowered(net.model(y)) == ["BinaryConvSign", "BinaryConv"]


def test_a_sum_that_someone_else_reads_stays_a_number() -> None:
    net = Net()
    x = net.input("x", "N", 40)
    y = net("Gemm", sign(net, x), scaled(net, 33, 40), net.normal(33), transB=1)
    z = net("Gemm", sign(net, y), scaled(net, 5, 33), net.normal(5), transB=1)
    assert lowered(net.model(y, z)) == ["BinaryGemm", "BinaryGemm"]


def test_a_sign_that_someone_else_reads_stays() -> None:
    net = Net()
    x = net.input("x", "N", 40)
    y = sign(net, net("Gemm", sign(net, x), scaled(net, 33, 40), net.normal(33), transB=1))
    z = net("Gemm", y, scaled(net, 5, 33), transB=1)
    assert lowered(net.model(net("Neg", y), z)) == ["BinaryGemm", "Greater", "Where", "BinaryGemm", "Neg"]


def test_what_is_not_binary_stays() -> None:
    """Each with one change: a weight that is 0, two sizes in a filter, values that are 1 and 0, few channels."""
    for change in ("zero", "size", "values", "few", "not asked", "nothing"):
        net = Net()
        x = net.input("x", "N", 3 if change == "few" else 40, 5, 5)
        weight = scaled(net, 6, 3 if change == "few" else 40, 3, 3)
        weight[3, 2, 1, 1] *= {"zero": 0, "size": 2}.get(change, 1)
        low = ZERO if change == "values" else MINUS
        y = net("Conv", net("Where", net("Greater", x, ZERO), ONE, low), weight)
        left = lowered(net.model(y), asked=change != "not asked")
        assert left[-1] == ("BinaryConv" if change == "nothing" else "Conv"), change


def test_sign_is_0_at_0_and_counts_only_if_told() -> None:
    net = Net()
    x = net.input("x", "N", 40)
    y = net("MatMul", net("Sign", x), scaled(net, 9, 40).T.copy())
    assert lowered(net.model(y)) == ["Sign", "MatMul"]
    assert lowered(net.model(y), sign=True) == ["BinaryGemm"]


def test_sizes_0_and_1() -> None:
    """One pixel, one filter; batches of 0 and 1 are drawn by the comparison."""
    net = Net()
    x = net.input("x", "N", 32, 1, 1)
    y = net("Conv", sign(net, x), scaled(net, 1, 32, 1, 1))
    assert lowered(net.model(y)) == ["BinaryConv"]


def between(function: str, *operands: Any, finite: bool = True, **attributes: Any) -> list[str]:
    """What is left of two layers with a function between them."""
    net = Net()
    x = net.input("x", "N", 40, 5, 5)
    y = net("Conv", sign(net, x), scaled(net, 33, 40, 3, 3), net.normal(33), pads=[1, 1, 1, 1])
    y = net(function, y, *(np.array(one, np.float32) for one in operands), **attributes)
    return lowered(net.model(net("Conv", sign(net, y), scaled(net, 7, 33, 1, 1))), finite=finite)


def test_what_keeps_signs_is_read_through() -> None:
    slopes = np.linspace(0, 1, 33).reshape(33, 1, 1)
    for function, operands in (("Clip", (-1, 1)), ("Clip", (0, 6)), ("Relu", ()), ("Tanh", ()), ("PRelu", (slopes,))):
        assert between(function, *operands) == ["BinaryConvSign", "BinaryConv"], function
    assert between("LeakyRelu", alpha=0.25) == ["BinaryConvSign", "BinaryConv"]


def test_what_does_not_keep_signs_is_not() -> None:
    """Each moves the border, or turns a side round."""
    slopes = np.linspace(-0.1, 1, 33).reshape(33, 1, 1)
    for function, operands in (("Clip", (0.5, 1)), ("Clip", (-1, 0)), ("PRelu", (slopes,)), ("Abs", ()), ("Neg", ())):
        assert between(function, *operands) == ["BinaryConv", function, "BinaryConv"], function
    assert between("LeakyRelu", alpha=-0.25) == ["BinaryConv", "LeakyRelu", "BinaryConv"]


def test_what_a_clip_makes_of_nan_is_not_guessed() -> None:
    assert between("Clip", -1, 1, finite=False) == ["BinaryConv", "Clip", "BinaryConv"]


def test_a_clip_that_others_read_stays_and_the_layer_reads_what_is_in_front_of_it() -> None:
    """A residual net: the stream is clipped, added to, and its sign is convolved."""
    net = Net()
    x = net.input("x", "N", 40, 5, 5)
    y = net("Clip", x, MINUS, ONE)
    z = net("Conv", sign(net, y), scaled(net, 40, 40, 3, 3), net.normal(40), pads=[1, 1, 1, 1])
    assert lowered(net.model(net("Add", y, z))) == ["Clip", "BinaryConv", "Add"]


def pooled(norm: bool, change: str = "", pool: str = "MaxPool", groups: int = 1) -> onnx.ModelProto:
    """A convolution, a max pool, a batch-norm (a third of its factors below 0, one 0), and two that read the signs."""
    net = Net()
    x = net.input("x", "N", 40, 7, 7)
    y = net("Conv", sign(net, x), scaled(net, 66, 40, 3, 3), net.normal(66), pads=[1, 1, 1, 1])
    if change == "clipped":
        y = net("Clip", y, MINUS, ONE)
    y = net(pool, y, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    if norm:
        gamma = net.normal(66)
        gamma[::3] = -np.abs(gamma[::3])
        gamma[5] = 0
        around = [gamma, net.normal(66), net.normal(66), np.abs(net.normal(66)) + 0.1]
        y = net("BatchNormalization", y, *(np.asarray(one, np.float32) for one in around))
    outputs = [y] if change == "read" else []
    y = sign(net, net("Clip", y, MINUS, ONE))
    z = net("Conv", y, scaled(net, 8, 66 // groups, 3, 3), pads=[1, 1, 1, 1], group=groups)
    w = net("Conv", y, scaled(net, 7, 66, 1, 1)) if change != "other" else net("Neg", y)
    return net.model(z, w, *outputs)


def test_a_max_pool_between_binary_convolutions_is_one_of_int8() -> None:
    """Sums of 40 * 9 signs often meet a threshold: also those of channels that are turned round."""
    for norm in (False, True):
        for change in ("", "clipped") if not norm else ("",):
            for groups in (1, 2):
                left = lowered(pooled(norm, change, groups=groups))
                assert left == ["BinaryConvSign", "MaxPool", "BinaryConv", "BinaryConv"], (norm, change, groups)


def test_other_pools_and_what_others_read_stay() -> None:
    """Each with one change: a mean, a clip in front of the norm, a reader of the norm, a reader of the signs."""
    for change, pool in (("", "AveragePool"), ("clipped", "MaxPool"), ("read", "MaxPool"), ("other", "MaxPool")):
        assert "BinaryConvSign" not in lowered(pooled(True, change, pool)), (change, pool)


def test_a_threshold_behind_a_pool_is_met_exactly() -> None:
    """``-m + k > 0`` and ``m - k > 0`` for the integers that a maximum takes, and a factor of 0."""
    for k in range(-4, 5):
        net = Net()
        x = net.input("x", "N", 4, 3, 3)
        y = net("Conv", sign(net, x), signs(net, 3, 4, 1, 1))
        y = net("MaxPool", y, kernel_shape=[2, 2])
        gamma, beta = np.array([1, -1, 0], np.float32), np.array([-k, k, k], np.float32)
        y = net("BatchNormalization", y, gamma, beta, np.zeros(3, np.float32), np.ones(3, np.float32), epsilon=0.0)
        y = net("Conv", sign(net, y), signs(net, 5, 3, 1, 1))
        assert lowered(net.model(y), least=1) == ["BinaryConvSign", "MaxPool", "BinaryConv"]


def test_a_filter_of_zeros_has_the_scale_0() -> None:
    """A batch-norm with a factor of 0 leaves one; a layer of nothing else is no binary layer."""
    for dead in ([2], range(6)):
        net = Net()
        x = net.input("x", "N", 40, 5, 5)
        weight = scaled(net, 6, 40, 3, 3)
        weight[list(dead)] = 0
        y = net("Conv", sign(net, x), weight, net.normal(6))
        y = net("Conv", sign(net, y), scaled(net, 3, 6, 1, 1))
        first = "BinaryConvSign" if len(dead) == 1 else "Conv"
        assert [one for one in lowered(net.model(y), least=6) if "Conv" in one] == [first, "BinaryConv"]
