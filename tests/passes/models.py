"""Small masked networks written out by hand, and what the tests of passes ask of a result."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

import graphopt
from graphopt.verify import Reference


def weight(name: str, *shape: int, rows: list[int] | None = None, seed: int = 0) -> onnx.TensorProto:
    """A random weight of which only ``rows`` are not zero."""
    array = np.random.default_rng([seed, len(name), *shape]).normal(size=shape).astype(np.float32)
    if rows is not None:
        array[[row for row in range(shape[0]) if row not in rows]] = 0
    return numpy_helper.from_array(array, name)


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    *,
    channels: int = 3,
    outputs: tuple[tuple[str, int], ...] = (("y", 4),),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of images ``x[N, channels, 5, 5]`` with outputs of the given channels."""
    for position, node in enumerate(nodes):
        node.name = f"{node.op_type.lower()}_{position}"
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", channels, 5, 5])
    results = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size, 5, 5]) for name, size in outputs]
    graph = helper.make_graph(nodes, "masked", [x], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv(x: str, w: str, y: str, bias: str = "", pad: int = 1) -> onnx.NodeProto:
    """A 3x3 convolution (1x1 without padding)."""
    return helper.make_node("Conv", [x, w, bias] if bias else [x, w], [y], pads=[pad] * 4)


def chain(*, biased: bool = False) -> onnx.ModelProto:
    """Conv (rows 1, 4, 6 of 7 alive) -> Relu -> Conv -> Relu -> Conv."""
    nodes = [
        conv("x", "w1", "a", "b1" if biased else ""),
        helper.make_node("Relu", ["a"], ["ra"]),
        conv("ra", "w2", "b", pad=0),
        helper.make_node("Relu", ["b"], ["rb"]),
        conv("rb", "w3", "y"),
    ]
    weights = [
        weight("w1", 7, 3, 3, 3, rows=[1, 4, 6]),
        weight("w2", 5, 7, 1, 1, rows=[0, 3]),
        weight("w3", 4, 5, 3, 3),
    ]
    if biased:
        weights.append(numpy_helper.from_array(np.arange(1, 8, dtype=np.float32), "b1"))
    return model(nodes, weights)


def residual() -> onnx.ModelProto:
    """``relu(conv1(x)) + conv2(...)`` with different dead rows, read by a convolution."""
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("Relu", ["a"], ["ra"]),
        conv("ra", "w2", "b"),
        helper.make_node("Add", ["ra", "b"], ["s"]),
        conv("s", "w3", "y"),
    ]
    return model(
        nodes,
        [
            weight("w1", 7, 3, 3, 3, rows=[1, 4, 6]),
            weight("w2", 7, 7, 3, 3, rows=[0, 4]),
            weight("w3", 4, 7, 3, 3),
        ],
    )


def run(proto: onnx.ModelProto, passes: str | None, *, plan: str = "fastest") -> ir.Model:
    """Run passes and prove in onnxruntime that nothing else changed, at sizes 0, 1 and a prime among others."""
    result = graphopt.optimize(proto, passes=passes, plan=plan, verify=False, measure=False).model
    verdict = Reference(proto).compare(result)
    assert verdict.passed, verdict
    return result


def ops(result: ir.Model) -> list[str]:
    """The operators in order."""
    return [node.op_type for node in result.graph]


def sizes(result: ir.Model) -> dict[str, list[int]]:
    """The shapes of the initializers that hold floats of more than one axis."""
    return {
        name: list(value.const_value.shape.numpy())
        for name, value in result.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and len(value.const_value.shape) > 1
    }


def reader(result: ir.Model, op_type: str, number: int = 0) -> ir.Node:
    """The n-th node of a type."""
    return [node for node in result.graph if node.op_type == op_type][number]


def before(node: ir.Node, operand: int = 0) -> str:
    """The operator that makes a node's input, through the shape plumbing of a scatter."""
    value = node.inputs[operand]
    assert value is not None
    producer = value.producer()
    return "input" if producer is None else producer.op_type
