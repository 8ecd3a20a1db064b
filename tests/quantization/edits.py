"""Placements written by hand, and quantized arithmetic in numpy integers to compare onnxruntime with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt import model as models
from graphopt.calibrate.grid import grid
from graphopt.calibrate.solve import Parameters
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.quantization import biases, qdq
from graphopt.quantization.placement import Activation, Bias, Placement, Weight
from graphopt.rewrite.unused import remove_unused
from tests.strategies import check


def parameters(scale: Any, zero: Any = 0) -> Parameters:
    """Parameters that were not found but given; a weight's channel without scale has none of its own."""
    scale = np.asarray(scale, np.float32)
    zero = np.broadcast_to(np.asarray(zero, np.int64), scale.shape)
    return Parameters(scale, zero, np.zeros(scale.shape), np.ones(scale.shape), "given")


class Quantizer:
    """A float model, and what of it shall be quantized; names are those of the model."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.context = Context(models.load(proto), Constants())
        self.placement = Placement()
        self.found: dict[ir.Value, Parameters] = {}
        self.codes: dict[ir.Value, np.ndarray] = {}
        graph = self.context.model.graph
        self.values = {str(v.name): v for v in (*graph.inputs, *graph.initializers.values())}
        self.values |= {str(out.name): out for node in graph for out in node.outputs}

    def activation(self, name: str, scale: float, zero: int = 0, kind: str = "uint8", only: str = "") -> None:
        """Quantize an activation; ``only`` names the operator that alone reads it quantized."""
        value = self.values[name]
        readers = [(use.node, use.idx) for use in value.uses() if use.node.op_type == only] if only else None
        self.placement.activations[value] = Activation(value, grid(kind), readers=readers)
        self.found[value] = parameters(scale, zero)

    def weight(
        self, name: str, scale: Any, zero: Any = 0, kind: str = "int8", axis: int | None = None, only: str = ""
    ) -> None:
        """Quantize a weight for its readers, or for those of one type of operator."""
        value = self.values[name]
        readers = [(use.node, use.idx) for use in value.uses() if only in ("", use.node.op_type)]
        self.placement.weights[value] = Weight(value, grid(kind, signed=True), axis, readers=readers)
        self.found[value] = parameters(scale, zero)

    def bias(self, name: str, activation: str, weight: str) -> None:
        """Store a bias as int32 with the product of two scales, for its only reader."""
        value = self.values[name]
        use = next(iter(value.uses()))
        self.placement.biases.append(
            Bias(value, use.node, use.idx, self.values[activation], self.values[weight])
        )  # fmt: skip

    def done(self) -> ir.Model:
        """Carry it out."""
        biases.fit(self.placement, self.found, self.context.constants)
        qdq.insert(self.context, self.placement, self.found, self.codes)
        remove_unused(self.context.model.graph)
        return self.context.model


def run(model: ir.Model | onnx.ModelProto, feeds: Mapping[str, Any], *, optimized: bool = True) -> list[Any]:
    """Run a model in onnxruntime, with its default optimizations (integer kernels) or as it is written."""
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else models.serialize(model)
    if not optimized:
        return list(check.session(data).run(None, dict(feeds)))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return list(ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds)))


def ops(model: ir.Model) -> list[str]:
    """The types of the nodes in order."""
    return [node.op_type for node in model.graph]


def stored(array: Any, scale: Any, zero: Any = 0, kind: str = "uint8") -> np.ndarray:
    """``q = saturate(round_half_even(x / S) + O)`` as int64: the definition, in float32 as onnxruntime divides."""
    ends = grid(kind, signed=True)
    steps = np.rint(np.asarray(array, np.float32) / np.asarray(scale, np.float32)).astype(np.int64)
    return np.clip(steps + zero, int(ends.low), int(ends.high))


def requantized(sums: np.ndarray, scale: Any, out: float, zero: int = 0, kind: str = "uint8") -> np.ndarray:
    """Integer sums of products of steps, whose unit is ``scale``, as numbers of another type."""
    ends = grid(kind, signed=True)
    steps = np.rint(sums.astype(np.float64) * np.asarray(scale, np.float64) / out).astype(np.int64)
    return np.clip(steps + zero, int(ends.low), int(ends.high))
