"""The rows of the peers' table (``python -m tests.bench.peers``), with graphopt alone, and what the table condemns."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import pipeline
from tests.bench.peers.__main__ import judged
from tests.bench.peers.candidate import floats
from tests.bench.peers.judge import GRAPHOPT, PEERS, SIZES, STATIC, Outcome
from tests.bench.peers.rows import ROWS, Row, static
from tests.ops.net import Net
from tests.strategies import check


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_exact_and_a_dynamic_batch_costs_nothing(row: Row) -> None:
    left = []
    model = row.build()
    for one, batches in ((model, SIZES), (static(model, STATIC), (STATIC,))):
        expected = check.Expected.of(one, batches)
        result = pipeline.optimize(one, plan="smallest", verify=False).model
        data = models.serialize(result)
        expected.compare(data, row.name)
        left.append(floats(onnx.load_from_string(data)))
    assert left[0] == left[1] <= floats(model)


def outcomes(own: Outcome, other: Outcome) -> dict:
    return {GRAPHOPT: (own, own), PEERS[1]: (other, other)}


@pytest.mark.parametrize(
    ("own", "other", "broken"),
    [
        (Outcome("exact", 10, 20), Outcome("exact", 10, 20), 0),
        (Outcome("exact", 10, 20), Outcome("exact", 9, 20), 2),
        (Outcome("exact", 10, 20), Outcome("wrong", 9, 20), 0),
        (Outcome("exact", 10, 20), Outcome("failed", 0, 20), 0),
        (Outcome("exact", 10, 20), Outcome("not installed"), 0),
        (Outcome("wrong", 10, 20), Outcome("exact", 12, 20), 2),
        (Outcome("failed", 0, 20), Outcome("n/a"), 2),
    ],
)
def test_what_a_row_violates(own: Outcome, other: Outcome, broken: int) -> None:
    assert len(judged("row", outcomes(own, other))) == broken


def test_a_dynamic_batch_that_costs_something_is_a_violation() -> None:
    found = {GRAPHOPT: (Outcome("exact", 12, 20), Outcome("exact", 10, 20))}
    assert len(judged("row", found)) == 1


def test_counted_are_floats_and_quantized_weights_but_no_single_numbers() -> None:
    net = Net()
    y = net("Add", net("MatMul", net.input("x", "N", 3), np.zeros((3, 5), np.float32)), 1.5)
    y = net(
        "Add", y, net("DequantizeLinear", np.ones(5, np.int8), np.ones(5, np.float32), np.zeros(5, np.int8), axis=0)
    )
    model = net.model(net("Reshape", y, [0, 5]))
    assert floats(model) == 15 + 5 + 5  # not the zero points
