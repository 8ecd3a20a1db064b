"""TernaryGemm: kernel = function = numpy; the integer part bit by bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.errors import GraphoptError
from graphopt.runtime_ops.ternary_gemm.reference import pack, unpack
from tests.runtime_ops import running

REFUSALS = (GraphoptError, RuntimeError)
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WEIGHTS = ("codes", "levels")
SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 23, 31, 47, 48, 49, 64, 97, 101])


def case(
    rows: tuple[int, ...],
    columns: int,
    outputs: int,
    *,
    bits: int = 2,
    kind: str = "uint8",
    stored: bool = True,
    levels: np.ndarray | None = None,
    seed: int = 0,
    exact: bool = True,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Inputs and attributes; where ``exact``, scales of one and no bias, so that the sums themselves come out."""
    rng = np.random.default_rng(seed)
    if levels is None:
        levels = np.array([-1, 0, 1, 0], np.int8) if bits == 2 else rng.integers(-64, 65, 16).astype(np.int8)
    codes = rng.integers(0, 1 << bits, (outputs, -(-columns * bits // 8) * 8 // bits))  # padding is any code
    bounds = np.iinfo(kind)
    if stored:
        x = rng.integers(bounds.min, bounds.max + 1, (*rows, columns)).astype(kind)
    else:
        x = (rng.normal(size=(*rows, columns)) * 60).astype(np.float32)
    inputs = {
        "x": x,
        "codes": pack(codes, bits),
        "levels": levels.astype(np.int8),
        "scale": np.ones(outputs, np.float32) if exact else rng.uniform(0.01, 1, outputs).astype(np.float32),
        "bias": np.zeros(1, np.float32) if exact else rng.normal(size=outputs).astype(np.float32),
        "x_scale": np.array(1 if exact else rng.uniform(0.1, 2), np.float32),
        "x_zero_point": np.array(rng.integers(bounds.min, bounds.max + 1), kind),
    }
    return inputs, {"bits": bits, "stored": int(stored)}


@QUIET
@given(
    rows=st.lists(SIZES.filter(lambda size: size < 40), min_size=1, max_size=2),
    columns=SIZES.filter(bool),  # onnxruntime's own product of nothing is not defined
    outputs=SIZES,
    bits=st.sampled_from([2, 4]),
    kind=st.sampled_from(["uint8", "int8"]),
    stored=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sums_are_exact(
    rows: list[int], columns: int, outputs: int, bits: int, kind: str, stored: bool, seed: int
) -> None:
    inputs, attributes = case(tuple(rows), columns, outputs, bits=bits, kind=kind, stored=stored, seed=seed)
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=outputs > 0 and 0 not in rows)


@pytest.mark.parametrize(
    "shape", [(1, 130, 97), (3, 64, 48), (4, 257, 50), (9, 33, 1), (17, 1030, 200), (26, 300, 270)]
)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("stored", [True, False])
def test_every_set_of_instructions(level: str, shape: tuple[int, int, int], bits: int, stored: bool) -> None:
    rows, columns, outputs = shape
    for kind in ("uint8", "int8"):
        inputs, attributes = case((rows,), columns, outputs, bits=bits, kind=kind, stored=stored)
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)


@pytest.mark.parametrize("levels", [[-128, 127, 127, -128], [64, -64, 64, 64], [65, 65, -65, 65], [0, 0, 0, 0]])
def test_the_largest_sums_do_not_saturate(level: str, levels: list[int]) -> None:
    inputs, attributes = case((5,), 1000, 50, levels=np.array(levels))
    inputs["x"][:] = 255
    inputs["codes"][::2] = 0b01010101
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)


def test_scales_and_bias_are_those_of_the_definition(level: str) -> None:
    for bits, stored in ((2, True), (4, False)):
        inputs, attributes = case((7,), 300, 61, bits=bits, stored=stored, exact=False)
        # Two roundings, in numpy and in the kernel; onnxruntime may join the function's last operators into one that
        # rounds once: half a unit of the product, and of the sum.
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, rtol=2**-22, atol=1e-3)


def test_halves_are_rounded_to_even_and_the_rest_saturates(level: str) -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 126.5, 127.5, np.inf, -np.inf]], np.float32)
    for kind in ("uint8", "int8"):
        inputs, attributes = case((1,), 11, 11, kind=kind, stored=False, levels=np.array([0, 1, 0, 0]))
        inputs["x"] = x
        inputs["codes"] = pack(np.eye(11, dtype=np.uint8))
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS)


def test_threads_share_the_work() -> None:
    for rows in (1, 6, 300):
        inputs, attributes = case((rows,), 900, 700)
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, threads=2, function=False)


def test_no_columns_leave_the_bias() -> None:
    inputs, attributes = case((3,), 0, 5, exact=False)
    (found,) = running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)
    np.testing.assert_array_equal(found, np.broadcast_to(inputs["bias"], (3, 5)))


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_opsets_and_symbols(opset: int) -> None:
    inputs, attributes = case((2, 3), 19, 7)
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, opset=opset, symbolic=True)


def test_packing_is_undone() -> None:
    for bits in (2, 4):
        codes = np.random.default_rng(0).integers(0, 1 << bits, (5, 11))
        np.testing.assert_array_equal(unpack(pack(codes, bits), 11, bits), codes)


