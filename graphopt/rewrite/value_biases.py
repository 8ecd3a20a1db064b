"""Biases of values move behind attention: the edit. Which may is in ``graphopt.facts.value_biases``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.value_biases import Bias, Move
from graphopt.rewrite.edit import Edit


def move_bias(move: Move, edit: Edit) -> bool:
    """Take a move's positions out of the bias of the values, and add what they amount to behind the output projection.

    Computed in float64 and rounded once. Returns False, and changes nothing, where the sum is too large for its type.
    """
    row, weight = _array(move.bias, edit), edit.facts.constants.array(move.product.inputs[1])
    assert weight is not None
    matrix = weight.astype(np.float64)
    alpha = 1.0
    if move.product.op_type == "Gemm":
        alpha = move.product.attributes.get_float("alpha", 1.0)
        matrix = matrix.T if move.product.attributes.get_int("transB", 0) else matrix
    shift = alpha * (np.where(move.moved, row.ravel().astype(np.float64), 0.0)[move.places] @ matrix)
    old = None if move.behind is None else _array(move.behind, edit)
    total = shift if old is None else old.astype(np.float64) + shift.reshape((1,) * (old.ndim - 1) + (-1,))
    with np.errstate(over="ignore"):
        total = total.astype(row.dtype)
    if not np.isfinite(total.astype(np.float64)).all():
        return False
    left = np.where(move.moved.reshape(row.shape), np.zeros(1, row.dtype), row)
    _replace(move.bias, left, edit)
    if move.behind is not None:
        _replace(move.behind, total, edit)
    else:
        _give(move.product, total, edit)
    return True


def _array(bias: Bias, edit: Edit) -> np.ndarray:
    array = edit.facts.constants.array(bias.node.inputs[bias.position])
    assert array is not None
    return array


def _replace(bias: Bias, array: np.ndarray, edit: Edit) -> None:
    old = bias.node.inputs[bias.position]
    assert old is not None
    bias.node.replace_input_with(bias.position, edit.constant(array, f"{old.name}_moved", old.dtype))


def _give(product: ir.Node, array: np.ndarray, edit: Edit) -> None:
    """Give a product that has none a bias."""
    out = product.outputs[0]
    bias = edit.constant(array, f"{out.name}_bias", out.dtype)
    if product.op_type == "Gemm":
        product.resize_inputs(3)
        product.replace_input_with(2, bias)
        return
    users = list(out.uses())
    new = edit.node("Add", [out, bias], edit.behind(out), f"{out.name}_biased", dims.sizes(out), out)
    edit.stand_in(out, new, users)
