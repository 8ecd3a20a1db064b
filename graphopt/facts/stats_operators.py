"""What calls of runtime operators compute and hold; their definitions are neither work nor weights.

Part of ``graphopt.facts.stats``. A rule gets the sizes of the operator's inputs and output, 1 where one is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from graphopt.runtime_ops.operator import DOMAIN

Sizes = Sequence[Sequence[int]]
Rule = Callable[[ir.Node, Sizes, Sequence[int]], int]
"""(node, sizes of each input, sizes of the output) -> multiply-adds."""


def _window(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``w[channels, channels / group, window…]``."""
    return math.prod(written) * math.prod(read[1][1:])


def _bit_window(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``weights[channels, window…, bytes]``, each byte 8 of the input's channels (the last one perhaps fewer)."""
    channels = read[0][1] // max(1, node.attributes.get_int("group", 1)) if len(read[0]) > 1 else 1
    return math.prod(written) * math.prod(read[1][1:-1]) * channels


def _columns(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``w[k, n]``."""
    return math.prod(written) * (read[1][0] if read[1] else 1)


def _rows(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """Packed weights: the last axis of ``x`` is what is summed over."""
    return math.prod(written) * (read[0][-1] if read[0] else 1)


def _kept(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``values``: a multiply-add for each that is stored and each row (or pixel)."""
    shape = node.attributes.get_ints("shape", (1, 1))
    outputs = shape[0] if len(shape) > 2 else shape[-1]
    return math.prod(written) // max(1, outputs) * math.prod(read[1])


def _blocks(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``weights[blocks, k, n]``, each read by every row of ``x``."""
    return math.prod(read[4]) * math.prod(read[1][:-1]) if len(read) > 4 else 0


def _half(node: ir.Node, read: Sizes, written: Sequence[int]) -> int:
    """``values[n, k / 2]``."""
    return math.prod(written) * read[1][-1] if read[1] else 0


MACS: Mapping[str, Rule] = {
    "BinaryConv": _bit_window,
    "BinaryConvSign": _bit_window,
    "BinaryGemm": _rows,
    "BinaryGemmSign": _rows,
    "GatherGemmScatter": _blocks,
    "Int8Conv": _window,
    "Int8ConvAdd": _window,
    "Int8Gemm": _columns,
    "Int8GemmAdd": _columns,
    "SparseConv": _kept,
    "SparseGemm": _kept,
    "SparseGemm24": _half,
    "TernaryGemm": _rows,
}

STORED: Mapping[tuple[str, str], tuple[int, ...]] = {
    **{(DOMAIN, name): (1, 3) for name in ("Int8Conv", "Int8ConvAdd", "Int8Gemm", "Int8GemmAdd")},
    **{
        (DOMAIN, name): (1,) for name in ("BinaryConv", "BinaryConvSign", "BinaryGemm", "BinaryGemmSign", "TernaryGemm")
    },
}
"""Inputs at which a constant of integers stands for numbers: weights and biases."""


def packed(node: ir.Node) -> int:
    """Return how many numbers one element of such an input holds: bits and codes lie in bytes."""
    if node.op_type.startswith("Binary"):
        return 8
    return 8 // max(1, node.attributes.get_int("bits", 2)) if node.op_type == "TernaryGemm" else 1


def macs(node: ir.Node, sizes: Callable[[ir.Value | None], list[int] | None]) -> int:
    """Return the multiply-adds of a call, 0 for operators that only move numbers."""
    rule = MACS.get(node.op_type)
    read = [sizes(value) or [] for value in node.inputs]
    written = sizes(node.outputs[0])
    return 0 if rule is None or written is None or len(read) < 2 else rule(node, read, written)
