"""Products of blocks that graphopt writes become one operator, where positions are moved around them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.model_shapes import infer_shapes
from graphopt.passes.lower.lower_blocks import LowerBlocks
from graphopt.passes.shrink.split_blocks import SplitBlocks
from graphopt.verify import Reference
from tests.ops.net import Net
from tests.runtime_ops import running

SIZES = ((3, 4), (3, 5), (2, 4))
"""Columns and rows of the blocks."""


def run_pass(proto: onnx.ModelProto, target: str = "cpu", **options: bool) -> ir.Model:
    """Return what the pass makes of a model."""
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants(), target=target)
    context.runtime_operators = True
    item = LowerBlocks(**options)
    item.run(context)
    assert not item.run(context), "a second run finds nothing"
    return context.model


def lowered(proto: onnx.ModelProto, target: str = "cpu", **options: bool) -> list[str]:
    """Run the pass, prove the result equal with the function, and return what is left."""
    model = run_pass(proto, target, **options)
    assert Reference(proto).compare(model).passed
    return [node.op_type for node in model.graph]


def retyped(proto: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Return the model with every float as one of another type."""
    model = ir.from_proto(proto)
    data_type = ir.DataType[kind.upper()]
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            value.const_value = ir.tensor(value.const_value.numpy().astype(data_type.numpy()), name=value.name)
            value.dtype = data_type
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.dtype = data_type
    return ir.to_proto(model)


def several(
    net: Net,
    *,
    gathered: bool = True,
    behind: bool = True,
    op: str = "MatMul",
    rank: int = 2,
    first: str | None = "Neg",
) -> str:
    """``Concat(x[C] A, x[D] B, …)`` of what ``first`` makes of an input."""
    columns, rows = (sum(pair[i] for pair in SIZES) for i in (0, 1))
    x = net.input("x", "N", *[2] * (rank - 2), columns)
    x = x if first is None else net(first, x)
    order = net.rng.permutation(columns)
    at = np.cumsum([0, *(pair[0] for pair in SIZES)])
    if gathered:
        parts = [net("Gather", x, order[at[i] : at[i + 1]], axis=-1) for i in range(len(SIZES))]
    else:
        parts = net.many("Split", x, np.array([pair[0] for pair in SIZES]), outputs=len(SIZES), axis=rank - 1)
    products = []
    for part, pair in zip(parts, SIZES, strict=True):
        if op == "Gemm":
            products.append(net("Gemm", part, net.normal(*reversed(pair)), net.normal(pair[1]), transB=1))
        else:
            products.append(net("MatMul", part, net.normal(*pair)))
    y = net("Concat", *products, axis=-1)
    y = net("Gather", y, net.rng.permutation(rows), axis=rank - 1) if behind else y
    return y


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("gathered", [True, False])
def test_several_products(gathered: bool, behind: bool, rank: int) -> None:
    net = Net()
    y = several(net, gathered=gathered, behind=behind, rank=rank)
    left = lowered(net.model(net("Abs", y)))
    if gathered or behind:
        assert left == ["Neg", "GatherGemmScatter", "Abs"]
    else:
        assert "GatherGemmScatter" not in left  # as fast as it is


def test_in_order_if_that_is_asked_for() -> None:
    net = Net()
    y = several(net, gathered=False, behind=False)
    assert lowered(net.model(net("Abs", y)), moved=False) == ["Neg", "GatherGemmScatter", "Abs"]


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_bias_and_relu_go_in(op: str) -> None:
    net = Net()
    y = several(net, op=op)
    y = net("Relu", net("Add", y, net.normal(13)))
    assert lowered(net.model(net("Abs", y))) == ["Neg", "GatherGemmScatter", "Abs"]


