"""What onnxruntime's MatMulNBits computes, in numpy, and a way to quantize only the weights of a small model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model as models
from graphopt import rounds
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import Parameters
from graphopt.quantization import weight_only
from graphopt.quantization.placement import Placement
from graphopt.quantization.request import Request
from graphopt.quantization.weight_only import rounding
from graphopt.rounds import Settings


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """Accuracy level 4: ``[..., K]`` in 8 bits, each block of K with the scale ``max |x| / 127``."""
    size = x.shape[-1]
    missing = -size % block
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]).reshape(*x.shape[:-1], -1, block)
    scale = np.abs(blocks).max(axis=-1, keepdims=True, initial=0) / np.float32(127)
    back = np.rint(blocks / np.where(scale == 0, 1, scale)) * scale
    return back.reshape(*x.shape[:-1], -1)[..., :size].astype(np.float32)


def unpacked(stored: np.ndarray, bits: int, count: int) -> np.ndarray:
    """``count`` unsigned integers of ``bits`` from the last axis of bytes, low bits first."""
    each = [(stored >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)]
    return (
        np.stack(each, axis=-1).reshape(*stored.shape[:-1], stored.shape[-1] * len(each))[..., :count].astype(np.int64)
    )


def nearest(rows: np.ndarray, scale: np.ndarray, zero: np.ndarray, block: int, grid: Grid) -> np.ndarray:
    """The integers of the nearest levels, ``[rows, K]``."""
    return rounding.rounded(rows, scale, zero, block, grid, balanced=False)


def array(value: ir.Value | None) -> np.ndarray:
    """The array of an initializer."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def weight_of(node: ir.Node) -> np.ndarray:
    """The weight ``[N, K]`` that a MatMulNBits reads, float64."""
    sizes = {name: node.attributes.get_int(name, 0) for name in ("K", "N", "bits", "block_size")}
    bits, block = sizes["bits"], sizes["block_size"]
    count = -(-sizes["K"] // block)
    stored = array(node.inputs[1]).reshape(sizes["N"], -1)
    codes = unpacked(stored, bits, count * block)
    zero = np.full((sizes["N"], count), 2 ** (bits - 1))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zero = unpacked(array(node.inputs[3]), bits, count)
    scale = array(node.inputs[2]).astype(np.float64).reshape(sizes["N"], count)
    centred = codes.reshape(sizes["N"], count, block) - zero[:, :, None]
    return (centred * scale[:, :, None]).reshape(sizes["N"], -1)[:, : sizes["K"]]


def exact(model: ir.Model) -> ir.Model:
    """The same model without rounding of activations."""
    copied = models.clone(model)
    for node in copied.graph.all_nodes():
        if node.op_type == "MatMulNBits":
            node.attributes.pop("accuracy_level", None)
    return copied


def quantized(proto: onnx.ModelProto, **options: Any) -> tuple[ir.Model, Placement, dict[ir.Value, Parameters]]:
    """The model with integer weights, what was placed, and the scales."""
    request = Request(activations="none", **options)
    context = rounds.prepare(models.load(proto), Settings((), target="portable"))
    placement = weight_only.place(context, request)
    found: dict[ir.Value, Parameters] = {}
    weight_only.insert(context, placement, found, {}, request)
    return context.model, placement, found


def only(model: ir.Model, op_type: str) -> ir.Node:
    """The one node of a type."""
    (node,) = [node for node in model.graph.all_nodes() if node.op_type == op_type]
    return node
