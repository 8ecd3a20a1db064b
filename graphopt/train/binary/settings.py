"""How a net is binarized."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from graphopt.train.settings import Settings

Method = Literal["fourier", "haar", "dft", "ste", "dsq", "bireal", "reste"]


@dataclass(frozen=True)
class BinarizeSettings:
    """The ``binarize`` part of a recipe.

    Attributes:
        method: What stands for the derivative of sign: a truncated series (``fourier``, ``haar``, ``dft``) or one of
            the published estimators (``ste``, ``dsq``, ``bireal``, ``reste``).
        omega: Of ``fourier`` and ``dft``: angular frequency of the square wave whose first half period is the sign.
        terms_first: Of ``fourier`` and ``dft``: the series runs up to ``n``, this at the beginning of the training.
        terms_last: And this at its end; in between ``n`` grows evenly.
        scale_first: Of ``haar``: the finest wavelets of the series at the beginning; 0 is a box over [-1, 1].
        scale_last: And at the end; each scale halves the box.
        samples: Of ``dft``: samples of a period of the square wave.
        steepness_first: Of ``dsq``: ``k`` of ``tanh(k t)`` at the beginning.
        steepness_last: And at the end.
        power_last: Of ``reste``: ``o`` of ``sign(t) |t|^(1/o)`` at the end; it is 1 at the beginning.
        error: Whether the error module is added while training.
        alpha: Its weight at the beginning; it falls to 0 by a cosine.
        weights: Bits of a weight: 1, or 32 for weights that stay as they are.
        activations: Bits of what a layer reads: 1 or 32.
        shortcuts: Whether 1x1 convolutions with a stride, which stand on the shortcuts of residual nets, are
            binarized, too.
        exclude: Names of further layers (``fnmatch`` patterns) that stay as they are, beside the first and the last.
        train: How it is trained.

    Raises:
        ValueError: A value makes no sense.
    """

    method: Method = "fourier"
    omega: float = 0.1
    terms_first: int = 9
    terms_last: int = 18
    scale_first: float = 0.0
    scale_last: float = 2.0
    samples: int = 256
    steepness_first: float = 1.0
    steepness_last: float = 5.0
    power_last: float = 3.0
    error: bool = True
    alpha: float = 0.1
    weights: Literal[1, 32] = 1
    activations: Literal[1, 32] = 1
    shortcuts: bool = False
    exclude: tuple[str, ...] = ()
    train: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Check the values."""
        if self.method not in get_args(Method):
            raise ValueError(f"method is {self.method!r}, not one of {', '.join(get_args(Method))}")
        if not 0 < self.omega <= 1:
            raise ValueError(f"omega is {self.omega}: the sign is half a period only for 0 < omega <= 1")
        if not 0 <= self.terms_first <= self.terms_last:
            raise ValueError(f"terms go from {self.terms_first} to {self.terms_last}; they start at 0 and do not fall")
        if not 0 <= self.scale_first <= self.scale_last:
            raise ValueError(f"scales go from {self.scale_first} to {self.scale_last}; they start at 0 and do not fall")
        if self.samples % 2 or 2 * self.terms_last + 1 >= self.samples // 2:
            raise ValueError(f"{self.samples} samples do not show frequency {2 * self.terms_last + 1}; even, and more")
        if not 0 < self.steepness_first <= self.steepness_last:
            raise ValueError(f"steepness goes from {self.steepness_first} to {self.steepness_last}")
        if self.power_last < 1:
            raise ValueError(f"power_last is {self.power_last}, below the 1 that it starts from")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, outside of 0 to 1")
        if self.weights not in (1, 32) or self.activations not in (1, 32):
            raise ValueError(f"{self.weights} bits a weight and {self.activations} an activation: each is 1 or 32")
