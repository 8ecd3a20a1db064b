"""What stands for the derivative of sign: truncated series.

The derivative of sign is an impulse, ``2 delta(t)``. Written in an orthogonal basis ``b_m`` it is
``sum_m 2 b_m(0) b_m(t) / |b_m|^2``; a truncated sum is something that a gradient can flow through. The longer the sum,
the higher and narrower it is. That is the idea of FDA-BNN (Xu et al., "Learning Frequency Domain Approximation for
Binary Neural Networks", NeurIPS 2021; US 18/362,435), there with sines of a square wave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Basis(Protocol):
    """A stand-in for sign: a function that is odd and rises at 0, and its derivative.

    ``share`` is how much of the training is done, 0 to 1; functions change with it. Tensors of any shape; results have
    the shape and the type of ``t``, and types of less than 32 bits are computed in float32.
    """

    @property
    def reach(self) -> float:
        """The gradient is 0 where ``|t|`` is larger than this."""
        ...

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return the function itself; beyond the reach it stays what it is at its end."""
        ...

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return its derivative; 0 beyond the reach, and for NaN."""
        ...


def widened(t: Tensor) -> Tensor:
    """Return numbers of at least 32 bits."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def within(t: Tensor, reach: float, inside: Tensor) -> Tensor:
    """Return ``inside`` where ``|t| <= reach``, elsewhere (and for NaN) 0, in the type of ``t``."""
    return torch.where(t.abs() <= reach, inside, torch.zeros((), dtype=inside.dtype, device=t.device)).to(t.dtype)


def between(first: float, last: float, share: float) -> float:
    """Return the number that lies at this share of the way."""
    return first + (last - first) * share


def terms(first: int, last: int, share: float) -> int:
    """Return ``n`` at this share of the training: every number from first to last takes as much of it."""
    return min(int(between(first, last + 1, share)), last)


@dataclass(frozen=True)
class Fourier:
    """The Fourier series of a square wave with half period ``pi / omega``.

    ``s_n(t) = (4 / pi) sum_{i=0..n} sin((2i+1) omega t) / (2i+1)``, which has ``n + 1`` terms, and

    ``s_n'(t) = (4 omega / pi) sum_{i=0..n} cos((2i+1) omega t) = (2 omega / pi) sin(2(n+1) omega t) / sin(omega t)``,

    at ``t = 0`` by the limit ``(4 omega / pi) (n + 1)``; 0 for ``|t| > 1``. ``n`` grows from ``first`` to ``last``.

    Source: FDA-BNN, NeurIPS 2021, with ``omega`` 0.1 and ``n`` from 9 to 18. The gradient is negative for
    ``|t| > pi / (2 (n+1) omega)``, which lies within the reach from ``n = 15`` on.
    """

    omega: float = 0.1
    first: int = 9
    last: int = 18
    reach: float = 1.0

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return ``s_n``."""
        x = widened(t).clamp(-self.reach, self.reach) * self.omega
        odd = range(1, 2 * terms(self.first, self.last, share) + 2, 2)
        total = torch.zeros_like(x)
        for k in reversed(odd):  # the small ones first
            total = total + torch.sin(k * x) / k
        return (4 / math.pi * total).to(t.dtype)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return ``s_n'`` by its closed form."""
        count = terms(self.first, self.last, share) + 1
        x = widened(t) * self.omega
        flat = x.abs() < 1e-7  # the series is its limit to 1e-11 there; a denormal sine would not divide
        ratio = torch.sin(2 * count * x) / torch.sin(torch.where(flat, torch.ones_like(x), x))
        ratio = torch.where(flat, torch.full_like(x, 2.0 * count), ratio)
        return within(t, self.reach, 2 * self.omega / math.pi * ratio)


