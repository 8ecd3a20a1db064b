"""What the truncated series leaves out, learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROWER = 64
"""The hidden layer is so many times narrower than what comes in."""

RESIDUAL = 0.1
"""Weight of the residual ``sin t``."""


class ErrorModule(nn.Module):
    """``e(t) = relu(t W1) W2 + 0.1 sin t``: two layers without biases, and a residual.

    Added to sign while training, with a weight that falls to 0; what is deployed does not have it. A row ``t`` is what
    one place of an image holds (its channels), what one sample holds, or one filter of weights.

    Source: the noise adaptation module of FDA-BNN, NeurIPS 2021.
    """

    def __init__(self, size: int, axis: Literal[1, -1] = 1) -> None:
        """``size``: numbers in a row, ``d``; the hidden layer has ``max(1, d / 64)``.

        ``axis``: where the row is in an input of four axes: 1 in an image, -1 in what a linear layer reads.
        """
        super().__init__()
        self.axis = axis
        width = max(1, size // NARROWER)
        self.first = nn.Linear(size, width, bias=False)
        self.second = nn.Linear(width, size, bias=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the error of ``[..., d]``, or of an image ``[N, d, H, W]`` place by place."""
        if t.ndim == 4 and self.axis == 1:
            hidden = functional.relu(functional.conv2d(t, self.first.weight[:, :, None, None]))
            return functional.conv2d(hidden, self.second.weight[:, :, None, None]) + RESIDUAL * torch.sin(t)
        return self.second(functional.relu(self.first(t))) + RESIDUAL * torch.sin(t)
