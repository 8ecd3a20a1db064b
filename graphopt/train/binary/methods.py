"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.train.binary.baselines import BiReal, RectifiedStraightThrough, SoftQuantization, StraightThrough
from graphopt.train.binary.bases import Basis, DiscreteFourier, Fourier, Haar
from graphopt.train.binary.settings import BinarizeSettings

METHODS: Mapping[str, Callable[[BinarizeSettings], Basis]] = {
    "fourier": lambda s: Fourier(s.omega, s.terms_first, s.terms_last),
    "haar": lambda s: Haar(s.scale_first, s.scale_last),
    "dft": lambda s: DiscreteFourier(s.omega, s.terms_first, s.terms_last, s.samples),
    "ste": lambda s: StraightThrough(),
    "dsq": lambda s: SoftQuantization(s.steepness_first, s.steepness_last),
    "bireal": lambda s: BiReal(),
    "reste": lambda s: RectifiedStraightThrough(s.power_last),
}
"""What stands for the derivative of sign, by ``BinarizeSettings.method``."""


def basis(settings: BinarizeSettings) -> Basis:
    """Return what stands for the derivative of sign."""
    return METHODS[settings.method](settings)