def test_what_is_added_and_is_no_bias_stays() -> None:
    net = Net()
    y = net("Add", several(net), net.normal(1, 13))
    assert lowered(net.model(net("Abs", y))) == ["Neg", "GatherGemmScatter", "Add", "Abs"]


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_too(kind: str, op: str) -> None:
    """Every session takes the kernel, and what it adds up in float32 is rounded once."""
    running.need_library()
    net = Net()
    y = net("Relu", net("Add", several(net, op=op, first=None), net.normal(13)))
    proto = retyped(net.model(y), kind)
    model = run_pass(proto)
    assert [node.op_type for node in model.graph] == ["GatherGemmScatter"]
    assert model.graph.outputs[0].dtype == ir.DataType[kind.upper()]
    x = net.normal(5, 8).astype(ir.DataType[kind.upper()].numpy())
    (found,) = running.run(model, {"x": x})
    (expected,) = running.run(retyped(proto, "float"), {"x": x.astype(np.float32)})
    assert found.dtype == x.dtype and expected.any()
    # The two biases are one number in the node, which is rounded; so is the result.
    unit = float(ml_dtypes.finfo(x.dtype).eps)
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=unit, atol=2 * unit)


def test_what_is_left_of_half_precision_is_proved() -> None:
    net = Net()
    proto = retyped(net.model(net("Abs", several(net))), "float16")
    assert lowered(proto) == ["Neg", "GatherGemmScatter", "Abs"]


def test_double_precision_stays() -> None:
    """There is no kernel for it."""
    net = Net()
    proto = retyped(net.model(net("Abs", several(net))), "double")
    assert "GatherGemmScatter" not in lowered(proto)


def batched(net: Net, count: int, size: int, shared: bool = False) -> str:
    total = count * size
    x = net("Gather", net("Neg", net.input("x", 5, total)), net.rng.permutation(total), axis=1)
    y = net("Transpose", net("Reshape", x, np.array([-1, count, size])), perm=[1, 0, 2])
    y = net("MatMul", y, net.normal(count, size, size))
    y = net("Reshape", net("Transpose", y, perm=[1, 0, 2]), np.array([-1, total]))
    y = net("Gather", y, net.rng.permutation(total), axis=1)
    return net("Add", y, x) if shared else y


def test_a_batched_product() -> None:
    net = Net()
    assert lowered(net.model(net("Abs", batched(net, 3, 4)))) == ["Neg", "GatherGemmScatter", "Abs"]


def test_a_gather_that_others_read_stays() -> None:
    net = Net()
    left = lowered(net.model(net("Abs", batched(net, 3, 4, shared=True))))
    assert sorted(left) == ["Abs", "Add", "Gather", "GatherGemmScatter", "Neg"]


def test_what_others_read_between_stays() -> None:
    net = Net()
    y = several(net, behind=False)
    left = lowered(net.model(net("Abs", net("Gather", y, net.rng.permutation(13), axis=1)), net("Exp", y)))
    assert left.count("Gather") == 1 and "GatherGemmScatter" in left


def test_unequal_blocks_stay() -> None:
    net = Net()
    x = net("Neg", net.input("x", "N", 9))
    parts = [net("Gather", x, np.array(index), axis=1) for index in ([0, 8], [1, 2, 3, 4, 5, 6, 7])]
    y = net(
        "Concat",
        *[net("MatMul", part, net.normal(size, size)) for part, size in zip(parts, (2, 7), strict=True)],
        axis=1,
    )
    assert "GatherGemmScatter" not in lowered(net.model(net("Abs", y)))


def test_parts_of_different_values_stay() -> None:
    net = Net()
    sides = [net("Neg", net.input(name, "N", 4)) for name in "xy"]
    parts = [net("Gather", side, np.array([2, 0, 1]), axis=1) for side in sides]
    y = net("Concat", *[net("MatMul", part, net.normal(3, 3)) for part in parts], axis=1)
    assert "GatherGemmScatter" not in lowered(net.model(net("Abs", y)))


def test_portable_models_have_none() -> None:
    net = Net()
    assert "GatherGemmScatter" not in lowered(net.model(net("Abs", several(net))), "portable")


def test_what_split_blocks_writes() -> None:
    """A weight that is block-diagonal in an order that the ends of the graph show."""
    net = Net()
    rng = np.random.default_rng(0)
    weight: Any = np.kron(np.eye(4), np.ones((64, 64))) * net.normal(256, 256)
    weight = weight[rng.permutation(256)][:, rng.permutation(256)].astype(np.float32)
    proto = net.model(net("MatMul", net.input("x", 64, 256), weight))
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants(), kind="smallest")
    context.runtime_operators = True
    assert SplitBlocks().run(context) and LowerBlocks().run(context)
    assert [node.op_type for node in context.model.graph] == ["GatherGemmScatter"]
    assert Reference(proto).compare(context.model).passed
