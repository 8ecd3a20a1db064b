"""Batch-norms that no convolution takes up, as convolutions of every channel by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class NormToConvolution:
    """Write a batch-norm in evaluation mode, in front of a convolution, as a depthwise 1x1 convolution.

    ``y_c = s_c x_c + b_c`` with ``s = scale / sqrt(var + epsilon)``, ``b = shift - mean s``, computed in float64 and
    rounded once. No runtime has an integer batch-norm; a depthwise convolution it has, and one weight with a scale of
    its own is exact on integers. So nets that norm in front of their convolutions (DenseNet, pre-activation ResNets)
    stay on integers between them.

    1. ``BatchNormalization`` of images whose output a ``Conv`` or a mean over pixels reads, perhaps behind a Relu.

    *Never* in training mode, where a parameter is no finite constant, where the channels are no multiple of 16 (the
    integer kernel takes twice as long), or on a graph input.

    *Needs* norms folded where they can be (``fold-batch-norm``).

    ``Conv(Relu(BatchNormalization(x: [N, 32, H, W])))`` -> ``Conv(Relu(Conv(x, W: [32, 1, 1, 1], b){group=32}))``
    """

    name: ClassVar[str] = "norm-to-convolution"
    stage: ClassVar[str] = "prepare"

    def run(self, context: Context) -> bool:
        """Run on the main graph, where activations are quantized for onnxruntime's CPU provider."""
        state = context.quantization
        if state is not None and (state.request.weight_only or state.request.target != "cpu"):
            return False
        if "BatchNormalization" not in context.operators():
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        written = sum(_rewrite(node, edit, context.constants) for node in list(context.model.graph))
        if written:
            remove_unused(context.model.graph)
        return context.record({"norms as convolutions": written})


def _rewrite(norm: ir.Node, edit: Edit, constants: Constants) -> bool:
    if norm.op_type != "BatchNormalization" or norm.domain not in ("", "ai.onnx") or len(norm.outputs) != 1:
        return False
    x, out = norm.inputs[0], norm.outputs[0]
    sizes = dims.sizes(x)
    if x is None or x.producer() is None or sizes is None or len(sizes) != 4 or x.dtype != ir.DataType.FLOAT:
        return False
    channels = sizes[1]
    if not isinstance(channels, int) or channels % 16 or channels == 0 or norm.attributes.get_int("training_mode", 0):
        return False
    if not norm.attributes.get_int("spatial", 1) or not _convolved(out):
        return False
    parameters = [constants.array(value) for value in norm.inputs[1:5]]
    if any(p is None or p.shape != (channels,) or not np.isfinite(p).all() for p in parameters):
        return False
    scale, shift, mean, var = (np.asarray(p, np.float64) for p in parameters)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
        bias = shift - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(bias).all()):
        return False
    weight = edit.constant(factor.astype(np.float32).reshape(-1, 1, 1, 1), f"{out.name}_weight")
    row = edit.constant(bias.astype(np.float32), f"{out.name}_bias")
    place = Cursor(edit.graph, before=norm)
    group = [ir.AttrInt64("group", channels)]
    result = edit.node("Conv", [x, weight, row], place, str(out.name), sizes, out, group)
    edit.stand_in(out, result, list(out.uses()))
    edit.graph.remove(norm, safe=True)
    conv = result.producer()
    assert conv is not None
    conv.name = norm.name  # who names the norm in an option means this one
    return True


def _convolved(out: ir.Value) -> bool:
    """Tell whether something with an integer kernel reads a value, perhaps behind one activation."""
    readers = [use.node for use in out.uses()]
    readers += [use.node for one in readers if one.op_type in ("Relu", "Clip") for use in one.outputs[0].uses()]
    return any(node.op_type in ("Conv", "GlobalAveragePool", "ReduceMean") for node in readers)
