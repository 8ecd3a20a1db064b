"""What the training commands need to know: ``graphopt prune char_gpt``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphopt.models.char_gpt.export import INPUT, OUTPUT, feeds, to_onnx
from graphopt.models.char_gpt.module import new
from graphopt.models.char_gpt.units import groups
from graphopt.models.data import shakespeare
from graphopt.train.family import Family
from graphopt.train.task import LANGUAGE


def example(net: nn.Module) -> tuple[Tensor, ...]:
    """Return two samples of five ids: the form that is trained, without a cache."""
    return (torch.zeros(2, 5, dtype=torch.int64),)


FAMILY = Family("char_gpt", new, shakespeare.load, LANGUAGE, example, to_onnx, INPUT, OUTPUT, feeds, groups)
