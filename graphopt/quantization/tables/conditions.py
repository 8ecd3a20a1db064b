"""Conditions and axes that rows of the tables name: each reads one node and nothing around it."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import tensor_of
from graphopt.readers import only_reader


def first_output_channels(node: ir.Node) -> int | None:
    """Conv: ``W[O, C / groups, …]`` has a scale for each O."""
    return 0


def second_output_channels(node: ir.Node) -> int | None:
    """ConvTranspose: ``W[C, O, …]`` has a scale for each O."""
    return 1


def product_columns(node: ir.Node) -> int | None:
    """MatMul: the columns of ``B[K, N]`` have scales of their own; a stack of matrices has one (QLinearMatMul)."""
    return 1 if dims.rank(node.inputs[1]) == 2 else None


def gemm_columns(node: ir.Node) -> int | None:
    """Gemm: ``B[K, N]``, or ``B[N, K]`` with ``transB``."""
    return 0 if node.attributes.get_int("transB", 0) else 1


def plain_gemm(node: ir.Node) -> str | None:
    """``alpha = beta = 1``: QGemm has no factors."""
    plain = node.attributes.get_float("alpha", 1.0) == 1 and (
        node.attributes.get_float("beta", 1.0) == 1 or len(node.inputs) < 3 or node.inputs[2] is None
    )
    return None if plain else "a Gemm with alpha or beta has no integer kernel"


def rows_as_they_are(node: ir.Node) -> str | None:
    """Gemm whose first matrix is not transposed."""
    return "a Gemm that transposes what it reads" if node.attributes.get_int("transA", 0) else None


def one_matrix(node: ir.Node) -> str | None:
    """MatMul whose second operand is a matrix, not a stack of them."""
    return None if dims.rank(node.inputs[1]) == 2 else "its second operand is not one matrix"


def behind_a_product(node: ir.Node) -> str | None:
    """Add that takes the sum of a product or a convolution, which nobody else reads."""
    found = any(producer is not None and feeds(producer, node) for producer in (v.producer() for v in node.inputs if v))
    return None if found else "no product in front of it takes it along"


def feeds(product: ir.Node, reader: ir.Node) -> bool:
    """Tell whether a node multiplies and its output is read by one other node alone, once."""
    return product.op_type in ("Conv", "Gemm", "MatMul") and only_reader(product.outputs[0]) is reader


def nearest(node: ir.Node) -> str | None:
    """Resize that copies."""
    mode = node.attributes.get_string("mode", "nearest")
    return None if mode == "nearest" else f"Resize in mode {mode!r} computes new numbers"


def ungrouped(node: ir.Node) -> str | None:
    """ConvTranspose whose output channels lie along one axis of the weight."""
    return "groups" if node.attributes.get_int("group", 1) != 1 else None


def residual(node: ir.Node) -> str | None:
    """Add of two streams of one shape."""
    first, second = (dims.sizes(value) for value in node.inputs[:2])
    return None if first is not None and first == second else "not the sum of two streams"


def zero_padding(node: ir.Node) -> str | None:
    """Pad that copies, or fills with nothing but zero, which every scale can represent."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = None if value is None else tensor_of(value)
    if value is None:
        return None if "pads" not in node.attributes else "Pad of an old operator set"
    zero = tensor is not None and tensor.size == 1 and not tensor.numpy().any()
    return None if zero else "Pad fills with another number than zero"


def one_output(node: ir.Node) -> str | None:
    """MaxPool without indices."""
    used = sum(bool(out.uses()) or out.is_graph_output() for out in node.outputs)
    return None if used <= 1 and len(node.outputs) == 1 else f"{node.op_type} with a second output stays in float"


def clipped_product(node: ir.Node, reader: ir.Node) -> bool:
    """Gemm and what cuts off its output are looked at as one, which has to end in a Q."""
    return reader.op_type in ("Relu", "Clip")


def product_as_gemm(node: ir.Node, reader: ir.Node) -> bool:
    """MatMul of two matrices and an addition become a Gemm, the addend its bias: in float, unless there is a Q."""
    return clipped_product(node, reader) or (reader.op_type == "Add" and (dims.rank(node.outputs[0]) or 2) == 2)
