"""The sign, with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphopt.train.binary.bases import Basis
from graphopt.train.binary.error import ErrorModule


def signs(t: Tensor) -> Tensor:
    """Return +1 where ``t > 0`` and -1 elsewhere: for 0, -0 and NaN, too; in the type of ``t``.

    This is the form that is exported: ``Where(x > 0, 1, -1)``.
    """
    return torch.where(t > 0, 1.0, -1.0).to(t.dtype)


class _Sign(torch.autograd.Function):
    """``signs`` forward, a basis backward."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, basis: Basis, share: float) -> Tensor:
        ctx.save_for_backward(t)
        ctx.basis, ctx.share = basis, share
        return signs(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        return gradients[0] * ctx.basis.gradient(t, ctx.share), None, None


def sign(t: Tensor, basis: Basis, share: float) -> Tensor:
    """Return ``signs(t)``; the gradient is that of the basis at this share of the training."""
    if t.requires_grad and torch.is_grad_enabled():
        return _Sign.apply(t, basis, share)  # type: ignore[return-value]
    return signs(t)


class Sign(nn.Module):
    """``sign(t) + alpha e(t)`` while training, ``sign(t)`` in eval mode.

    ``share`` and ``alpha`` follow the training (see ``schedules.Course``).
    """

    def __init__(self, basis: Basis, error: ErrorModule | None = None, alpha: float = 0.0) -> None:
        super().__init__()
        self.basis, self.error = basis, error
        self.share, self.alpha = 0.0, alpha

    def forward(self, t: Tensor) -> Tensor:
        """Return the signs of ``[N, ...]``, for an image ``[N, C, H, W]``; weights come as ``[out, in]``."""
        found = sign(t, self.basis, self.share)
        if self.error is None or not self.training or self.alpha == 0:
            return found
        return found + self.alpha * self.error(t)
