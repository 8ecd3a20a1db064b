"""Which taps of a convolution's windows lie on the image, and which on its zero padding.

A constant channel of value ``c`` adds ``c * sum_a W[o, a] * inside[t, a]`` to output ``t`` (for several spatial axes,
the product of their ``inside``). That is the same for all ``t`` whose windows are cut off alike: there are few such
kinds, however large the image is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Mask


def windows(node: ir.Node, image: tuple[dims.Size, ...] | None = None) -> list[Mask] | None:
    """Return for every spatial axis ``[t, a]`` (bool): does tap ``a`` of output ``t`` read the image?

    ``image``: the sizes of the input, where those that it has now are not those that the node is to read.
    ``None`` where a size is not known, and for padding that is not written as numbers (ConvTranspose).
    """
    kernel, result = dims.static(node.inputs[1]), dims.static(node.outputs[0])
    image = dims.static(node.inputs[0]) if image is None else image
    if image is None or kernel is None or result is None or node.op_type not in ("Conv", "ConvTranspose"):
        return None
    rank = len(image) - 2
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if node.op_type == "ConvTranspose" and (automatic != "NOTSET" or "output_shape" in node.attributes):
        return None
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    pads = node.attributes.get_ints("pads", [0] * (2 * rank))
    found = []
    for axis in range(rank):
        size, taps, outputs = image[2 + axis], kernel[2 + axis], result[2 + axis]
        if not isinstance(size, int) or taps is None or outputs is None:
            return None
        stride, dilation, before = strides[axis], dilations[axis], pads[axis]
        if automatic.startswith("SAME"):
            missing = max((outputs - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
            before = missing // 2 if automatic == "SAME_UPPER" else missing - missing // 2
        elif automatic == "VALID":
            before = 0
        found.append(_window(node.op_type, size, taps, outputs, stride, dilation, before))
    return found


@lru_cache(maxsize=256)
def _window(operator: str, size: int, taps: int, outputs: int, stride: int, dilation: int, before: int) -> Mask:
    """Return ``[t, a]`` of one axis; remembered, for many layers of a net have the same."""
    output, tap = np.arange(outputs)[:, None], np.arange(taps)[None, :] * dilation
    if operator == "Conv":
        place = output * stride + tap - before
        return (place >= 0) & (place < size)
    place = output + before - tap
    return (place % stride == 0) & (place >= 0) & (place < size * stride)


def kinds(inside: Mask) -> tuple[Mask, np.ndarray]:
    """Return the different rows of ``[t, a]``, in order of appearance, and which of them each ``t`` has."""
    return _kinds(inside.tobytes(), inside.shape)


@lru_cache(maxsize=256)
def _kinds(rows: bytes, shape: tuple[int, ...]) -> tuple[Mask, np.ndarray]:
    inside = np.frombuffer(rows, bool).reshape(shape)
    _, first, which = np.unique(inside, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return inside[first[order]], rank[which.ravel()]


def border_map(sums: np.ndarray, inside: list[Mask]) -> np.ndarray:
    """Return ``[o, t...]``: what constants add to each output; ``sums`` (``[o, a...]``): they times the weights."""
    result = sums
    for axis, rows in enumerate(inside):
        result = np.moveaxis(np.tensordot(result, rows.astype(np.float64), axes=(1 + axis, 1)), -1, 1 + axis)
    return result
