"""GatherGemmScatter: kernel = function = numpy, for blocks of any sizes, in any order, that share rows or columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.errors import GraphoptError
from graphopt.runtime_ops import DOMAIN, operators
from tests.runtime_ops import running
from tests.runtime_ops.moving import SIZES, dtype

CONSTANTS = ("columns", "rows", "weights")

HALVES = ("float16", "bfloat16")
KINDS = ("float32", *HALVES)

# Results of 16 bits are rounded once, so that a neighbour of numpy's may be the one: a unit of theirs. On CUDA sums
# that meet in a place are rounded one after the other.
UNITS = {"float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Blocks:
    """Positions ``[blocks, most]``, -1 where a block has fewer, and weights of them; for ``k`` columns, ``n`` rows."""

    columns: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    k: int
    n: int


def blocks_of(sizes: list[tuple[int, int]], share: str, rng: np.random.Generator, *, ordered: bool) -> Blocks:
    """Make blocks of ``(columns, rows)``; ``share``: what they have in common, ``rows``, ``columns`` or neither."""
    need = [sum(pair[i] for pair in sizes) for i in (0, 1)]
    most = [max((pair[i] for pair in sizes), default=0) for i in (0, 1)]
    totals = [most[i] if name == share else need[i] for i, name in enumerate(("columns", "rows"))]
    totals = [total + int(rng.integers(0, 3)) for total in totals]
    places = [np.full((len(sizes), most[i]), -1) for i in (0, 1)]
    for i, name in enumerate(("columns", "rows")):
        order = np.arange(totals[i]) if ordered else rng.permutation(totals[i])
        at = 0
        for block, pair in enumerate(sizes):
            chosen = rng.permutation(totals[i])[: pair[i]] if name == share else order[at : at + pair[i]]
            where = np.arange(pair[i]) if ordered else np.sort(rng.permutation(most[i])[: pair[i]])
            places[i][block, where] = np.sort(chosen) if ordered else chosen
            at += 0 if name == share else pair[i]
    weights = rng.normal(size=(len(sizes), *most)).astype(np.float32)
    return Blocks(places[0], places[1], weights, totals[0], totals[1])


def inputs_of(
    blocks: Blocks,
    leading: tuple[int, ...],
    bias: bool,
    floor: bool,
    rng: np.random.Generator,
    kind: str = "float32",
) -> dict[str, np.ndarray | None]:
    return {
        "y": rng.normal(size=(blocks.n,) if bias else (*leading, blocks.n)).astype(dtype(kind)),
        "x": rng.normal(size=(*leading, blocks.k)).astype(dtype(kind)),
        "columns": blocks.columns.astype(np.int64),
        "rows": blocks.rows.astype(np.int64),
        "weights": blocks.weights.astype(dtype(kind)),
        "floor": np.zeros((), dtype(kind)) if floor else None,
    }


def agree(inputs: dict[str, np.ndarray | None], **more: object) -> None:
    # Sums of at most k products of numbers around one, in any order: each addition is off by 2^-24 of what is there.
    k = inputs["columns"].shape[-1] * max(1, inputs["columns"].shape[0])  # type: ignore[union-attr]
    kind = inputs["x"].dtype.name  # type: ignore[union-attr]
    atol = 2.0**-24 * 8 * (k + 2)
    if kind in HALVES:
        # The definition rounds the product, too; in bfloat16 onnxruntime's CPU provider has no MatMul.
        more["function"] = False
        atol += 8 * UNITS[kind] if running.PROVIDER == "cuda" else 0
    running.agree("GatherGemmScatter", inputs, {}, constants=CONSTANTS, rtol=UNITS[kind], atol=atol, **more)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4),
    share=st.sampled_from(("neither", "rows", "columns")),
    leading=st.lists(SIZES, min_size=1, max_size=2),
    bias=st.booleans(),
    floor=st.booleans(),
    ordered=st.booleans(),
    symbolic=st.booleans(),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
)
def test_all_three_agree(
    sizes: list[tuple[int, int]],
    share: str,
    leading: list[int],
    bias: bool,
    floor: bool,
    ordered: bool,
    symbolic: bool,
    kind: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    blocks = blocks_of(sizes, share, rng, ordered=ordered)
    agree(inputs_of(blocks, tuple(leading), bias, floor, rng, kind), symbolic=symbolic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["neither", "rows"])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_tile_of_every_processor(level: str, ordered: bool, share: str, kind: str) -> None:
    """As many rows of x as any tile has, and a remainder; panels that are full, alone, and cut."""
    rng = np.random.default_rng(0)
    blocks = blocks_of([(37, 150), (64, 33), (1, 16)], share, rng, ordered=ordered)
    for count in (*range(1, 16), 29, 57, 400):
        agree(inputs_of(blocks, (count,), count % 2 == 0, count % 3 == 0, rng, kind), function=count < 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 40, 700])
@pytest.mark.parametrize("share", ["neither", "columns", "rows"])
def test_threads(count: int, share: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    blocks = blocks_of([(128, 300), (200, 128), (64, 64)], share, rng, ordered=False)
    agree(inputs_of(blocks, (count,), True, True, rng, kind), threads=2)


def whole_numbers(kind: str, size: int, share: str) -> dict[str, np.ndarray | None]:
    """Two blocks of ``size`` x 5 whole numbers, most above 0, and a ``y`` without 0: sums are exact in float32."""
    rng = np.random.default_rng(size)
    blocks = blocks_of([(size, 5), (size, 5)], share, rng, ordered=False)
    inputs = inputs_of(blocks, (7,), False, True, rng, kind)
    for name, least, most in (("x", -1, 2), ("weights", 0, 2), ("y", 1, 9)):
        inputs[name] = rng.integers(least, most, inputs[name].shape, endpoint=True).astype(dtype(kind))  # type: ignore[union-attr]
    return inputs


@pytest.mark.parametrize("share", ["neither", "rows"])
@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("size", [0, 1, 13, 4001])
def test_halves_are_summed_in_float32_and_rounded_once(level: str, kind: str, size: int, share: str) -> None:
    """Whatever the order of the additions, bit by bit."""
    if share == "rows" and running.PROVIDER == "cuda":
        pytest.skip("CUDA rounds once for each block that adds to a place")
    inputs = whole_numbers(kind, size, share)
    # The definition rounds the product, and then what is added.
    exact = size < 256 if kind == "float16" else False
    running.agree("GatherGemmScatter", inputs, {}, constants=CONSTANTS, function=exact)


def test_sums_rounded_step_by_step_are_others() -> None:
    """The near miss of the test above: it tells a sum in float16 from one in float32."""
    inputs = whole_numbers("float16", 4001, "rows")
    (once,) = operators()["GatherGemmScatter"].reference(*inputs.values())
    y, x, columns, rows, weights, _ = inputs.values()
    steps = np.array(y)
    for read, add, weight in zip(columns, rows, weights, strict=True):  # type: ignore[arg-type]
        for k in np.flatnonzero(read >= 0):
            steps[:, add] += x[:, [read[k]]] * weight[k]  # type: ignore[index]
    assert (np.maximum(steps, 0) != once).any()


def test_opsets_have_the_same_definition() -> None:
    rng = np.random.default_rng(0)
    for opset in (18, 21, 25):
        agree(inputs_of(blocks_of([(3, 4), (2, 5)], "neither", rng, ordered=False), (5,), True, True, rng), opset=opset)


def test_the_definition_serves_float16() -> None:
    rng = np.random.default_rng(0)
    inputs = inputs_of(blocks_of([(3, 4), (2, 5)], "neither", rng, ordered=False), (5,), True, True, rng, "float16")
    running.agree("GatherGemmScatter", inputs, {}, constants=CONSTANTS, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("count", [1, 3, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_what_dies_here_may_be_written_over(kind: str, count: int) -> None:
    rng = np.random.default_rng(0)
    inputs = inputs_of(blocks_of([(30, 40), (20, 50)], "rows", rng, ordered=False), (count,), False, True, rng, kind)
    inputs["weights"][:] = np.sign(inputs["weights"])  # type: ignore[index]
    inputs["x"], inputs["y"] = (np.round(inputs[name] * 2).astype(dtype(kind)) for name in "xy")  # type: ignore[operator]
    model = ir.to_proto(running.ops_model("GatherGemmScatter", inputs, {}, constants=CONSTANTS))
    model.functions.append(ir.to_proto(operators()["Gather"].function(running.OPSET)))
    for name, array in (("order", np.arange(count)[::-1].copy()), ("none", np.zeros(1, dtype(kind)))):
        model.graph.initializer.append(ir.to_proto(ir.tensor(array, name=name)))
    model.graph.node[0].input[0] = "dies"
    turned = helper.make_node("Gather", ["y", "order", "none"], ["dies"], domain=DOMAIN, axis=0)
    model.graph.node.insert(0, turned)
    found = running.run(model, {name: inputs[name] for name in ("y", "x", "floor")})[0]  # type: ignore[misc]
    y, *rest = inputs.values()
    (expected,) = operators()["GatherGemmScatter"].reference(y[::-1], *rest)  # type: ignore[index]
    np.testing.assert_array_equal(found, expected)  # whole numbers: sums are exact


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_callers_arrays_stay(kind: str) -> None:
    rng = np.random.default_rng(0)
    blocks = blocks_of([(30, 40), (20, 50)], "neither", rng, ordered=False)
    inputs = inputs_of(blocks, (7,), False, False, rng, kind)
    session = running.open_session(running.ops_model("GatherGemmScatter", inputs, {}, constants=CONSTANTS))
    feeds = {name: np.array(inputs[name]) for name in ("y", "x")}
    first = session.run(None, feeds)[0]
    second = session.run(None, feeds)[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(feeds["y"], inputs["y"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"columns": [[0, 9], [2, 3]]}, "columns holds 9, the last axis of x has 5 positions"),
        ({"rows": [[0, 1], [2, 9]]}, "rows holds 9, the last axis of y has 4 positions"),
        ({"rows": [[0, 0], [2, 3]]}, "rows of block 0 holds a position twice"),
        ({"columns": [[0, 1], [1, 2]], "rows": [[0, 1], [1, 2]]}, "blocks 0 and 1 hold weights for the same place"),
        ({"columns": [[0, 1]]}, "columns, rows and weights differ in their blocks"),
        ({"weights": np.ones((2, 3, 2))}, "weights has another number of columns"),
        ({"y": np.ones((2, 4))}, "y must be as large as x but for the last axis"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, object], says: str) -> None:
    inputs: dict[str, np.ndarray | None] = {
        "y": np.ones(4, np.float32),
        "x": np.ones((3, 5), np.float32),
        "columns": np.array([[0, 1], [2, 3]]),
        "rows": np.array([[0, 1], [2, 3]]),
        "weights": np.ones((2, 2, 2), np.float32),
        "floor": None,
    }
    for name, array in change.items():
        inputs[name] = np.asarray(array, inputs[name].dtype)  # type: ignore[union-attr]
    model = running.ops_model("GatherGemmScatter", inputs, {}, constants=CONSTANTS)
    with pytest.raises(GraphoptError) as error:
        running.run(model, {name: inputs[name] for name in ("y", "x")})  # type: ignore[misc]
    assert says in str(error.value)


def test_weights_that_are_computed_are_refused() -> None:
    rng = np.random.default_rng(0)
    inputs = inputs_of(blocks_of([(2, 2)], "neither", rng, ordered=True), (3,), True, False, rng)
    model = running.ops_model("GatherGemmScatter", inputs, {}, constants=("columns", "rows"))
    with pytest.raises(GraphoptError, match="must be initializers"):
        running.open_session(model)
