"""Chains of reshapes and transposes: what they amount to, and where that is not certain."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.facts.factors import ONE, Product, product_of, regrouped, total, whole
from graphopt.model_shapes import infer_shapes
from graphopt.passes.tidy.fold_reshapes import FoldReshapes
from graphopt.passes.tidy.select_early import SelectEarly
from graphopt.passes.tidy.split_batches import SplitBatches
from graphopt.registry import Pass
from graphopt.verify import Reference
from tests.ops.net import Net


def after(proto: onnx.ModelProto, *passes: Pass) -> list[str]:
    """Run passes, prove the result equal and the passes finished; the operators that are left."""
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants())
    for item in passes or (FoldReshapes(),):
        item.run(context)
        assert not item.run(context), "twice"
    assert Reference(proto).compare(context.model).passed
    return [node.op_type for node in context.model.graph]


def chain(*steps: list[int] | tuple[int, ...], shape: tuple[int | str, ...] = ("N", 4, 5, 6)) -> onnx.ModelProto:
    """Lists are shapes, tuples are permutations."""
    net = Net()
    y = net.input("x", *shape)
    for step in steps:
        y = net("Transpose", y, perm=list(step)) if isinstance(step, tuple) else net("Reshape", y, step)
    return net.model(net("Relu", y))


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (([-1, 5, 6], (0, 2, 1), [-1, 4, 6, 5]), ["Transpose"]),
        (((0, 2, 1, 3), (0, 2, 1, 3)), []),
        (([-1, 20, 6], [-1, 4, 5, 6]), []),
        (([-1, 4, 30], [-1, 2, 2, 30], [-1, 4, 5, 6]), []),
        (((0, 2, 1, 3), [-1, 5, 24]), ["Transpose", "Reshape"]),
        (((0, 2, 1, 3), [-1, 20, 6]), ["Transpose", "Reshape"]),
        (([-1, 5, 4, 6], (0, 2, 1, 3)), ["Reshape", "Transpose"]),  # no transpose in disguise: it cuts across
        (([-1, 5, 6], (0, 2, 1), [-1, 6, 4, 5]), ["Transpose", "Reshape", "Reshape"]),
    ],
)
def test_chains(steps: tuple[list[int] | tuple[int, ...], ...], left: list[str]) -> None:
    assert after(chain(*steps)) == [*left, "Relu"]


def test_an_output_keeps_its_name() -> None:
    net = Net()
    y = net("Transpose", net("Reshape", net.input("x", "N", 4, 5, 6), [-1, 5, 6]), perm=[0, 2, 1])
    proto = net.model(net("Reshape", y, [-1, 4, 6, 5]))
    assert after(proto) == ["Transpose"]


def merged(allowzero: int) -> onnx.ModelProto:
    """Batch and heads as one axis, and back, by sizes that are computed; two of them may be zero."""
    net = Net()
    x = net.input("x", "N", 4, "T", 6)
    n, t = net("Gather", net("Shape", x), [0], axis=0), net("Gather", net("Shape", x), [2], axis=0)
    merged = net("Concat", net("Mul", n, [4]), t, [6], axis=0)
    y = net("Transpose", net("Reshape", x, merged, allowzero=allowzero), perm=[0, 2, 1])
    y = net("Transpose", y, perm=[0, 2, 1])
    back = net("Concat", n, [4], t, [6], axis=0)
    return net.model(net("Relu", net("Reshape", y, back, allowzero=allowzero)))


def test_a_computed_zero_that_means_the_size_before() -> None:
    assert after(merged(1)) == ["Relu"]
    assert "Reshape" in after(merged(0))  # where batch and time are zero it returns another shape


def test_a_repetition_is_a_gather() -> None:
    net = Net()
    y = net("Unsqueeze", net.input("x", "N", 2, 5, 6), [2])
    y = net("Reshape", net("Expand", y, [1, 1, 3, 1, 1]), [-1, 6, 5, 6])
    assert after(net.model(net("Relu", y))) == ["Gather", "Relu"]
    net = Net()
    y = net("Reshape", net("Tile", net.input("x", "N", 2, 5, 6), [1, 3, 1, 1]), [-1, 30, 6])
    assert "Gather" in after(net.model(net("Relu", y)))


def test_products_of_merged_batches() -> None:
    net = Net()
    a, b = net.input("a", "N", 4, 5, 6), net.input("b", "N", 4, 6, 3)
    y = net("MatMul", net("Reshape", a, [-1, 5, 6]), net("Reshape", b, [-1, 6, 3]))
    y = net("Reshape", net("Softmax", y, axis=-1), [-1, 4, 5, 3])
    assert after(net.model(y), SplitBatches(), FoldReshapes()) == ["MatMul", "Softmax"]
    net = Net()
    a, b = net.input("a", "N", 4, 5, 6), net.input("b", "N", 2, 6, 3)
    y = net("MatMul", net("Reshape", a, [-1, 5, 6]), net("Concat", *[net("Reshape", b, [-1, 6, 3])] * 2, axis=0))
    assert "Concat" in after(net.model(y), SplitBatches())


def parts(axis: int) -> onnx.ModelProto:
    """Thirds of the last axis, taken behind a reshape and a transpose."""
    net = Net()
    y = net("Reshape", net.input("x", "N", 5, 12), [0, 0, 3, 4] if axis == 2 else [0, 0, 4, 3])
    y = net("Transpose", y, perm=[axis, 0, 1, 5 - axis])
    return net.model(*[net("Relu", net("Gather", y, np.array(i), axis=0)) for i in range(3)])


def test_parts_are_taken_early() -> None:
    assert after(parts(2), SelectEarly(), FoldReshapes()).count("Transpose") == 0
    assert "Slice" in after(parts(2), SelectEarly())
    assert "Slice" not in after(parts(3), SelectEarly())  # every third position


def test_products_of_sizes() -> None:
    assert product_of("4*batch") == Product(4, ("batch",))
    assert product_of("batch + 1") == Product(1, ("batch + 1",))
    assert product_of(0) is None and product_of(None) is None
    assert Product(4, ("b",)).over(Product(2)) == Product(2, ("b",))
    assert Product(4).over(Product(8)) is None and Product(4).over(Product(1, ("b",))) is None


def test_factors_fall_between_or_not_at_all() -> None:
    axes = whole([Product(1, ("N",)), Product(8), Product(4)])
    flat = [factor for axis in axes for factor in axis]
    cut = regrouped(flat, [Product(1, ("N",)), Product(2), Product(16)])
    assert cut is not None and [total(axis).size for axis in cut] == ["N", 2, 16]
    assert regrouped(flat, [Product(1, ("N",)), Product(3), Product(11)]) is None
    assert regrouped(flat, [None, Product(32)]) is not None
    assert regrouped(flat, [None, None]) is None
    assert whole([ONE]) == ((),)
