"""Many nodes and many bytes. Counts, calls and memory only: times are measured by ``python -m tests.bench.scale``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import rounds, runtime
from graphopt.calibrate.histogram import Histogram
from graphopt.facts.stats import stats
from graphopt.model import load
from graphopt.quantization import steps
from graphopt.registry import passes
from tests.nets.growing import GROWING
from tests.nets.large import MEASURE, chain, write_matrices
from tests.nets.work import calls

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
    # Constants in front of zero padding: one addition of a map, which two gathers unfold.
    maps = after.ops.get("Add", 0)
    assert maps < blocks
    # The last block's dead filters are in the output and its shape: one scatter, in whatever form it takes.
    assert after.nodes <= 2 * blocks + 4 + 3 * maps
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


MOST = 3.0
"""Work on twice the nodes over work on the nodes: 2 where it is linear, 4 where each is held against each."""

LITTLE = 3_000
"""Fewer calls than that are not compared: a few of them decide."""


def work_of_passes(model: onnx.ModelProto) -> dict[str, int]:
    """Calls that each pass makes, one after the other as in the default pipeline, each on what the others left."""
    context = rounds.prepare(load(model), rounds.Settings((), plan="smallest"))
    return {name: calls(lambda cls=cls: cls().run(context)) for name, cls in passes().items()}


def compared(small: dict[str, int], large: dict[str, int]) -> None:
    for name, count in large.items():
        assert count <= MOST * max(small[name], LITTLE), f"{name}: {small[name]} calls, then {count}"


@pytest.mark.parametrize("kind", sorted(set(GROWING) - {"bodies"}))
def test_the_work_of_each_pass_is_linear(kind: str) -> None:
    nodes = 150 if kind == "movers" else 100
    compared(work_of_passes(GROWING[kind](nodes)), work_of_passes(GROWING[kind](2 * nodes)))


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(GROWING))
def test_the_work_of_each_pass_is_linear_at_a_thousand_nodes(kind: str) -> None:
    compared(work_of_passes(GROWING[kind](1000)), work_of_passes(GROWING[kind](2000)))


@pytest.mark.parametrize("plan", ["smallest", "fastest"])
def test_the_work_of_everything_is_linear(plan: str) -> None:
    """Rounds, the plan and the report of what stays, too."""

    def work(nodes: int) -> dict[str, int]:
        model = GROWING["stream"](nodes)
        return {plan: calls(lambda: graphopt.optimize(model, plan=plan, verify=False, measure=False))}

    compared(work(100), work(200))


def quantized(kind: str, nodes: int) -> None:
    model = GROWING[kind](nodes)
    shape = [dim.dim_value or 5 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = [{"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}]
    graphopt.quantize(model, data, everything=True, measure=False, verify=False, recover="none")


def test_the_work_of_a_quantization_is_linear() -> None:
    quantized("joined", 10)  # imports
    compared(*({"joined": calls(lambda nodes=nodes: quantized("joined", nodes))} for nodes in (30, 60)))


def test_where_numbers_share_a_scale_it_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their histograms are added for all of them together, not for each of them anew."""
    asked = {"add": 0, "solve": 0}
    real_add, real_solve = Histogram.__add__, steps.solve

    def add(one: Histogram, other: Histogram) -> Histogram:
        asked["add"] += 1
        return real_add(one, other)

    def solve(*arguments: Any, **options: Any) -> Any:
        asked["solve"] += 1
        return real_solve(*arguments, **options)

    monkeypatch.setattr(Histogram, "__add__", add)
    monkeypatch.setattr(steps, "solve", solve)
    quantized("views", 40)
    assert 40 <= asked["add"] <= 160
    assert 2 <= asked["solve"] <= 6


def test_work_that_is_not_linear_is_noticed() -> None:
    def pairs(size: int) -> dict[str, int]:
        return {"pairs": calls(lambda: [[abs(i - j) for i in range(size)] for j in range(size)])}

    with pytest.raises(AssertionError, match="pairs"):
        compared(pairs(60), pairs(120))


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_twenty_thousand_nodes(masked: bool) -> None:
    after = stats(optimized(chain(10_000, masked=masked)).model)
    assert after.ops["Conv"] == after.ops["Relu"] == 10_000
    assert "Mul" not in after.ops
