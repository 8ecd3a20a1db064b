"""What families that sort samples into classes have in common: one input, logits, the batch left open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn

from graphopt.torch_export import export
from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.task import CLASSIFICATION

Net = TypeVar("Net", bound=nn.Module)

OUTPUT = "logits"
"""Name of the ONNX output: ``[batch, classes]``."""


def classifier(name: str, new: Callable[..., nn.Module], data: Callable[..., Data], input: str = "image") -> Family:
    """Return the family of nets that take one tensor and return logits ``[n, classes]``.

    The net has an attribute ``shape``: that of one sample. ``input`` is what ``forward`` calls its argument, and the
    name of the ONNX input.
    """

    def to_onnx(net: nn.Module) -> ir.Model:
        return export(net, example(net), dynamic_shapes={input: {0: "batch"}}, output_names=[OUTPUT])

    return Family(name, new, data, CLASSIFICATION, example, to_onnx, input, OUTPUT)


def example(net: nn.Module) -> tuple[Tensor, ...]:
    """Return two samples of zeros, as the net takes them."""
    return (torch.zeros(2, *cast("tuple[int, ...]", net.shape)),)


def seeded(seed: int, build: Callable[[], Net]) -> Net:
    """Return what ``build`` makes, with the same random numbers for the same seed; torch's own go on undisturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
