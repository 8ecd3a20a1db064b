"""The commands that say what is there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run, listing


def test_inspect(run: Run, masked: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("inspect", masked)
    assert ran.status == 0 and ran.err == ""
    for expected in ("parameters", "multiply-adds", "1 of 3", "weight"):
        assert expected in ran.out
    assert "\x1b" not in ran.out
    assert listing(tmp_path) == before


def test_inspect_as_json(run: Run, masked: Path) -> None:
    record = json.loads(run("inspect", masked, "--json").out)
    assert record["before"]["parameters"] == 21
    (mask,) = record["masks"]
    assert (mask["value"], mask["kind"], mask["zeros"], mask["size"]) == ("m", "weight", 1, 3)


def test_inspect_of_a_model_without_masks(run: Run, narrowed: Path) -> None:
    ran = run("inspect", narrowed)
    assert ran.status == 0 and "nothing" in ran.out
    assert json.loads(run("inspect", narrowed, "--json").out)["masks"] == []


def test_explain(run: Run, masked: Path) -> None:
    ran = run("explain", masked, "h")
    assert ran.status == 0 and ran.err == ""
    assert "value h" in ran.out and "What is known" in ran.out
    record = json.loads(run("explain", masked, "h", "--json").out)
    assert record["kind"] == "value" and record["name"] == "h" and record["facts"]


def test_explain_of_an_unknown_name(run: Run, masked: Path) -> None:
    ran = run("explain", masked, "wmm")
    assert ran.status == 2 and ran.out == ""
    assert "wmm" in ran.err and "did you mean" in ran.err


def test_passes_are_listed_with_their_options(run: Run) -> None:
    ran = run("passes")
    assert ran.status == 0
    for name in ("fold-masks", "demask", "propagate", "coalesce", "narrow", "fold-dead", "tidy"):
        assert name in ran.out
    assert "align=" in ran.out


def test_one_pass_is_documented(run: Run) -> None:
    ran = run("passes", "narrow")
    assert ran.status == 0 and ran.out.startswith("narrow\n")
    assert "align" in ran.out and '-p "narrow{' in ran.out
    record = json.loads(run("passes", "narrow", "--json").out)
    (described,) = record["passes"]
    assert described["name"] == "narrow" and "align" in [option["name"] for option in described["options"]]
    assert len(described["documentation"].splitlines()) > 1


def test_a_misspelt_pass(run: Run) -> None:
    ran = run("passes", "narow")
    assert ran.status == 2 and "did you mean narrow?" in ran.err and ran.out == ""


def test_targets_and_ops(run: Run) -> None:
    record = json.loads(run("targets", "--json").out)
    assert [row["name"] for row in record["targets"]] == ["cpu", "cuda", "portable"]
    assert {row["name"]: row["runs_here"] for row in record["targets"]}["cpu"] is True
    assert json.loads(run("ops", "--json").out)["ops"] == []
