"""What stands for the derivative of sign in published estimators, behind the same interface as the series."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.train.binary.bases import between, widened, within


@dataclass(frozen=True)
class StraightThrough:
    """The straight-through estimator: the identity, clipped; its derivative is 1 for ``|t| <= 1``.

    Source: Hubara et al., "Binarized Neural Networks", NeurIPS 2016.
    """

    reach: float = 1.0

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return ``clamp(t, -1, 1)``."""
        return t.clamp(-self.reach, self.reach)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return 1 within the reach."""
        return within(t, self.reach, torch.ones_like(t))


@dataclass(frozen=True)
class SoftQuantization:
    """Differentiable soft quantization of one bit: ``tanh(k t) / tanh(k)``, steeper as ``k`` grows.

    Source: Gong et al., "Differentiable Soft Quantization", ICCV 2019, on [-1, 1] with one interval. There ``k`` is
    learnt; here it goes from ``first`` to ``last``.
    """

    first: float = 1.0
    last: float = 5.0
    reach: float = 1.0

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return ``tanh(k t) / tanh(k)``."""
        k = between(self.first, self.last, share)
        return (torch.tanh(k * widened(t).clamp(-self.reach, self.reach)) / math.tanh(k)).to(t.dtype)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return ``k (1 - tanh(k t)^2) / tanh(k)``."""
        k = between(self.first, self.last, share)
        return within(t, self.reach, k / math.tanh(k) * (1 - torch.tanh(k * widened(t)) ** 2))


@dataclass(frozen=True)
class BiReal:
    """A piecewise quadratic function: ``2 t - sign(t) t^2``; its derivative is the triangle ``2 - 2 |t|``.

    Source: Liu et al., "Bi-Real Net", ECCV 2018.
    """

    reach: float = 1.0

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return ``t (2 - |t|)``."""
        x = t.clamp(-self.reach, self.reach)
        return x * (2 - x.abs())

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return ``2 - 2 |t|``."""
        return within(t, self.reach, 2 - 2 * t.abs())


@dataclass(frozen=True)
class RectifiedStraightThrough:
    """ReSTE: the power function ``sign(t) |t|^(1/o)``, with ``o`` from 1 (straight-through) to ``last``.

    Its derivative ``|t|^(1/o - 1) / o`` has no bound at 0: within ``chord`` the function is the chord through 0.
    ``o = 1 + (last - 1) (1 - cos(pi share / 2))``.

    Source: Wu et al., "Estimator Meets Equilibrium Perspective", ICCV 2023, with ``last`` 3, reach 1.5, chord 0.1.
    """

    last: float = 3.0
    reach: float = 1.5
    chord: float = 0.1

    def power(self, share: float) -> float:
        """Return ``o`` at this share of the training."""
        return 1 + (self.last - 1) * (1 - math.cos(math.pi / 2 * share))

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return the power function, and near 0 the chord."""
        o, x = self.power(share), widened(t).clamp(-self.reach, self.reach)
        outside = x.sign() * x.abs().clamp_min(self.chord) ** (1 / o)
        return torch.where(x.abs() <= self.chord, x * self.chord ** (1 / o - 1), outside).to(t.dtype)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return its derivative; near 0 the slope of the chord."""
        o, size = self.power(share), widened(t).abs()
        outside = size.clamp_min(self.chord) ** (1 / o - 1) / o
        slope = torch.full_like(size, self.chord ** (1 / o - 1))
        return within(t, self.reach, torch.where(size <= self.chord, slope, outside))
