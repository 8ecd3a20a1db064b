"""Many nodes and many bytes. Counts and memory only: times are measured by ``python -m tests.bench.scale``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from graphopt import runtime
from graphopt.facts.stats import stats
from graphopt.model import load
from tests.nets.large import MEASURE, chain, write_matrices

if TYPE_CHECKING:
    from graphopt.pipeline import Result

MEBIBYTE = 1 << 20


def outputs(model: ir.Model, feeds: dict[str, np.ndarray], *, optimize: bool = True) -> np.ndarray:
    return runtime.run(runtime.session(model, optimize=optimize), feeds)[0]


def optimized(model: ir.Model) -> Result:
    return graphopt.optimize(model, plan="smallest", verify=False)


def measured(path: Path, out: Path) -> dict:
    """What a fresh process needs to optimize a file."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(out)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("blocks", [1, 2, 331])
def test_masked_chain_is_narrowed_from_end_to_end(blocks: int) -> None:
    model = chain(blocks, masked=True)
    result = optimized(model).model
    before, after = stats(model), stats(result)
    assert after.ops["Conv"] == after.ops["Relu"] == blocks
    assert "Mul" not in after.ops
    # The last block's dead filters are in the output and its shape: one scatter, in whatever form it takes.
    assert after.nodes <= 2 * blocks + 4
    assert after.parameters < before.parameters
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 6, 8, 8)).astype(np.float32)}
    expected, given = outputs(model, feeds, optimize=False), outputs(result, feeds)
    assert float(np.abs(expected).max()) > 1e-3
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()) * max(1, blocks / 10))


@pytest.mark.parametrize("blocks", [1, 97])
def test_unmasked_chain_keeps_everything(blocks: int) -> None:
    model = chain(blocks, masked=False)
    before, after = stats(model), stats(optimized(model).model)
    assert (after.nodes, after.ops, after.parameters) == (before.nodes, before.ops, before.parameters)


@pytest.mark.parametrize("masked", [False, True])
def test_a_second_run_over_a_chain_changes_nothing(masked: bool) -> None:
    once = optimized(chain(53, masked=masked)).model
    again = optimized(once)
    assert stats(again.model) == stats(once)
    assert [node.op_type for node in again.model.graph] == [node.op_type for node in once.graph]


def test_a_chain_deeper_than_the_recursion_limit() -> None:
    blocks = sys.getrecursionlimit() + 200
    after = stats(optimized(chain(blocks, masked=True)).model)
    assert after.ops["Conv"] == blocks
    assert "Mul" not in after.ops


def test_matrices_beside_the_model_give_the_same(tmp_path: Path) -> None:
    path = write_matrices(tmp_path, 3, 67)
    out = tmp_path / "out.onnx"
    optimized(load(path)).save(out, external=True)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 67)).astype(np.float32)}
    expected, given = outputs(load(path), feeds, optimize=False), outputs(load(out), feeds)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_memory_does_not_follow_the_size_of_the_weights(tmp_path: Path) -> None:
    """A quarter of the numbers survives, so peak memory may grow with a part of the weights, never with all of them."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    base = measured(write_matrices(small, 3, 64), small / "out.onnx")["peak_bytes"]
    path = write_matrices(large, 24, 2048)  # 384 MiB
    size = (large / "model.onnx.data").stat().st_size
    found = measured(path, large / "out.onnx")
    assert size == 384 * MEBIBYTE
    assert found["peak_bytes"] - base < size // 2
    assert found["parameters"] < 0.3 * size / 4


@pytest.mark.long
def test_three_gigabytes_in_one(tmp_path: Path) -> None:
    path = write_matrices(tmp_path, 48, 4096)
    assert (tmp_path / "model.onnx.data").stat().st_size > 3_000_000_000
    try:
        found = measured(path, tmp_path / "out.onnx")
        assert found["peak_bytes"] <= 1_000_000_000
    finally:
        for file in tmp_path.iterdir():
            file.unlink()


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_twenty_thousand_nodes(masked: bool) -> None:
    after = stats(optimized(chain(10_000, masked=masked)).model)
    assert after.ops["Conv"] == after.ops["Relu"] == 10_000
    assert "Mul" not in after.ops
