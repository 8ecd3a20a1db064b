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


def lowered(proto: onnx.ModelProto, *, asked: bool = True, **options: Any) -> list[str]:
    """Run the pass, prove the result equal, and return the operators that are left."""
    model = models.load(proto)
    models.infer_shapes(model)
    context = Context(model, Constants(), target="cpu")
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
        x = net.input("x", "N", 31 if change == "few" else 40, 5, 5)
        weight = scaled(net, 6, 31 if change == "few" else 40, 3, 3)
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
