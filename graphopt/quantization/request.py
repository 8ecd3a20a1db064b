"""What the user asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.calibrate.grid import GRIDS, grid
from graphopt.calibrate.percentile import USUAL
from graphopt.calibrate.solve import METHODS, Method
from graphopt.errors import UsageError, about, nearest
from graphopt.quantization.tables import table_of
from graphopt.quantization.tables.rows import Table
from graphopt.selection import one_of, operators_on
from graphopt.user_code import load_object

QUANTIZATION_TARGETS = ("cpu", "cuda", "tensorrt", "portable")

WEIGHT_ONLY = "none"
"""Activations of this type stay in float."""


@dataclass(frozen=True)
class Request:
    """Options of ``graphopt.quantize`` and ``graphopt quantize``; all that its result depends on but model and data.

    Attributes:
        target: The runtime: ``cpu``, ``cuda``, ``tensorrt`` or ``portable``.
        weights: Type of weights, a name of ``calibrate.grid``; None: by target.
        activations: Type of activations; ``none`` for weight-only; None: by target.
        method: How scales are found.
        percent: With ``percentile``: this part of the numbers is not clipped, in percent.
        levels: Number of levels instead of a type's own, for weights and activations; None: all.
        per_channel: Weights have a scale for each output channel.
        block: Weight-only: so many inputs share a scale.
        exclude: Names of nodes, or globs, that stay in float.
        operators: Whether graphopt's runtime operators may be inserted; None: for ``cuda`` only.
        everything: Quantize what multiplies also where borders to float cost more than integers save.
        recover: Passes that recover accuracy, as ``registry.parse`` reads them: ``"equalize,gptq{damp=0.01}"``.
        target_sqnr: Return operators to more bits until the outputs have this SQNR, in decibels.
        target_accuracy: Return operators to more bits until ``evaluate`` says so much.
        evaluate: Returns the accuracy of a model, larger is better; a callable, or PKG.MODULE:FUNCTION.
        samples: So many samples are calibrated with, the next ones are held out; None: all.
        seed: Of everything that is drawn.
        random_data: Calibrate with random inputs where no data is given.
        workers: Processes that run the model.
        ray: Address of a Ray cluster to run it on, or ``local``.
        resume: A directory in which an interrupted calibration is found again.
    """

    target: str = "cpu"
    weights: str | None = None
    activations: str | None = None
    method: Method = "mse"
    percent: float = USUAL
    levels: int | None = None
    per_channel: bool = True
    block: int = 32
    exclude: tuple[str, ...] = ()
    operators: bool | None = None
    everything: bool = False
    recover: str | None = None
    target_sqnr: float | None = None
    target_accuracy: float | None = None
    evaluate: Callable[..., float] | str | None = None
    samples: int | None = None
    seed: int = 0
    random_data: bool = False
    workers: int = 1
    ray: str | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        for name, words in (("target", QUANTIZATION_TARGETS), ("method", METHODS)):
            with about(name):
                one_of(name, getattr(self, name), words)
        object.__setattr__(self, "operators", operators_on(self.target, self.operators))
        _known("weights", self.weights)
        _known("activations", self.activations, WEIGHT_ONLY)
        if not 0 < self.percent <= 100:
            raise UsageError(f"{self.percent} percent", where="percent", help="above 0, up to 100")
        if self.levels is not None and not 2 <= self.levels <= 65536:
            raise UsageError(f"{self.levels} levels", where="levels", help="from 2 to 65536")
        for name in ("target_sqnr", "target_accuracy"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise UsageError(f"{name} cannot be {number}", where=name, help="give a number")
        for name, least in (("block", 1), ("workers", 1), ("samples", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise UsageError(f"{name} cannot be {number}", where=name, help=f"at least {least}")
        if self.workers > 1 and self.ray is not None:
            raise UsageError("workers and a Ray cluster exclude each other", where="ray", help="give one of the two")
        if isinstance(self.evaluate, str):
            with about("evaluate"):
                object.__setattr__(self, "evaluate", named(self.evaluate))
        if self.target_accuracy is not None and self.evaluate is None:
            raise UsageError(
                "an accuracy to reach, but nothing that tells it",
                where="target_accuracy",
                help="give evaluate (--evaluate)",
            )

    @property
    def table(self) -> Table:
        """What the target does with quantized tensors, with runtime operators or without."""
        return table_of(self.target, self.activations, self.operators)

    @property
    def weight_only(self) -> bool:
        """Whether activations stay in float, so that no data is needed."""
        return (self.activations or self.table.activations[0]) == WEIGHT_ONLY


def requested(options: Request | Mapping[str, Any]) -> Request:
    """Return a request made of options by name; a request is returned as it is.

    Raises:
        UsageError: an option that there is not, or a value that makes no sense.
    """
    if isinstance(options, Request):
        return options
    known = [field.name for field in dataclasses.fields(Request)]
    for name in options:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close!r}? " if close else ""
            raise UsageError(f"quantization has no option {name!r}", help=f"{hint}one of {', '.join(known)}")
    given = dict(options)
    excluded = given.get("exclude", ())
    given["exclude"] = (excluded,) if isinstance(excluded, str) else tuple(excluded)
    return Request(**given)


def named(spec: str) -> Callable[..., Any]:
    """Import a function that is named as ``PKG.MODULE:FUNCTION``; the current directory is searched too.

    Raises:
        UsageError: there is no such module or name, or it is not callable.
        GraphoptError: importing it raised; the message names the line.
    """
    found = load_object(spec, "PKG.MODULE:FUNCTION")
    if not callable(found):
        raise UsageError(f"{spec!r} is a {type(found).__name__}", help="it must be a function")
    return found


def _known(what: str, name: str | None, *others: str) -> None:
    """Raise UsageError for a type that there is not."""
    if name is None or name in others:
        return
    if nearest(name, (*GRIDS, *others)) in others:
        raise UsageError(f"no quantized type {name!r}", where=what, help=f"did you mean {others[0]!r}?")
    with about(what):
        grid(name)
