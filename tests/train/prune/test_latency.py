"""Widths by predicted time: never slower, never a dearer choice than the least scores, on the steps of the target."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from graphopt.errors import UsageError
from graphopt.plan.cost import CostModel
from graphopt.train.prune import latency
from graphopt.train.prune.groups import Group, find
from graphopt.train.prune.latency import choose, predicted
from graphopt.train.prune.predicted import Predicted
from tests.train.prune.group_nets import Plain, built

COSTS = CostModel()


@cache
def _plain(*widths: int) -> tuple[tuple[Group, ...], ir.Model]:
    found = find(Plain(*widths).eval(), (torch.randn(1, 3, 12, 12),))
    return found.groups, found.model


def _scores(groups: tuple[Group, ...], seed: int = 0) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    return {group.name: numbers.gamma(1.0, 1.0 + place, group.units) for place, group in enumerate(groups)}


def _stay(kept: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in kept.items()}


def _loss(scores: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]) -> float:
    return float(sum(scores[name][~mask].sum() for name, mask in kept.items()))


def _least(scores: Mapping[str, np.ndarray], amount: float, scope: str) -> dict[str, np.ndarray]:
    """The units with the least scores go; one of each group stays."""
    kept = {name: np.ones(each.size, bool) for name, each in scores.items()}
    if scope == "layer":
        for name, each in scores.items():
            kept[name][np.argsort(each, kind="stable")[: min(int(amount * each.size + 1e-9), each.size - 1)]] = False
        return kept
    spare = [(each, name, place) for name, line in scores.items() for place, each in enumerate(line)
             if place != int(line.size - 1 - line[::-1].argmax())]  # fmt: skip
    number = int(amount * sum(each.size for each in scores.values()) + 1e-9)
    for _, name, place in sorted(spare)[:number]:
        kept[name][place] = False
    return kept


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.9])
def test_never_slower_and_never_dearer_than_the_least_scores(amount: float, scope: str) -> None:
    groups, model = _plain(64, 61, 48)
    for seed in range(3):
        scores = _scores(groups, seed)
        least = _least(scores, amount, scope)
        kept = choose(groups, scores, model, amount, COSTS, scope=scope)  # type: ignore[arg-type]
        limit = predicted(groups, model, _stay(least), COSTS)
        assert predicted(groups, model, _stay(kept), COSTS) <= limit * (1 + 1e-12)
        assert _loss(scores, kept) <= _loss(scores, least)
        for name, mask in kept.items():
            assert mask.any() and (scores[name][mask].min() >= scores[name][~mask].max(initial=-1))


def test_widths_end_on_steps_where_that_pays() -> None:
    """64 filters: where a third has to go, kept are 48 or 32, not 43; near miss: a target without steps."""
    groups, model = _plain(64, 64, 64)
    scores = _scores(groups)
    kept = _stay(choose(groups, scores, model, 0.33, COSTS))
    assert all(count % 16 == 0 for count in kept.values()), kept
    assert len(set(_stay(_least(scores, 0.33, "global")).values()) & {16, 32, 48, 64}) < 3
    flat = CostModel(lanes=1, multiple=1, direct_mac=0.0176, column_mac=0.0176)
    loose = _stay(choose(groups, scores, model, 0.33, flat))
    assert any(count % 16 for count in loose.values()), loose


def test_to_the_next_step_of_16_and_not_to_15() -> None:
    """17 of 64 filters are worth least: 48 stay and not 47, which would be slower and worth less."""
    groups, model = _plain(64, 64)
    first, second = (group.name for group in groups)
    scores = {first: np.arange(64.0), second: np.arange(1000.0, 1064.0)}
    assert _stay(_least(scores, 17 / 128, "global")) == {first: 47, second: 64}
    assert _stay(choose(groups, scores, model, 17 / 128, COSTS)) == {first: 48, second: 64}


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6])
def test_the_best_of_all_widths(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three groups of 7, 8 and 5 units: every combination of widths is tried.

    Few combinations are tried by ``choose``, too. Without that it loses at most a third more, a tenth on average.
    """
    groups, model = _plain(7, 8, 5)
    costs = CostModel(lanes=4, multiple=2)
    time = Predicted(groups, model, costs)
    every = np.array(list(itertools.product(*(range(1, units + 1) for units in time.units.values()))))
    counts = dict(zip(time.units, every.T, strict=True))
    limit = (1 - share) * time.of({})
    fast = sum(each.time(counts, time.units, costs) for each in time.operators) <= limit
    ratios = []
    for seed in range(6):
        scores = _scores(groups, seed)
        rising = {name: np.concatenate([[0.0], np.sort(each).cumsum()]) for name, each in scores.items()}
        lost = sum(rising[name][time.units[name] - stays] for name, stays in counts.items())
        best = lost[fast].min()  # type: ignore[index]
        assert _loss(scores, choose(groups, scores, model, share, costs, of="latency")) == pytest.approx(best, 1e-9)
        monkeypatch.setattr(latency, "GRID", 0)
        kept = choose(groups, scores, model, share, costs, of="latency")
        monkeypatch.undo()
        assert time.of(_stay(kept)) <= limit * (1 + 1e-12)
        ratios.append(_loss(scores, kept) / best)
    assert min(ratios) > 1 - 1e-9 and max(ratios) < 4 / 3 and np.mean(ratios) < 1.1


