"""The digest of a model: everything that it says counts, where its weights lie does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import model as models
from tests.ops.net import Net


def matrices(first: np.ndarray, second: np.ndarray, op: str = "Relu") -> ir.Model:
    net = Net()
    x = net.input("x", "N", first.shape[0])
    return models.load(net.model(net(op, net("MatMul", net("MatMul", x, first), second))))


A, B = (np.random.default_rng(seed).normal(size=(40, 40)).astype(np.float32) for seed in (0, 1))


def test_it_is_of_the_model_and_not_of_its_files(tmp_path: Path) -> None:
    model = matrices(A, B)
    found = models.digest(model)
    assert len(found) == 64 and found == models.digest(matrices(A, B)) == models.digest(models.clone(model))
    models.save(model, tmp_path / "model.onnx", external=True)
    assert models.digest(models.load(tmp_path / "model.onnx")) == found


@pytest.mark.parametrize("change", ["one number", "swapped", "operator", "small constant", "sign of zero"])
def test_every_change_counts(change: str) -> None:
    small = np.zeros((40, 2), np.float32)
    before, op, first, second = models.digest(matrices(A, B)), "Relu", A.copy(), B.copy()
    if change == "one number":
        first[3, 4] = np.nextafter(first[3, 4], np.float32(9))
    elif change == "swapped":
        first, second = B, A
    elif change == "operator":
        op = "Tanh"
    else:
        before, second = models.digest(matrices(A, small)), small.copy()
        second[1, 1] = 1e-45 if change == "small constant" else -0.0
    assert models.digest(matrices(first, second, op)) != before
