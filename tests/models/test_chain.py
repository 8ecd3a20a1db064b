"""One net through all stages: pruned filters stay zero through quantization, and are gone at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from graphopt import runtime  # noqa: E402
from graphopt.train import recipe  # noqa: E402
from tests.bench.train.chain import REDUCED, chain, main  # noqa: E402

SHORT = [
    *("model.width=8", "data.train=320", "data.test=200", "train.epochs=2"),
    *("prune.rounds=1", "prune.samples=64", "prune.retrain.epochs=1"),
    *("quantize-train.retrain.epochs=1", "quantize-train.final.epochs=1", "quantize-train.samples=64"),
]


def test_the_stages_of_a_small_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``chain`` itself refuses a quantization that brings pruned filters back."""
    found = recipe.load("resnet_digits", SHORT)
    trained, pruned, quantized, demasked = chain(found, tmp_path, seconds=0.01, measure=False)
    assert pruned.parameters == trained.parameters and pruned.macs == trained.macs
    assert demasked.parameters < 0.4 * quantized.parameters  # half of all channels, streams among them
    assert demasked.macs < 0.4 * quantized.macs
    assert demasked.bytes < quantized.bytes < 0.5 * trained.bytes
    assert demasked.figure == quantized.figure
    images = found.load_data().test.inputs.numpy()
    answers = [runtime.run(runtime.session(Path(one.path)), {"image": images})[0] for one in (quantized, demasked)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-4 * np.abs(answers[0]).max())
    dead = [line.split() for line in capsys.readouterr().out.splitlines() if "filters" in line]
    assert len(dead) == 2 and "52" in dead[0] and "52" in dead[1]  # half of the 104 of all convolutions


def test_reduced_recipes_are_recipes() -> None:
    for name, changes in REDUCED.items():
        found = recipe.load(name, changes)
        assert found.prune is not None and found.quantize is not None


def test_a_mistake_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "train.epocs=3"]) == 1
    assert "epochs" in capsys.readouterr().err
