"""What a tool hands back, and how many numbers a model holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tests.strategies import check

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], list[np.ndarray]]

_FLOATS = frozenset(getattr(onnx.TensorProto, name) for name in "FLOAT FLOAT16 DOUBLE BFLOAT16".split())
_COUNTED = _FLOATS | frozenset(getattr(onnx.TensorProto, name) for name in "INT8 UINT8 INT4 UINT4".split())
"""Floats, and what quantized weights are made of. Integers of 32 and 64 bits are sizes and indices."""


@dataclass
class Candidate:
    """A model after a tool.

    Attributes:
        floats: elements of its constants (floats and quantized weights).
        run: computes the outputs in the runtime that the tool is meant for.
        reference: computes the outputs of the *original* in that runtime, where it is not onnxruntime.
        save: writes the model for a later measurement and returns the path; None where there is no file of it.
    """

    floats: int
    run: Run
    reference: Run | None = None
    save: Callable[[Path], Path] | None = None


def floats(model: onnx.ModelProto) -> int:
    """Elements of the constants of a model, subgraphs included, a shared tensor once."""
    return _in_graph(model.graph) + sum(_in_nodes(function.node) for function in model.functions)


def _in_graph(graph: onnx.GraphProto) -> int:
    own = sum(_elements(tensor) for tensor in graph.initializer)
    return own + sum(_elements(tensor.values) for tensor in graph.sparse_initializer) + _in_nodes(graph.node)


def _in_nodes(nodes: object) -> int:
    total = 0
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if node.op_type == "Constant":
                total += _elements(attribute.t) + weighed([len(attribute.floats)])
            if attribute.HasField("g"):
                total += _in_graph(attribute.g)
            total += sum(_in_graph(graph) for graph in attribute.graphs)
    return total


def _elements(tensor: onnx.TensorProto) -> int:
    if tensor.data_type not in _COUNTED:
        return 0
    # Integers that are all zero are zero points: some write them, some leave them away.
    idle = tensor.data_type not in _FLOATS and not onnx.numpy_helper.to_array(tensor).any()
    return 0 if idle else weighed(tensor.dims)


def weighed(shape: Iterable[int]) -> int:
    """Elements of a constant, none if it holds a single one.

    Bounds, exponents, epsilons and paddings are constants in one format and attributes in another.
    """
    size = math.prod(shape)
    return size if size > 1 else 0


def of_onnx(model: onnx.ModelProto) -> Candidate:
    """A candidate that onnxruntime runs, without optimizations of its own."""
    session = check.session(model)
    inputs = {value.name for value in session.get_inputs()}

    def run(feeds: Feeds) -> list[np.ndarray]:
        given = {name: array for name, array in feeds.items() if name in inputs}
        return [np.asarray(output) for output in session.run(None, given)]

    def save(folder: Path) -> Path:
        path = folder / "model.onnx"
        onnx.save(model, path)
        return path

    return Candidate(floats(model), run, save=save)
