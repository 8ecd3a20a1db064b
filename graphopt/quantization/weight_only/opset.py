"""Brings a model to an operator set that has what is to be inserted, where nothing in it changes its meaning."""

from __future__ import annotations

from graphopt.context import Context
from graphopt.errors import ModelError

IR_VERSION = 10
"""The version of the file format that goes with operator set 21."""

CHANGED = {
    "BatchNormalization": 14, "DFT": 20, "GridSample": 20, "GroupNormalization": 21, "Hardmax": 13, "LogSoftmax": 13,
    "Pad": 11, "ReduceL1": 18, "ReduceL2": 18, "ReduceLogSum": 18, "ReduceLogSumExp": 18, "ReduceMax": 18,
    "ReduceMean": 18, "ReduceMin": 18, "ReduceProd": 18, "ReduceSum": 13, "ReduceSumSquare": 18, "Resize": 11,
    "RoiAlign": 16, "Softmax": 13, "Split": 18, "Squeeze": 13, "Unsqueeze": 13, "Upsample": 10, "Clip": 11,
    "Dropout": 12, "Slice": 10, "TopK": 11,
}  # fmt: skip
"""Operators that are written otherwise from a version on: an attribute became an input, or a default another one."""


def require(context: Context, version: int) -> None:
    """Bring the model to at least a version of the standard operator set.

    Raises:
        ModelError: An operator of the model is written otherwise there.
    """
    model, before = context.model, context.opset
    if before >= version:
        return
    for graph in context.graphs():
        for node in graph:
            if node.domain in ("", "ai.onnx") and before < CHANGED.get(node.op_type, 0) <= version:
                raise ModelError(
                    f"{node.op_type} is written otherwise in operator set {version}, which the quantized weights need",
                    where=f"node {node.name!r}",
                    help=f"export the model with opset {version} (it has {before}), or exclude what needs it",
                )
    model.opset_imports[""] = version
    model.opset_imports.pop("ai.onnx", None)
    model.ir_version = max(model.ir_version or 0, IR_VERSION)
