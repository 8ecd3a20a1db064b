"""Prune and splice during training: a weight that was pruned by mistake comes back.

Guo, Yao and Chen 2016, "Dynamic Network Surgery for Efficient DNNs" (arXiv 1608.04493). The net computes with
``w * t``, t in {0, 1}, but all weights go on learning, with the gradient at ``w * t`` for the pruned ones, too. One
whose magnitude falls below the lower threshold is pruned, one above the upper threshold is spliced back, and one
between them stays what it is. Thresholds of the paper are given numbers; here they lie 10 % below and above the
magnitude that divides the weights as the cubic ramp asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.train.hooks import Hook
from graphopt.train.prune.selection import Scope, select
from graphopt.train.prune.structures import Masks, Single
from graphopt.train.schedules import cubic

WIDTH = 0.1
"""How far the two thresholds lie from the one between them, relative to it."""

SETTLED = 0.75
"""Share of training after which masks stay: exactly the amount is zero, the rest learns on."""


class Surgery(Hook):
    """Two thresholds on the magnitude of weights that go on learning.

    Between steps the net holds ``w * t``, so that it may be judged and saved at any time; ``w`` is kept here, and is in
    the net only while the optimizer steps.

    Args:
        net: The net.
        names: Parameters that are pruned.
        amount: Share of their weights that is zero in the end.
        scope: ``layer``: of each; ``global``: of all together.
    """

    def __init__(self, net: nn.Module, names: Sequence[str], amount: float, scope: Scope = "layer") -> None:
        parameters = dict(net.named_parameters())
        self._parameters = {name: parameters[name] for name in names}
        self._amount = amount
        self._scope: Scope = scope
        self._dense: dict[str, Tensor] = {}
        self._zero: Masks = {}
        self._share, self._settled = 0.0, False

    @property
    def masks(self) -> Masks:
        """By parameter name, bool of its shape: True where it is zero; empty before it began."""
        return dict(self._zero)

    @property
    def dense(self) -> Mapping[str, Tensor]:
        """The weights that learn, by parameter name: under the mask, too."""
        return self._dense

    def begin(self) -> None:
        """Prune and splice from now on."""
        for name, parameter in self._parameters.items():
            self._dense[name] = parameter.detach().clone()
            self._zero[name] = torch.zeros_like(parameter, dtype=torch.bool)

    def end(self) -> Masks:
        """Prune and splice no more, and return what is zero: exactly the amount."""
        if self._dense and not self._settled:
            self._settle()
            self._apply()
        self._dense, self._settled = {}, False
        return self.masks

    def at(self, share: float) -> None:
        """Remember how far training is."""
        self._share = share

    @torch.no_grad()
    def after_backward(self) -> None:
        """Let the optimizer step from the weights themselves, with the gradient at the masked ones."""
        for name, weights in self._dense.items():
            self._parameters[name].copy_(weights)

    @torch.no_grad()
    def after_step(self) -> None:
        """Prune, splice, and mask."""
        if not self._dense:
            return
        for name, weights in self._dense.items():
            weights.copy_(self._parameters[name])
        if self._share < SETTLED:
            self.operate(cubic(0.0, self._amount, self._share / SETTLED))
        elif not self._settled:
            self._settle()
        self._apply()

    def operate(self, amount: float) -> None:
        """Prune below the lower threshold and splice above the upper one; about this share is zero then."""
        magnitudes = {name: weights.abs() for name, weights in self._dense.items()}
        pools = [[name] for name in magnitudes] if self._scope == "layer" else [list(magnitudes)]
        for pool in pools:
            numbers = torch.cat([magnitudes[name].flatten() for name in pool])
            count = min(round(amount * len(numbers)), len(numbers) - 1)
            below, above = (float(numbers.kthvalue(k).values) for k in (count, count + 1)) if count > 0 else (0.0, 0.0)
            low, high = (factor * (below + above) / 2 for factor in (1 - WIDTH, 1 + WIDTH))
            for name in pool:
                here, zero = magnitudes[name], self._zero[name]
                self._zero[name] = (zero & (here <= high)) | (here < low)
                self._zero[name][torch.unravel_index(here.argmax(), here.shape)] = False  # no layer is emptied

    def _settle(self) -> None:
        """Let exactly the amount be zero: the smallest of the weights that learn."""
        magnitudes = {name: weights.abs() for name, weights in self._dense.items()}
        pools = [Single(name, weights.shape) for name, weights in self._dense.items()]
        chosen = select(pools, magnitudes, {}, self._amount, self._scope)
        self._zero = {name: mask.to(self._dense[name].device) for name, mask in chosen.items()}
        self._settled = True

    @torch.no_grad()
    def _apply(self) -> None:
        for name, weights in self._dense.items():
            self._parameters[name].copy_(weights.masked_fill(self._zero[name], 0))

    def state_dict(self) -> dict[str, Any]:
        """Return weights and masks."""
        return {"dense": dict(self._dense), "zero": dict(self._zero), "settled": self._settled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take weights and masks."""
        device = {name: one.device for name, one in self._parameters.items()}
        self._dense = {name: one.to(device[name]) for name, one in state["dense"].items()}
        self._zero = {name: one.to(device[name]) for name, one in state["zero"].items()}
        self._settled = state["settled"]
