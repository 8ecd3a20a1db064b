"""Batch-norms go into the contractions before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants, is_constant, tensor_of
from graphopt.rewrite import weights
from graphopt.rewrite.edit import Edit


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold a batch-norm in evaluation mode into the convolution or Gemm whose only reader it is.

    ``W' = W * s``, ``b' = (b - mean) * s + bias`` with ``s = scale / sqrt(var + epsilon)``, computed in float64 and
    rounded once. A masked filter stays a zero row; what was the constant behind its norm is now its bias.

    *Never* where the convolution's result is read by anybody else or is a graph output, where a parameter of the norm
    or the weight is not a finite constant, or where the weight is shared.

    *Needs* masks folded into the weights (``fold-masks``).

    ``BatchNormalization(Conv(x, W))`` -> ``Conv(x, W', b')``
    """

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        norms = [node for node in context.graph if node.op_type == "BatchNormalization" and node.domain == ""]
        if not norms:
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        folded = sum(_fold(node, edit, context.constants) for node in norms)
        return context.record({"norms": folded})


def _fold(norm: ir.Node, edit: Edit, constants: Constants) -> bool:
    value = norm.inputs[0]
    before = value.producer() if value is not None else None
    if value is None or before is None or before.domain != "" or before.graph is not edit.graph:
        return False
    if before.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if norm.attributes.get_int("training_mode", 0) or not norm.attributes.get_int("spatial", 1):
        return False
    if any(out.uses() or out.is_graph_output() for out in norm.outputs[1:]):
        return False
    groups = before.attributes.get_int("group", 1)
    if before.op_type == "ConvTranspose" and groups != 1:
        return False
    weight, bias = before.inputs[1], before.inputs[2] if len(before.inputs) > 2 else None
    axis = _rows(before)
    parameters = [constants.array(v) if v is not None and is_constant(v) else None for v in norm.inputs[1:5]]
    if weight is None or not is_constant(weight) or len(weight.uses()) != 1 or weight.is_graph_output():
        return False
    known, tensor = dims.static(weight), tensor_of(weight)
    old = None if bias is None else constants.array(bias) if is_constant(bias) else None
    if known is None or tensor is None or any(p is None for p in parameters) or (bias is not None and old is None):
        return False
    if before.op_type == "Gemm" and (
        before.attributes.get_float("beta", 1.0) != 1.0 or (old is not None and old.ndim > 1)
    ):
        return False
    scale, shift, mean, var = (np.asarray(p, np.float64) for p in parameters)
    channels = known[axis]
    if scale.shape != (channels,) or constants.finite(weight) is not True:
        return False
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
        first = np.zeros(scale.shape) if old is None else np.broadcast_to(old.astype(np.float64), scale.shape)
        folded_bias = (first - mean) * factor + shift
    if not (np.isfinite(factor).all() and np.isfinite(folded_bias).all()):
        return False
    shape = [-1 if i == axis else 1 for i in range(len(known))]
    dtype = tensor.dtype.numpy()

    def scaled(array: np.ndarray) -> np.ndarray:
        return (array * factor.reshape(shape)).astype(dtype)

    new = weights.derived(tensor, scaled, [size or 0 for size in known])
    before.replace_input_with(1, edit.initializer(new, f"{weight.name}_normed"))
    if len(before.inputs) < 3:
        before.resize_inputs(3)
    before.replace_input_with(2, edit.constant(folded_bias.astype(dtype), f"{value.name}_bias", tensor.dtype))
    out = norm.outputs[0]
    edit.stand_in(out, value, list(out.uses()))
    edit.graph.remove(norm, safe=True)
    return True


def _rows(node: ir.Node) -> int:
    """Return the axis of the weight that makes the outputs."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0
