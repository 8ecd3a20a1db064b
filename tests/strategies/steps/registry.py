"""The table of steps; a module of steps registers its own on import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.strategies.builder import BATCH, Builder, Value
from tests.strategies.recipe import Choices

Run = Callable[[Builder, Choices, Value], None]
Test = Callable[[Value], bool]


@dataclass(frozen=True)
class Step:
    """One kind of step and the values it is for."""

    name: str
    applies: Test
    run: Run
    weight: int
    since: int


STEPS: list[Step] = []


def step(applies: Test, *, weight: int = 1, since: int = 1) -> Callable[[Run], Run]:
    """Registers a step; `weight` is how often it is drawn, `since` the first opset that has the operator."""

    def register(run: Run) -> Run:
        STEPS.append(Step(run.__name__, applies, run, weight, since))
        return run

    return register


def is_float(x: Value) -> bool:
    """Any float value."""
    return x.dtype == "f"


def is_image(x: Value) -> bool:
    """(N, C, *spatial): every axis but the first is static."""
    return x.dtype == "f" and 3 <= x.rank <= 5 and all(d != BATCH for d in x.shape[1:])


def is_rows(x: Value) -> bool:
    """A float value with a static last axis and at least two axes."""
    return x.dtype == "f" and x.rank >= 2 and x.shape[-1] != BATCH


def batch_first(x: Value) -> bool:
    """Every axis but the first is static."""
    return x.rank >= 2 and all(d != BATCH for d in x.shape[1:])


def static_axes(x: Value) -> list[int]:
    """The axes that have a number for a size."""
    return [i for i, d in enumerate(x.shape) if d != BATCH]
