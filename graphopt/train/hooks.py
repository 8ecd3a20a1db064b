"""What has a say in every step of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Hook:
    """Called by the trainer; every method may be left as it is. Its state is part of the checkpoint."""

    def at(self, share: float) -> None:
        """Before a step: this share of the stage is done, from 0 up to, not including, 1."""

    def after_backward(self) -> None:
        """Gradients are there, the optimizer has not stepped."""

    def after_step(self) -> None:
        """The optimizer has stepped."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


class Held(Hook):
    """Some numbers of some parameters stay what they are, bit by bit: pruned weights 0, quantized ones their level.

    Momentum, Adam's moments and weight decay move weights without a gradient. So the gradient is zeroed where a number
    is held, and the number is written back after each step.
    """

    def __init__(self, net: nn.Module) -> None:
        self._parameters = dict(net.named_parameters())
        self._masks: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By parameter name, bool of its shape: True where it is held."""
        return self._masks

    @torch.no_grad()
    def hold(self, name: str, where: Tensor, value: float | Tensor | None = None) -> None:
        """Hold the numbers of a parameter where ``where`` is True (bool, of its shape), and those held before.

        ``value``: set them to this now (a number, or a tensor of the parameter's shape); None: as they are now. What
        was held before keeps its value.

        Raises:
            KeyError: No parameter has this name.
        """
        parameter = self._parameters[name]
        where = where.to(parameter.device)
        before = self._masks.get(name, torch.zeros_like(where))
        fresh = where & ~before
        if value is not None:
            parameter.copy_(
                torch.where(fresh, torch.as_tensor(value, dtype=parameter.dtype).to(parameter.device), parameter)
            )
        self._masks[name] = before | fresh
        self._values[name] = parameter.detach().clone()

    def release(self, name: str) -> None:
        """Hold nothing of a parameter any more."""
        self._masks.pop(name, None)
        self._values.pop(name, None)

    def after_backward(self) -> None:
        """Zero the gradient of what is held."""
        for name, mask in self._masks.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(mask, 0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Write back what is held."""
        for name, mask in self._masks.items():
            parameter = self._parameters[name]
            parameter.copy_(torch.where(mask, self._values[name], parameter))

    def state_dict(self) -> dict[str, Any]:
        """Return masks and values."""
        return {"masks": dict(self._masks), "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take masks and values."""
        device = {name: one.device for name, one in self._parameters.items()}
        self._masks = {name: mask.to(device[name]) for name, mask in state["masks"].items()}
        self._values = {name: value.to(device[name]) for name, value in state["values"].items()}
