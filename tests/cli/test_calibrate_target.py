"""`calibrate-target` measures, writes, and says so; `targets` shows whose figures are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TARGETS", str(tmp_path / "figures"))


def test_measured_figures_are_found_by_the_plan(run: Run, tmp_path: Path) -> None:
    before = json.loads(run("targets", "--json").out)["targets"][0]
    assert before["figures"] == "shipped"
    done = run("calibrate-target", "--seconds", "0.01")
    assert done.status == 0, done.err
    file = tmp_path / "figures" / "cpu.json"
    assert str(file) in done.out and "blocked_mac" in done.out
    after = json.loads(run("targets", "--json").out)["targets"][0]
    assert after["figures"] == str(file)
    assert after["costs"] == json.loads(file.read_text())


def test_a_file_of_ones_own(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    record = json.loads(run("calibrate-target", "--seconds", "0.01", "-o", str(own), "--json").out)
    assert record["file"] == str(own) and record["costs"] == json.loads(own.read_text())
    assert not (tmp_path / "figures").exists()


def test_what_cannot_be(run: Run, tmp_path: Path) -> None:
    unknown = run("calibrate-target", "--target", "cdua")
    assert unknown.status == 2 and "cuda" in unknown.err
    nowhere = run("calibrate-target", "-o", str(tmp_path / "no" / "file.json"))
    assert nowhere.status == 1 and "Traceback" not in nowhere.err


def test_a_broken_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "cpu.json").write_text("{")
    refused = run("targets")
    assert refused.status == 1 and "cpu.json" in refused.err and "Traceback" not in refused.err
