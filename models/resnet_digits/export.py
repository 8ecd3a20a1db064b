"""From the torch module to ONNX, with the masks left where they are."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from graphopt.torch_export import export

INPUT = "image"
OUTPUT = "logits"


def to_onnx(net: nn.Module) -> ir.Model:
    """The net as ONNX: input `image` [batch, 1, 8, 8], output `logits` [batch, 10], the batch size left open."""
    example = torch.zeros(2, 1, 8, 8)
    return export(net, (example,), dynamic_shapes={INPUT: {0: "batch"}}, output_names=[OUTPUT])
