"""What the user asked for."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.calibrate.solve import METHODS, Method
from graphopt.errors import UsageError, nearest

QUANTIZATION_TARGETS = ("cpu", "cuda", "tensorrt", "portable")


@dataclass(frozen=True)
class Request:
    """Options of ``graphopt.quantize`` and ``graphopt quantize``, as far as placement and numbers depend on them.

    Attributes:
        target: The runtime: ``cpu``, ``cuda``, ``tensorrt`` or ``portable``.
        weights: Type of weights, a name of ``calibrate.grid``; None: by target.
        activations: Type of activations; ``none`` for weight-only; None: by target.
        method: How scales are found.
        levels: Number of levels instead of a type's own, for weights and activations; None: all.
        per_channel: Weights have a scale for each output channel.
        block: Weight-only: so many inputs share a scale.
        exclude: Names of nodes, or globs, that stay in float.
    """

    target: str = "cpu"
    weights: str | None = None
    activations: str | None = None
    method: Method = "mse"
    levels: int | None = None
    per_channel: bool = True
    block: int = 32
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("target", self.target, QUANTIZATION_TARGETS)
        _one_of("method", self.method, METHODS)
        if self.levels is not None and not 2 <= self.levels <= 65536:
            raise UsageError(f"{self.levels} levels", where="levels", help="from 2 to 65536")


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        close = nearest(given, known)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(f"unknown {what} {given!r}", help=f"{hint}one of {', '.join(known)}")