@dataclass(frozen=True)
class Haar:
    """The series in Haar wavelets on [-1, 1].

    Of the scaling function and the wavelets up to scale ``j``, those that touch 0 sum up to a box (0 is an edge, where
    each takes the mean of both sides): ``g_j(t) = 2^j`` for ``|t| <= 2^-j``, else 0. Its integral is the ramp
    ``clamp(2^j t, -1, 1)``; for ``j = 0`` that is the straight-through estimator. Between scales the finest wavelets
    count in part: ``g = (1 - f) g_j + f g_{j+1}``. The scale grows from ``first`` to ``last``.
    """

    first: float = 0.0
    last: float = 2.0
    reach: float = 1.0

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return the ramp, or the mixture of two."""
        scale = between(self.first, self.last, share)
        coarse, x = math.floor(scale), widened(t)
        low, high = ((x * 2.0**j).clamp(-1, 1) for j in (coarse, coarse + 1))
        return torch.lerp(low, high, scale - coarse).to(t.dtype)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return the box, or the mixture of two."""
        scale = between(self.first, self.last, share)
        coarse, x = math.floor(scale), widened(t)
        low, high = (2.0**j * (x.abs() <= 2.0**-j).to(x.dtype) for j in (coarse, coarse + 1))
        return within(t, self.reach, torch.lerp(low, high, scale - coarse))


@dataclass(frozen=True)
class DiscreteFourier:
    """The discrete Fourier transform of a sampled square wave, cut off, as a function of continuous ``t``.

    A period ``2 pi / omega`` is sampled at ``N`` places beside its jumps, ``t_m = (m + 1/2) 2 pi / (N omega)``. The
    transform gives ``c_k = (2 / N) sum_m sign(t_m) sin(k omega t_m)``, which is 0 for even ``k``, and

    ``d_n(t) = sum_{i=0..n} c_{2i+1} sin((2i+1) omega t)``,
    ``d_n'(t) = sum_{i=0..n} c_{2i+1} (2i+1) omega cos((2i+1) omega t)``, 0 for ``|t| > 1``.

    For large ``N`` this is ``Fourier``; a small one lifts the high frequencies, ``c_k = 4 / (N sin(pi k / N))``.
    """

    omega: float = 0.1
    first: int = 9
    last: int = 18
    samples: int = 256
    reach: float = 1.0

    @cached_property
    def coefficients(self) -> tuple[float, ...]:
        """``c_1, c_3, ...`` up to the largest ``n``."""
        n = self.samples
        wave = torch.ones(n, dtype=torch.float64)
        wave[n // 2 :] = -1
        spectrum = torch.fft.rfft(wave)  # of samples at m; half a sample further on, each frequency turns by pi k / n
        turn = torch.exp(-1j * math.pi / n * torch.arange(len(spectrum), dtype=torch.float64))
        return tuple((-2 / n * (spectrum * turn).imag)[1 : 2 * self.last + 2 : 2].tolist())

    def value(self, t: Tensor, share: float) -> Tensor:
        """Return ``d_n``."""
        x = widened(t).clamp(-self.reach, self.reach) * self.omega
        total = torch.zeros_like(x)
        for i in reversed(range(terms(self.first, self.last, share) + 1)):
            total = total + self.coefficients[i] * torch.sin((2 * i + 1) * x)
        return total.to(t.dtype)

    def gradient(self, t: Tensor, share: float) -> Tensor:
        """Return ``d_n'``, summed by Clenshaw's recurrence: no cosine a term.

        In the form of Reinsch, which takes differences ``b_i - b_{i+1}``: near 0 the plain one loses three digits.
        """
        x = widened(t).clamp(-self.reach, self.reach) * self.omega
        four = 4 * torch.sin(x) ** 2
        total, difference = torch.zeros_like(x), torch.zeros_like(x)
        for i in reversed(range(terms(self.first, self.last, share) + 1)):
            difference = difference - four * total + self.coefficients[i] * (2 * i + 1) * self.omega
            total = total + difference
        return within(t, self.reach, torch.cos(x) * difference)
