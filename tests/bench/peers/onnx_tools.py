"""graphopt, and the tools that turn one ONNX model into another."""

from __future__ import annotations

import onnx

from graphopt import model as models
from graphopt import pipeline
from tests.bench.peers.candidate import Candidate, of_onnx
from tests.bench.peers.task import Task

SHARES = (0.75, 0.6, 0.5, 3 / 7, 1 / 3, 0.25, 0.15)
"""Shares of channels that are tried where a tool does not look for dead ones but is told how many to remove."""


def graphopt(task: Task) -> list[Candidate]:
    """Both plans: "smallest", whose constants are counted, and "fastest", which is timed.

    A result is measured by graphopt itself only where it is measured here; of micro graphs the plan is wanted as it is.
    """
    found = []
    for plan in ("smallest", "fastest"):
        result = pipeline.optimize(task.model, plan=plan, verify=False, measure=task.timed)
        found.append(of_onnx(onnx.load_from_string(models.serialize(result.model))))
    return found


def onnxslim(task: Task) -> list[Candidate]:
    """`onnxslim.slim`: constant folding, fusions, dead code."""
    from onnxslim import slim

    result = slim(_copy(task.model))
    assert isinstance(result, onnx.ModelProto)
    return [of_onnx(result)]


def onnxsim(task: Task) -> list[Candidate]:
    """`onnxsim.simplify`: constant folding through onnxruntime, fusions."""
    from onnxsim import simplify

    return [of_onnx(simplify(_copy(task.model))[0])]


def onnxsim_pruning(task: Task) -> list[Candidate]:
    """`onnxsim.apply_structured_pruning` behind `simplify`.

    It removes the channels of least magnitude, and is told how many: several shares are tried, of every layer and of
    the whole model.
    """
    from onnxsim import apply_structured_pruning, simplify

    simple = simplify(_copy(task.model))[0]
    found = []
    for together in (False, True):
        for share in SHARES:
            found.append(of_onnx(apply_structured_pruning(_copy(simple), sparsity=share, global_sparsity=together)))
    return found


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
