"""Sequences that are taken apart at known places become tensors; those whose places are not known stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.model_shapes import infer_shapes
from graphopt.passes.tidy.unpack_sequences import UnpackSequences
from graphopt.verify import Reference


def split(
    sizes: list[int] | int | None,
    places: list[int],
    *,
    width: int | str = 7,
    axis: int = -1,
    opset: int = 17,
    bare: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """``SequenceAt(SplitToSequence(x, sizes), place)`` for each place; ``bare``: the pieces are outputs themselves."""
    constants = [] if sizes is None else [numpy_helper.from_array(np.array(sizes, np.int64), "sizes")]
    inputs = ["x"] if sizes is None else ["x", "sizes"]
    nodes = [helper.make_node("SplitToSequence", inputs, ["pieces"], "split", axis=axis, **attributes)]
    for number, place in enumerate(places):
        constants.append(numpy_helper.from_array(np.array(place, np.int64), f"place{number}"))
        piece = f"y{number}" if bare else f"piece{number}"
        nodes.append(helper.make_node("SequenceAt", ["pieces", f"place{number}"], [piece]))
        nodes += [] if bare else [helper.make_node("Neg", [piece], [f"y{number}"])]
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None) for n in range(len(places))],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def construct(places: list[int], *, bare: bool = False, counted: bool = False) -> onnx.ModelProto:
    """``SequenceAt(SequenceConstruct(x, Relu(x)), place)``; ``counted``: the sequence has another reader."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("SequenceConstruct", ["x", "r"], ["both"]),
    ]
    constants = []
    for number, place in enumerate(places):
        constants.append(numpy_helper.from_array(np.array(place, np.int64), f"place{number}"))
        nodes.append(
            helper.make_node("SequenceAt", ["both", f"place{number}"], [f"y{number}" if bare else f"p{number}"])
        )
        nodes += [] if bare else [helper.make_node("Neg", [f"p{number}"], [f"y{number}"])]
    outputs = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None) for n in range(len(places))]
    if counted:
        nodes.append(helper.make_node("SequenceLength", ["both"], ["count"]))
        outputs.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    graph = helper.make_graph(
        nodes, "construct", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])], outputs, constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def left(proto: onnx.ModelProto) -> list[str]:
    """The operators after the pass, which is proved equal and finished."""
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants())
    item = UnpackSequences()
    item.run(context)
    assert not item.run(context), "twice"
    assert Reference(proto).compare(context.model).passed
    return [node.op_type for node in context.model.graph]


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize(
    ("sizes", "places"),
    [
        (4, [0, 1]),  # the last piece is smaller
        (7, [0]),
        (9, [-1]),  # one piece, smaller than asked for
        (1, [6, 0, -7]),
        ([2, 5], [1, -2]),
        ([7], [0]),
        (None, [3, 3]),
    ],
)
def test_split(sizes: list[int] | int | None, places: list[int], opset: int) -> None:
    assert left(split(sizes, places, opset=opset)) == ["Split"] + ["Neg"] * len(places)


def test_the_first_axis() -> None:
    """Of a symbolic size: not known how many pieces there are."""
    assert "SplitToSequence" in left(split(1, [0], axis=0))


def test_pieces_that_are_outputs_keep_their_names() -> None:
    assert sorted(left(split(4, [1, 1], bare=True))) == ["Identity", "Identity", "Split"]


@pytest.mark.parametrize(
    "near_miss",
    [
        split(4, [0], width="C"),
        split(None, [3], keepdims=0),
        split(4, [0], opset=12),
    ],
    ids=["unknown size", "axis lost", "old opset"],
)
def test_left_alone(near_miss: onnx.ModelProto) -> None:
    assert "SplitToSequence" in left(near_miss)


def test_out_of_range_stays_the_error_that_it_is() -> None:
    model = models.load(split(4, [0, 2]))
    infer_shapes(model)
    assert not UnpackSequences().run(Context(model, Constants()))


def test_construct() -> None:
    assert left(construct([0, 1, -1])) == ["Relu", "Neg", "Neg", "Neg"]
    assert left(construct([0, 1], bare=True)) == ["Relu", "Identity", "Identity"]


def test_construct_with_another_reader_keeps_the_sequence_for_it() -> None:
    assert left(construct([1], counted=True)) == ["Relu", "SequenceConstruct", "Neg", "SequenceLength"]