def test_of_every_layer_its_share() -> None:
    """Widths of 64, 61, 48 and 20 that lose a third are moved to the step below or above."""
    groups, model = _plain(64, 61, 48, 20)
    names = [group.name for group in groups]
    near = ({43, 40, 44, 32, 48}, {41, 40, 44, 32, 48}, {33, 32, 36, 48}, {14, 12, 16})
    for seed in range(3):
        kept = _stay(choose(groups, _scores(groups, seed), model, 0.33, COSTS, scope="layer"))
        assert all(kept[name] in widths for name, widths in zip(names, near, strict=True)), kept


def test_what_is_gone_stays_gone() -> None:
    groups, model = _plain(64, 61, 48)
    scores, dead = _scores(groups), {groups[0].name: np.arange(64) % 3 == 0}
    scores[groups[0].name][dead[groups[0].name]] = np.nan
    kept = choose(groups, scores, model, 0.5, COSTS, dead=dead)
    assert not (kept[groups[0].name] & dead[groups[0].name]).any()
    everything = {groups[0].name: np.ones(64, bool)}
    assert not choose(groups, scores, model, 0.5, COSTS, dead=everything)[groups[0].name].any()


@pytest.mark.parametrize("name", ["residual", "densenet", "mobilenet3", "vit", "fused"])
def test_groups_of_every_kind(name: str) -> None:
    found = built(name)[2]
    scores = _scores(found.groups)
    time = Predicted(found.groups, found.model, COSTS)
    whole, least = time.of({}), time.of(dict.fromkeys(time.units, 1))
    share = (whole - least) / whole / 3
    kept = choose(found.groups, scores, found.model, share, COSTS, of="latency")
    assert time.of(_stay(kept)) <= (1 - share) * whole * (1 + 1e-12) < whole
    for group in found.groups:  # every group's width is in the time of some operator
        assert time.of({group.name: 0}) < whole, group.name


def test_what_cannot_be_had_is_said() -> None:
    groups, model = _plain(64)
    scores = _scores(groups)
    with pytest.raises(UsageError, match="cannot be saved"):
        choose(groups, scores, model, 0.9999, COSTS, of="latency")
    with pytest.raises(UsageError, match="share from 0"):
        choose(groups, scores, model, 1.0, COSTS)
    with pytest.raises(UsageError, match="64 finite scores"):
        choose(groups, {groups[0].name: np.full(64, np.nan)}, model, 0.5, COSTS)
    with pytest.raises(UsageError, match="64 finite scores"):
        choose(groups, {}, model, 0.5, COSTS)
