"""The optimizer of a stage, by its settings."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.train.settings import Settings


def optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return a new optimizer of all parameters that are trained.

    Raises:
        GraphoptError: There is none, or its type holds no step of Adam.
    """
    learnt = [one for one in net.parameters() if one.requires_grad]
    if not learnt:
        raise GraphoptError("no parameter of the net is trained", type(net).__name__, "let some have requires_grad")
    half = [name for name, one in net.named_parameters() if one.requires_grad and one.dtype == torch.float16]
    if half and settings.optimizer != "sgd":  # its epsilon of 1e-8 is zero there, and small gradients' squares are, too
        raise GraphoptError(
            f"a net of float16 cannot be trained by {settings.optimizer}: squares of its gradients are zero there",
            half[0],
            "make the net of float32; autocast: bfloat16 computes in half the bits and keeps the weights whole",
        )
    if settings.decay_vectors:
        groups = [{"params": learnt}]
    else:
        vectors = [one for one in learnt if one.ndim <= 1]
        groups = [
            {"params": [one for one in learnt if one.ndim > 1]},
            {"params": vectors, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.rate, weight_decay=settings.weight_decay)
