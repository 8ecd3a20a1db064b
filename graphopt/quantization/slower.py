"""Is the quantized model slower than the input? Then less of it is quantized, and at last nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from graphopt import measured
from graphopt.context import Context
from graphopt.errors import DependencyError, ModelError
from graphopt.quantization import lowered, steps
from graphopt.report.schema import Report

PROVIDERS = {"cpu": "cpu", "portable": "cpu", "cuda": "cuda"}
"""Where a target's models are measured; TensorRT is not here."""

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose integer kernels are what is gained; the others only keep integers between them."""


def not_slower(
    original: ir.Model, result: ir.Model, context: Context, shapes: Mapping[str, Sequence[int]] | None, report: Report
) -> ir.Model:
    """Return the first of the result, a result with fewer quantized nodes, and the input, that is not slower."""
    if measured.weight_bytes(original) > measured.LARGEST or context.quantization is None:
        return result
    request = context.quantization.request
    provider = PROVIDERS.get(request.target)
    if provider is None:
        return result
    for way, model in _ways(result, context, report):
        try:
            found = measured.measure(original, model, provider=provider, shapes=shapes, seed=request.seed)
        except (ModelError, DependencyError):  # not on this machine: whoever can run it may measure it
            return model
        found.way = way
        if request.weight_only or request.everything or not measured.slower(found):
            before = report.measure  # of the demasked model against the input
            if before is not None:
                found.input_ms, found.ratio = before.input_ms, before.ratio * found.ratio
            report.measure = found
            return model
    return original


def _ways(result: ir.Model, context: Context, report: Report) -> Iterator[tuple[str, ir.Model]]:
    """Yield what to try, the most quantized first."""
    yield "quantized", result
    state = steps.state_of(context)
    others = {node for node in state.placement.nodes if node.op_type not in COMPUTE}
    if others and len(others) < len(state.placement.nodes):
        state.floats |= others
        fewer = steps.rebuilt(context)
        if state.placement.nodes:
            yield "compute", lowered.finished(context, fewer, report)
