"""What every score is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.train.prune.layers import Layer

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Of a net, inputs and targets: the mean over the batch, a scalar."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs as the net takes them, and targets; gone through once."""

Scores = dict[str, Tensor]
"""By parameter name, a number for each weight, of the parameter's shape; higher is more important."""


@dataclass(frozen=True)
class Weights:
    """A net and those of its weights that are scored.

    Attributes:
        net: The net, in eval mode.
        parameters: By name.
        layers: By parameter name, the layers that use it.
    """

    net: nn.Module
    parameters: dict[str, nn.Parameter]
    layers: dict[str, list[Layer]]


def some(samples: int) -> int:
    """Return how many samples were seen.

    Raises:
        UsageError: None.
    """
    if not samples:
        raise UsageError("there are no samples to compute scores from", help="give training data, or use 'magnitude'")
    return samples


def sums_of(parameter: Tensor) -> Tensor:
    """Return zeros of a parameter's shape to add numbers up in: of 32 bits at least, as 16 forget small addends."""
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32), requires_grad=False)
