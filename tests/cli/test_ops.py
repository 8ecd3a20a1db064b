"""`graphopt ops`: what there is, with the native library and without."""

from __future__ import annotations

import json

import pytest

from graphopt import runtime_ops
from tests.cli.conftest import Run


def test_every_operator_is_listed(run: Run) -> None:
    out = run("ops").out
    assert all(name in out for name in runtime_ops.operators())
    assert "onnxruntime" in out and "CPUExecutionProvider" in out


def test_json_says_what_is_there(run: Run) -> None:
    record = json.loads(run("ops", "--json").out)
    assert [row["name"] for row in record["ops"]] == list(runtime_ops.operators())
    gather = next(row for row in record["ops"] if row["name"] == "Gather")
    assert gather["inputs"][:2] == ["data", "indices"] and gather["attributes"]["axis"] == 0
    assert "CPUExecutionProvider" in record["providers"]
    library = runtime_ops.library()
    assert record["library"] == (None if library is None else str(library))
    assert record["cpu"] == runtime_ops.cpu_features()
    assert ("cpu" in gather["kernels"]) == (library is not None)


def test_one_is_documented(run: Run) -> None:
    out = run("ops", "Gather").out
    assert runtime_ops.operators()["Gather"].summary in out
    assert 'opset_import: ["" : 18]' in out and "{opset}" not in out
    assert [row["name"] for row in json.loads(run("ops", "Gather", "--json").out)["ops"]] == ["Gather"]


def test_a_mistyped_name(run: Run) -> None:
    ran = run("ops", "gathr")
    assert ran.status == 2 and "did you mean Gather?" in ran.err and ran.out == ""


def test_no_library_is_said_loudly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", "")
    assert "NOT here" in run("ops").out and "make ops" in run("ops").out
    record = json.loads(run("ops", "--json").out)
    assert record["library"] is None and record["cpu"] is None
    assert not any(row["kernels"] for row in record["ops"])
