"""What stands for the derivative of sign: each is the series that its docstring says, and all have one interface."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphopt.train.binary import (
    Basis,
    BiReal,
    DiscreteFourier,
    Fourier,
    Haar,
    RectifiedStraightThrough,
    SoftQuantization,
    StraightThrough,
)

SERIES: list[Basis] = [Fourier(), Haar(), DiscreteFourier()]
ALL: list[Basis] = [*SERIES, StraightThrough(), SoftQuantization(), BiReal(), RectifiedStraightThrough()]
SHARES = (0.0, 0.31, 0.5, 0.999, 1.0)
TINY = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-8, 1e-6, -1e-5, 1e-3]
AROUND = [*TINY, 0.1, 0.25, -0.5, 0.999, 1.0, -1.0, float(np.nextafter(np.float32(1), np.float32(2))), -1.01, 2.0, 1e30]


def numbers() -> Tensor:
    """Edges, and a prime number of places between them."""
    return torch.cat([torch.tensor(AROUND), torch.linspace(-1.3, 1.3, 1009)])


def cosines(t: Tensor, omega: float, weights: list[float]) -> np.ndarray:
    """``sum_i w_i cos((2i+1) omega t)``, 0 for ``|t| > 1``, term by term in float64."""
    x = t.double().numpy()
    total = sum(w * np.cos((2 * i + 1) * omega * x) for i, w in enumerate(weights))
    return np.where(np.abs(x) <= 1, total, 0)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("omega", [0.1, 0.5, 1.0])
def test_fourier_is_its_series(omega: float, share: float) -> None:
    """Terms 0 to n inclusive, n from 9 to 18: at 0 the closed form is a limit, beyond 1 there is nothing."""
    basis, t = Fourier(omega), numbers()
    n = min(9 + int(10 * share), 18)
    found = basis.gradient(t, share).double().numpy()
    assert np.abs(found - cosines(t, omega, [4 * omega / math.pi] * (n + 1))).max() <= 1e-6 * 4 * omega * (n + 1)
    assert found[:2] == pytest.approx(4 * omega / math.pi * (n + 1), rel=1e-7)
    other = cosines(t, omega, [4 * omega / math.pi] * n)  # one term less is another function
    assert np.abs(found - other).max() > 0.01


def test_fourier_with_the_published_omega_is_within_1e_6() -> None:
    for n in range(9, 19):
        found = Fourier(0.1, n, n).gradient(numbers(), 0.5).double().numpy()
        assert np.abs(found - cosines(numbers(), 0.1, [0.4 / math.pi] * (n + 1))).max() <= 1e-6


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("samples", [128, 256, 4096])
def test_discrete_fourier_is_the_transform_of_samples(samples: int, share: float) -> None:
    """Coefficients straight from the definition, a sum over all samples."""
    places = (np.arange(samples) + 0.5) * 2 * np.pi / samples
    wave = np.where(places < np.pi, 1.0, -1.0)
    n = min(9 + int(10 * share), 18)
    weights = [2 / samples * (wave * np.sin(k * places)).sum() * k * 0.1 for k in range(1, 2 * n + 2, 2)]
    found = DiscreteFourier(samples=samples).gradient(numbers(), share).double().numpy()
    assert np.abs(found - cosines(numbers(), 0.1, weights)).max() <= 1e-6
    even = [2 / samples * (wave * np.sin(k * places)).sum() for k in range(2, 2 * n + 2, 2)]
    assert np.abs(even).max() < 1e-12


def test_discrete_fourier_of_many_samples_is_fourier_and_of_few_is_not() -> None:
    t = numbers()
    exact = Fourier().gradient(t, 1.0)
    assert (DiscreteFourier(samples=1 << 16).gradient(t, 1.0) - exact).abs().max() < 1e-5
    assert (DiscreteFourier(samples=128).gradient(t, 1.0) - exact).abs().max() > 0.05


def haar(t: np.ndarray, scale: float) -> np.ndarray:
    """``2 delta`` in the scaling function and the wavelets of [-1, 1], summed; at 0 the mean of both sides.

    Wavelets of scale ``j = 1, 2, ...`` lie on intervals of ``2 / 2^j``; the finest ones count in part.
    """
    total = np.where(np.abs(t) <= 1, 2 * 0.5, 0.0)
    for j in range(math.ceil(scale)):
        width, part = 2.0**-j, min(scale - j, 1)
        for side in (-1, 1):  # of the wavelets of this scale, two touch 0
            height = 1 / math.sqrt(width)
            near, far = np.abs(t) <= width / 2, (np.abs(t) > width / 2) & (np.abs(t) <= width)
            here = np.sign(t) == side
            wavelet = np.where(here & near, height, 0) - np.where(here & far, height, 0)
            total = total + part * 2 * (height / 2) * wavelet
    return total


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0, 1.5, 2.0, 3.0])
def test_haar_is_its_series(scale: float) -> None:
    t = numbers()
    t = t[t != 0]
    found = Haar(scale, scale).gradient(t, 0.5).double().numpy()
    assert np.abs(found - haar(t.double().numpy(), scale)).max() <= 1e-6
    assert Haar(scale, scale).gradient(torch.zeros(1), 0.5).item() == pytest.approx(2.0 ** int(scale) * (1 + scale % 1))


def test_haar_of_scale_0_is_straight_through() -> None:
    assert torch.equal(Haar(0, 2).gradient(numbers(), 0.0), StraightThrough().gradient(numbers(), 0.0))
    assert not torch.equal(Haar(0, 2).gradient(numbers(), 0.1), StraightThrough().gradient(numbers(), 0.1))


def test_baselines_are_the_published_formulas() -> None:
    t = numbers().double()
    inside = t.abs() <= 1
    assert torch.equal(StraightThrough().gradient(t, 0.3), inside.double())
    assert torch.allclose(BiReal().gradient(t, 0.3), (2 - 2 * t.abs()).clamp_min(0), atol=1e-15)
    k = 1 + 4 * 0.3
    soft = torch.where(inside, k / math.tanh(k) / torch.cosh(k * t.clamp(-1, 1)) ** 2, 0.0)
    assert torch.allclose(SoftQuantization().gradient(t, 0.3), soft, atol=1e-14)
    for share, o in ((0.0, 1.0), (0.5, 1 + 2 * (1 - math.sqrt(0.5))), (1.0, 3.0)):
        size = t.abs()
        power = torch.where(size > 0.1, size ** (1 / o - 1) / o, 0.1 ** (1 / o) / 0.1)
        power = torch.where(size <= 1.5, power, 0.0)
        assert torch.allclose(RectifiedStraightThrough().gradient(t, share), power, atol=1e-14)
    assert torch.equal(RectifiedStraightThrough().gradient(t, 0.0), (t.abs() <= 1.5).double())


@pytest.mark.parametrize("basis", ALL, ids=lambda basis: type(basis).__name__)
@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(st.floats(-2, 2, width=32), min_size=0, max_size=7),
    share=st.floats(0, 1),
    shape=st.sampled_from([(-1,), (1, -1), (-1, 1, 1)]),
)
def test_one_interface(basis: Basis, places: list[float], share: float, shape: tuple[int, ...]) -> None:
    """Shape and type stay; the gradient is even, finite and 0 beyond the reach; the function is odd and bounded."""
    t = torch.tensor(places, dtype=torch.float32).reshape(shape if places else (0,))
    before = t.clone()
    gradient, value = basis.gradient(t, share), basis.value(t, share)
    assert torch.equal(t, before)
    assert gradient.shape == value.shape == t.shape
    assert gradient.dtype == value.dtype == torch.float32
    assert gradient.isfinite().all() and value.isfinite().all()
    assert torch.equal(basis.gradient(-t, share), gradient)
    assert torch.equal(basis.value(-t, share), -value)
    assert (gradient[t.abs() > basis.reach] == 0).all()
    assert (value.abs() <= 1.5).all()
    assert basis.gradient(torch.zeros(1), share).item() > 0.5
    short = basis.gradient(t.bfloat16(), share)
    assert short.dtype == torch.bfloat16 and short.shape == t.shape
    assert torch.equal(short, basis.gradient(t.bfloat16().float(), share).bfloat16())


@pytest.mark.parametrize("basis", ALL, ids=lambda basis: type(basis).__name__)
def test_the_gradient_is_that_of_the_function(basis: Basis) -> None:
    """Finite differences in float64, away from the places where a function has a corner."""
    step = 1e-6
    t = torch.linspace(-1.7, 1.7, 1013, dtype=torch.float64)
    corners = torch.tensor([0.1, 0.125, 0.25, 0.5, 1.0, 1.5], dtype=torch.float64)
    t = t[(t.abs()[:, None] - corners).abs().min(dim=1).values > 2 * step]
    for share in SHARES:
        slope = (basis.value(t + step, share) - basis.value(t - step, share)) / (2 * step)
        assert (slope - basis.gradient(t, share)).abs().max() < 1e-6


def test_the_gradient_of_nan_is_0() -> None:
    for basis in ALL:
        assert basis.gradient(torch.tensor([math.nan, math.inf, -math.inf]), 0.5).tolist() == [0, 0, 0]
