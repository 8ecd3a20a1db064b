"""The commands that look at models without changing them, and the one that makes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Run, listing


def test_the_same_function(run: Run, masked: Path, narrowed: Path) -> None:
    ran = run("verify", masked, narrowed, "--samples", 3)
    assert ran.status == 0 and ran.err == ""
    assert "verified: the same function on 3 sets of inputs" in ran.out
    assert "\x1b" not in ran.out


def test_not_the_same_function(run: Run, masked: Path, different: Path) -> None:
    ran = run("verify", masked, different)
    assert ran.status == 3
    assert "NOT the same function" in ran.out and "y" in ran.out and "instead of" in ran.out


def test_a_wide_tolerance_lets_it_pass(run: Run, masked: Path, different: Path) -> None:
    assert run("verify", masked, different, "--atol", 1e6, "--rtol", 1).status == 0


def test_verify_as_json(run: Run, masked: Path, different: Path) -> None:
    ran = run("verify", masked, different, "--json", "--samples", 2, "--shape", "x=5,4")
    record = json.loads(ran.out)
    assert ran.status == 3 and record["passed"] is False and record["samples"] == 2
    assert record["shapes"] == [{"x": [5, 4]}] * 2
    assert record["outputs"][0]["name"] == "y" and record["outputs"][0]["max_abs"] > 1


def test_verify_on_the_users_data(run: Run, masked: Path, different: Path, tmp_path: Path) -> None:
    data = tmp_path / "zeros.npz"
    np.savez(data, x=np.zeros((3, 4), np.float32))
    # Both give 0 for 0: only data that is really used makes this pass.
    assert run("verify", masked, different, "--data", data).status == 0
    np.savez(data, z=np.zeros((3, 4), np.float32))
    ran = run("verify", masked, different, "--data", data)
    assert ran.status == 1 and "x" in ran.err
    assert run("verify", masked, different, "--data", tmp_path / "none.npz").status == 1


def test_bench(run: Run, masked: Path, narrowed: Path) -> None:
    ran = run("bench", masked, narrowed, "--seconds", 0.05)
    assert ran.status == 0 and ran.err == ""
    for expected in ("masked", "narrowed", "median", "ratio", "1.000", " ms"):
        assert expected in ran.out


def test_bench_as_json(run: Run, masked: Path) -> None:
    record = json.loads(run("bench", masked, masked, "--seconds", 0.05, "--json", "--shape", "x=7,4").out)
    assert [row["ratio"] > 0 for row in record["rows"]] == [True, True]
    assert record["shapes"] == {"x": [7, 4]}


def test_bench_of_a_misspelt_input(run: Run, masked: Path) -> None:
    ran = run("bench", masked, "--shape", "xx=7,4")
    assert ran.status == 2 and "'x'" in ran.err


NET = """
import torch
from torch import nn
from torch.nn.utils import prune

def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    prune.ln_structured(net[0], "weight", amount=1, n=1, dim=0)
    return net, (torch.zeros(2, 4),)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("torch")
    (tmp_path / "exported_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "exported_net"


def test_export(run: Run, package: str, tmp_path: Path) -> None:
    ran = run(
        *("export", f"{package}:build", "-o", "net.onnx"),
        *("--input", "images=float32[2,4]", "--dynamic", "images=0:batch"),
    )
    assert ran.status == 0, ran.err
    assert "wrote net.onnx" in ran.out
    model = onnx.load(tmp_path / "net.onnx")
    (image,) = model.graph.input
    assert image.name == "images" and image.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert "Mul" in [node.op_type for node in model.graph.node]  # the mask is still there to be seen


def test_export_refuses_before_it_writes(run: Run, package: str, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("export", f"{package}:bild", "-o", "net.onnx")
    assert ran.status == 2 and "did you mean build?" in ran.err
    ran = run("export", f"{package}:build", "-o", "missing/net.onnx")
    assert ran.status == 1 and "mkdir -p missing" in ran.err
    ran = run("export", f"{package}:build", "-o", ".")
    assert ran.status == 1 and "is a folder" in ran.err
    assert {name for name in listing(tmp_path) if "__pycache__" not in name} == set(before)
