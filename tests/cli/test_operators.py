"""`--operators` and `--no-operators`, and what `graphopt targets` says of runtime operators."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Run
from tests.runtime_ops.test_lower_int8 import Layers


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A file of one convolution between DQ and Q of int8."""
    net = Layers()
    y = net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3), net.bias(4))
    onnx.save(net.out(y), tmp_path / "quantized.onnx")
    return tmp_path / "quantized.onnx"


def domains(path: Path) -> set[str]:
    return {node.domain for node in onnx.load(path).graph.node}


def test_cuda_inserts_and_no_operators_takes_out(run: Run, quantized: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out.onnx", tmp_path / "back.onnx"
    ran = run("optimize", quantized, "-o", out, "--target", "cuda", "--no-verify", "--json", "-")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["operators"]["calls"] == {"Int8Conv": 1} and "graphopt" in domains(out)
    ran = run("optimize", out, "-o", back, "--no-operators")
    assert ran.status == 0, ran.err
    assert domains(back) == {""} and not onnx.load(back).functions


def test_neither_the_cpu_nor_no_operators_inserts_any(run: Run, quantized: Path, tmp_path: Path) -> None:
    for arguments in ((), ("--operators",), ("--target", "cuda", "--no-operators")):
        out = tmp_path / "out.onnx"
        assert run("optimize", quantized, "-o", out, "--no-verify", "--no-measure", *arguments).status == 0
        assert domains(out) == {""}


def test_what_a_terminal_is_told(run: Run, quantized: Path, tmp_path: Path) -> None:
    ran = run("optimize", quantized, "-o", tmp_path / "out.onnx", "--target", "cuda", "--no-verify")
    assert "Runtime operators: Int8Conv 1; their library is" in " ".join(ran.out.split())


@pytest.mark.parametrize("command", ["optimize", "quantize"])
def test_portable_has_none(run: Run, quantized: Path, tmp_path: Path, command: str) -> None:
    data = () if command == "optimize" else ("--random-data",)
    ran = run(command, quantized, "-o", tmp_path / "out.onnx", "--target", "portable", "--operators", *data)
    assert ran.status == 2 and "the target 'portable' has no runtime operators" in ran.err
    assert "--> --operators" in ran.err and not (tmp_path / "out.onnx").exists()


def test_int8_on_cuda_wants_operators(run: Run, quantized: Path, tmp_path: Path) -> None:
    arguments = ("--target", "cuda", "--activations", "int8", "--no-operators", "--dry-run")
    ran = run("quantize", quantized, *arguments)
    assert ran.status == 2 and "graphopt's operators read int8, where they are allowed" in " ".join(ran.err.split())


def test_targets_list_what_is_lowered(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("targets", "--json").out)["targets"]}
    assert rows["cuda"]["lowerings"]["quantized convolution"]["passes"].startswith("lower-int8")
    assert rows["cpu"]["lowerings"]["quantized convolution"]["reason"]
    assert rows["portable"]["lowerings"] == {} and rows["cuda"]["quantize"]["with_operators"] == ["int8"]
    said = run("targets").out
    assert "lower-int8" in said and "with runtime operators int8" in " ".join(said.split())
