"""Which lowering each kind of work takes on a target, where runtime operators were asked for.

A row names a pass with its options, as ``-p`` takes them, or says why the standard form stays. The order of the rows is
that in which the passes run: what reads a larger pattern comes before what reads a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Lowering:
    """What is done with one kind of work: a pass, or nothing for a reason.

    Attributes:
        passes: A pass with its options, as ``registry.parse`` reads it; empty: the standard operators stay.
        reason: Why they stay.
    """

    passes: str = ""
    reason: str = ""


LOWERINGS: Mapping[str, Mapping[str, Lowering]] = {
    "cpu": {
        "quantized convolution": Lowering(reason="onnxruntime's CPU provider has QLinearConv"),
        "quantized product": Lowering(reason="onnxruntime's CPU provider has QGemm and QLinearMatMul"),
        "binary convolution": Lowering("lower-binary"),
        "binary product": Lowering("lower-binary"),
        "sparse weight": Lowering("lower-sparse{zeros=0.8,products=0.85}"),
        "narrowed LayerNorm": Lowering("lower-norms"),
        "weight of a few levels": Lowering("lower-low-bits"),
        "weight of blocks": Lowering("lower-blocks"),
        "residual join": Lowering("lower-moves"),
        "scatter": Lowering("lower-moves"),
        "gather of the last axis": Lowering("lower-moves"),
    },
    "cuda": {
        "activations of uint8": Lowering("signed-activations"),
        "quantized convolution": Lowering("lower-int8"),
        "quantized product": Lowering("lower-int8"),
        "images of int8 convolutions": Lowering("channels-last"),
        "binary convolution": Lowering(reason="not measured on a GPU yet"),
        "binary product": Lowering(reason="not measured on a GPU yet"),
        "sparse weight": Lowering(reason="tensor cores multiply zeros faster than anything looks them up"),
        "2:4 weight": Lowering(
            reason="not measured on a GPU yet, and slow without cuSPARSELt; -p lower-semi-structured"
        ),
        "narrowed LayerNorm": Lowering("lower-norms"),
        "weight of a few levels": Lowering(reason="not measured on a GPU yet; int8 products take them"),
        "weight of blocks": Lowering("lower-blocks"),
        "residual join": Lowering("lower-moves{gathers=false}"),
        "scatter": Lowering("lower-moves{gathers=false}"),
    },
    "portable": {},
    "tensorrt": {},
}
"""By target and kind of work; a kind that a target's table lacks stays in standard operators."""