@pytest.mark.parametrize(
    ("constants", "change", "says"),
    [
        (("levels",), {}, "codes (input 1) must be an initializer"),
        (("codes",), {}, "levels (input 2) must be an initializer"),
        (WEIGHTS, {"levels": np.zeros(3, np.int8)}, "levels (input 2) must be [2 ** bits]"),
        (WEIGHTS, {"codes": np.zeros((5, 2), np.uint8)}, "codes (input 1) must have ceil(K * bits / 8) columns"),
        (WEIGHTS, {"scale": np.zeros(4, np.float32)}, "scale (input 3) must be [N] or [1]"),
        (WEIGHTS, {"bias": np.zeros(4, np.float32)}, "bias (input 4) must be [N] or [1]"),
        (WEIGHTS, {"x_scale": np.zeros(2, np.float32)}, "x_scale (input 5) must be a scalar"),
        (WEIGHTS, {"x_zero_point": np.zeros(2, np.uint8)}, "x_zero_point (input 6) must be a scalar"),
    ],
)
def test_refusals_say_what_is_wrong(constants: tuple[str, ...], change: dict[str, np.ndarray], says: str) -> None:
    inputs, attributes = case((3,), 19, 5)
    inputs.update(change)
    with pytest.raises(REFUSALS) as caught:
        model = running.ops_model("TernaryGemm", inputs, attributes, constants=constants, symbolic=True)
        running.run(model, inputs)
    assert says in str(caught.value)


def test_a_session_serves_several_threads_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    cases = [case((rows,), 130, 60, kind="int8", seed=1) for rows in (1, 5, 40)]
    session = running.open_session(
        running.ops_model("TernaryGemm", cases[0][0], cases[0][1], constants=WEIGHTS, symbolic=True)
    )

    def once(i: int) -> bool:
        feeds = {name: array for name, array in cases[i % 3][0].items() if name not in WEIGHTS}
        feeds["x_zero_point"] = np.array(i % 7, np.int8)
        weight = cases[0][0]["levels"][unpack(cases[0][0]["codes"], 130)].astype(np.int64)
        (found,) = runtime.run(session, feeds)
        return bool((found == (feeds["x"].astype(np.int64) - i % 7) @ weight.T).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(once, range(60)))


def test_the_kernel_is_taken(tmp_path: Path) -> None:
    inputs, attributes = case((3,), 19, 5)
    model = running.ops_model("TernaryGemm", inputs, attributes, constants=WEIGHTS)
    assert running.taken(model, tmp_path) == ["graphopt.TernaryGemm"]


@pytest.mark.parametrize(("rows", "columns", "outputs"), [(24, 1, 256), (25, 255, 300), (70, 530, 1300)])
def test_sums_that_are_looked_up(level: str, rows: int, columns: int, outputs: int) -> None:
    """Tables serve many rows and outputs; their sums of 16 bits meet the largest that there are."""
    inputs, attributes = case((rows,), columns, outputs)
    inputs["codes"][:40] = 0b10101010  # ones
    inputs["codes"][40:80] = 0  # minus ones
    inputs["x"][::3] = 255
    inputs["x"][1::3] = 0
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False, threads=2)


def a_block_for_every_thread() -> int:
    """Rows from which on tables of 32 rows serve: one block for each of the processor's threads."""
    return 32 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.mark.parametrize("more", [-1, 0, 1, 31, 33])
@pytest.mark.parametrize(
    ("columns", "outputs"), [(368, 320), (369, 320), (384, 319), (401, 331), (433, 400), (480, 337)]
)
def test_tables_of_32_rows(level: str, more: int, columns: int, outputs: int) -> None:
    inputs, attributes = case((a_block_for_every_thread() + more,), columns, outputs)
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False, threads=2)


@pytest.mark.parametrize("columns", [384, 509, 1021])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_tables_widen_before_sixteen_bits_overflow(level: str, columns: int, kind: str) -> None:
    """255 weights of one sign and activations at both ends: 255 times 128 is the largest that 16 bits hold."""
    inputs, attributes = case((a_block_for_every_thread(),), columns, 331, kind=kind)
    inputs["codes"][::3] = 0b10101010  # ones
    inputs["codes"][1::3] = 0  # minus ones
    inputs["codes"][-1] = 0b01010101  # zeros: one output never needs it, and the others do
    inputs["x"][::3] = np.iinfo(kind).min
    inputs["x"][1::3] = np.iinfo(kind).max
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)


@pytest.mark.parametrize("weights", [254, 255, 256, 257])
def test_tables_widen_where_the_last_sum_that_fits_ends(level: str, weights: int) -> None:
    """Minus ones times activations of 0, which are -128 in the tables: 255 of them fit, and 256 are 32768."""
    columns = 8 * 48  # of whole chunks
    inputs, attributes = case((a_block_for_every_thread(),), columns, 320)
    codes = np.zeros((320, columns), np.uint8)
    codes[:, : columns - weights] = 1
    inputs["codes"] = pack(codes)
    inputs["x"][:] = 0
    inputs["x_zero_point"] = np.array(1, np.uint8)
    (found,) = running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)
    assert (found == weights).all()


THREE = ([0, 0, 0, 0], [1, 0, 1, -1], [1, 1, 1, 1], [-127, 0, 127, 0], [64, 0, -64, 0], [0, -128, 0, 0])
MORE = ([-1, 0, 2, 0], [-127, 0, 126, 0], [-128, 0, 127, 1])


@pytest.mark.parametrize("levels", [*THREE, *MORE])
def test_tables_of_every_three_levels(level: str, levels: list[int]) -> None:
    """Zero and one magnitude with both signs; anything else takes the other way."""
    for stored in (True, False):
        inputs, attributes = case((a_block_for_every_thread() + 2,), 390, 347, stored=stored, levels=np.array(levels))
        running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)


def test_tables_scale_and_shift_as_the_definition_does(level: str) -> None:
    inputs, attributes = case((2, a_block_for_every_thread()), 397, 353, exact=False)
    running.agree("TernaryGemm", inputs, attributes, constants=WEIGHTS, function=False)
