"""Placements of small models, as the pipeline makes them, and what onnxruntime then runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import graphopt
from graphopt import model as models
from graphopt import registry, rounds, runtime
from graphopt.context import Context
from graphopt.quantization.kernels import Kernels, kernels
from graphopt.quantization.place import placed
from graphopt.quantization.placement import Placement
from graphopt.quantization.request import requested
from graphopt.quantization.state import State
from graphopt.rounds import Settings


def context_of(proto: onnx.ModelProto, *passes: str, **options: Any) -> Context:
    """The prepared model; ``passes`` run on it."""
    context = rounds.prepare(models.load(proto), Settings((), target="portable"))
    context.quantization = State(requested(options), lambda: iter(()))
    for name in passes:
        registry.make(name, {}).run(context)
    return context


def placement(proto: onnx.ModelProto, **options: Any) -> Placement:
    """What is placed with everything that multiplies on integers (sizes here are too small to pay)."""
    context = context_of(proto, **{"everything": True, **options})
    assert context.quantization is not None
    return placed(context, context.quantization.request)


def operators(found: Placement) -> list[str]:
    """The operators that shall run on integers, in order."""
    return [node.op_type for node in found.nodes]


def names(values: Any) -> list[str]:
    """Names of values, in order."""
    return [str(value.name) for value in values]


def quantized(proto: onnx.ModelProto, data: Sequence[Mapping[str, np.ndarray]], **options: Any) -> ir.Model:
    """The quantized model, with nothing declined."""
    given = {"everything": True, "measure": False, "recover": "", "method": "minmax", **options}
    return graphopt.quantize(proto, list(data), **given).model


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output in onnxruntime."""
    return runtime.run(runtime.session(model), feeds)[0]


def ran(proto: onnx.ModelProto, data: Sequence[Mapping[str, np.ndarray]], **options: Any) -> Kernels:
    """The kernels that onnxruntime runs of the quantized model."""
    return kernels(quantized(proto, data, **options))


def noise(*shape: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """One batch for the input ``x``."""
    return [{"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}]
