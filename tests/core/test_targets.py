"""Figures of targets: measured ones are taken where they are, and refused where they cannot be right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from graphopt import targets
from graphopt.errors import ModelError
from graphopt.plan.cost import CostModel
from graphopt.targets.measure import measure

GOOD = dataclasses.asdict(CostModel(lanes=8, node=123.0))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TARGETS", str(tmp_path))


def test_shipped_figures_without_a_file() -> None:
    assert targets.costs("cpu") == targets.DEFAULTS["cpu"]
    assert set(targets.DEFAULTS) == set(targets.TARGETS)


def test_what_was_written_is_read() -> None:
    figures = CostModel(**GOOD)
    targets.write(figures, targets.file_of("cpu"))
    assert targets.costs("cpu") == figures
    assert targets.costs("cuda") == targets.DEFAULTS["cuda"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lanes": 0}, "not positive"),
        ({"lanes": 2.5}, "whole number"),
        ({"lanes": True}, "whole number"),
        ({"node": -1.0}, "not positive"),
        ({"node": "much"}, "not a number"),
        ({"node": float("inf")}, "not positive"),
        ({"speed": 1.0}, "exactly"),
    ],
)
def test_figures_that_cannot_be_right(change: dict[str, Any], says: str) -> None:
    path = targets.file_of("cpu")
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ModelError) as failed:
        targets.costs("cpu")
    assert says in str(failed.value) and str(path) in str(failed.value) and "calibrate-target" in str(failed.value)


def test_a_file_that_is_no_json() -> None:
    targets.file_of("cpu").write_text("lanes: 8")
    with pytest.raises(ModelError, match="not JSON"):
        targets.costs("cpu")


def test_measuring_finds_positive_figures_and_says_where_it_is() -> None:
    seen: list[tuple[str, int, int]] = []
    found = measure(seconds=0.01, step=lambda *where: seen.append(where))
    assert found.lanes in (8, 16)
    assert all(number > 0 for number in dataclasses.asdict(found).values())
    assert [done for _, done, _ in seen] == list(range(7)) and {total for *_, total in seen} == {6}
