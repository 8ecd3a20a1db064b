"""Ramps and learning rates: by hand, at both ends, and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from graphopt.train.schedules import cosine, cubic, linear, rate
from graphopt.train.settings import Settings


@pytest.mark.parametrize("ramp", [cubic, linear, cosine])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.9), (0.1, 0.0), (9, 18), (1, 3), (0.1, 0.7), (0.3, 0.3)])
def test_ramps_are_exact_at_both_ends_and_monotone(ramp, start: float, end: float) -> None:
    assert ramp(start, end, 0.0) == start and ramp(start, end, 1.0) == end
    found = [ramp(start, end, step / 97) for step in range(98)]
    assert found == sorted(found, reverse=end < start) or start == end


def test_ramps_by_hand() -> None:
    assert cubic(0.0, 0.8, 0.5) == pytest.approx(0.8 - 0.8 / 8, rel=1e-15)
    assert [cubic(0.2, 0.9, r / 4) for r in range(5)] == pytest.approx(
        [0.9 + (0.2 - 0.9) * (1 - r / 4) ** 3 for r in range(5)], rel=1e-15
    )
    assert linear(9, 18, 1 / 3) == pytest.approx(12, rel=1e-15)
    assert cosine(0.1, 0.0, 0.5) == pytest.approx(0.05, rel=1e-15)
    assert cosine(0.1, 0.0, 0.25) == pytest.approx(0.1 * (1 + math.sqrt(0.5)) / 2, rel=1e-15)
    assert cubic(0, 1, 0.5) > cosine(0, 1, 0.5) == pytest.approx(linear(0, 1, 0.5))


def _optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)


@pytest.mark.parametrize("steps", [11, 30, 100, 257])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    optimizer = _optimizer()
    theirs = lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        got = rate(Settings(rate=0.3), step, steps)
        assert got == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_few_steps_have_rates_too(schedule, steps: int, warmup: float) -> None:
    settings = Settings(rate=0.3, schedule=schedule, warmup=warmup)
    found = [rate(settings, step, steps) for step in range(steps)]
    assert all(0 < one <= 0.3 for one in found)


def test_cosine_and_linear() -> None:
    optimizer = _optimizer()
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        got = rate(Settings(rate=0.3, schedule="cosine"), step, 50)
        assert got == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()
    linear_ = [rate(Settings(rate=0.3, schedule="linear"), step, 50) for step in range(50)]
    assert linear_ == pytest.approx([0.3 * (1 - step / 50) for step in range(50)])
    assert {rate(Settings(rate=0.3, schedule="constant", warmup=0.5), step, 50) for step in range(50)} == {0.3}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_rises_and_then_goes_on(schedule) -> None:
    found = [rate(Settings(rate=0.3, schedule=schedule, warmup=0.2), step, 50) for step in range(50)]
    assert found[:10] == pytest.approx([0.3 * (step + 1) / 11 for step in range(10)])
    assert found[10] == 0.3 and found[10:] == sorted(found[10:], reverse=True)
    cold = [rate(Settings(rate=0.3, schedule=schedule), step, 40) for step in range(40)]
    assert found[10:] == pytest.approx(cold), "behind the warm-up lies the whole of the rest"
