"""The demo: its net, its pruning, and the whole story as a user gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from graphopt import runtime  # noqa: E402
from graphopt.models.data.digits import load  # noqa: E402
from graphopt.models.resnet_digits import module, train  # noqa: E402
from graphopt.models.resnet_digits.family import FAMILY  # noqa: E402
from graphopt.train.data import Data  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 8


@pytest.fixture(scope="module")
def digits() -> Data:
    return FAMILY.data()


def fit(net: module.ResNetDigits, digits: Data, seed: int = 0, images: int = 320) -> float:
    """One short epoch; returns its loss."""
    return train.train(net, Data(digits.train.first(images), digits.test), epochs=1, seed=seed)


def test_the_split_is_fixed_and_nothing_is_in_both(digits: Data) -> None:
    assert digits.train.inputs.shape == (1438, 1, 8, 8) and digits.test.inputs.shape == (359, 1, 8, 8)
    assert digits.train.inputs.dtype == torch.float32
    assert digits.train.inputs.max() == 1 and digits.train.inputs.min() == 0
    assert set(digits.test.targets.tolist()) == set(range(10))
    assert torch.equal(load().test.inputs, digits.test.inputs)
    both = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)


def test_training_learns_and_is_repeatable(digits: Data) -> None:
    nets = [module.new(seed=3, width=WIDTH) for _ in range(2)]
    losses = [[fit(net, digits), fit(net, digits)] for net in nets]
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, two)
    assert fit(module.new(seed=4, width=WIDTH), digits) != losses[0][0]  # near miss: another net
    assert fit(module.new(seed=3, width=WIDTH), digits, seed=1) != losses[0][0]  # near miss: another order
    assert not nets[0].training


def test_half_of_the_filters_of_every_convolution_are_masked_each_layer_its_own(digits: Data) -> None:
    net = module.new(width=WIDTH)
    train.prune_filters(net)
    alive = []
    for conv, norm in train.filters(net):
        mask = conv.get_buffer("weight_mask").amax(dim=(1, 2, 3))
        assert int(mask.sum()) == conv.out_channels // 2
        assert torch.equal(norm.get_buffer("weight_mask"), mask) and torch.equal(norm.get_buffer("bias_mask"), mask)
        alive.append(tuple(mask.tolist()))
    convolutions = [child for child in net.modules() if isinstance(child, torch.nn.Conv2d)]
    assert len(alive) == len(convolutions)
    assert len(set(alive)) == len(alive)


def test_masks_are_held_while_the_rest_is_trained(digits: Data) -> None:
    net = module.new(width=WIDTH)
    train.prune_filters(net)
    before = [(conv.get_buffer("weight_mask").clone(), conv.weight.detach().clone()) for conv, _ in train.filters(net)]
    fit(net, digits)
    with torch.no_grad():
        net(torch.zeros(1, 1, 8, 8))
    for (mask, old), (conv, _) in zip(before, train.filters(net), strict=True):
        assert torch.equal(conv.get_buffer("weight_mask"), mask)
        assert not conv.weight[mask == 0].any()
        changed = (conv.weight[mask == 1] != old[mask == 1]).float().mean()
        # The stem reads the image; behind it half of the inputs are dead, and their weights get no gradient.
        assert changed > (0.99 if conv is net.stem else 0.45)


def test_the_export_keeps_the_masks_and_equals_the_module(digits: Data) -> None:
    net = module.new(width=WIDTH)
    train.prune_filters(net)
    net.eval()
    model = FAMILY.export(net)
    masks = [name for name in model.graph.initializers if "mask" in name]
    assert len(masks) == 3 * len(list(train.filters(net)))
    few = digits.test.inputs[:7]
    (logits,) = runtime.run(runtime.session(model), {"image": few.numpy()})
    with torch.no_grad():
        expected = net(few).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], dict]:
    """The command as a user types it, with fewer epochs."""
    folder = tmp_path_factory.mktemp("demo")
    script = (
        "import sys, torch, functools, graphopt.demo as d; torch.set_num_threads(1); "
        "d.tell = functools.partial(d.tell, epochs=1, bench_seconds=0.2); "
        "from graphopt.cli import main; sys.exit(main(['demo', '--out', 'out']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder / "out", ran, json.loads((folder / "out" / "report.json").read_text())


def test_the_demo_leaves_its_files_and_a_table(told: tuple[Path, subprocess.CompletedProcess[str], dict]) -> None:
    folder, ran, _ = told
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("trained.onnx", "pruned.onnx", "optimized.onnx", "quantized.onnx", "report.html", "report.json"),
        *("quantized.html", "quantized.json", "calibration_images.npz", "test_images.npz"),
    }
    for row in (
        "parameters",
        "multiply-adds",
        "file",
        "latency",
        "accuracy",
        "times as fast",
        "(0 predictions differ)",
        "quantized on 512 training images",
    ):
        assert row in ran.stdout
    for command in ("inspect", "optimize", "verify", "bench"):
        assert f"graphopt {command} out/pruned.onnx" in ran.stdout
    assert "\x1b" not in ran.stdout + ran.stderr


def test_the_demo_shrinks_the_net_and_changes_no_answer(
    told: tuple[Path, subprocess.CompletedProcess[str], dict], digits: Data
) -> None:
    folder, _, report = told
    assert report["verify"]["passed"] is True
    assert report["after"]["parameters"] < 0.45 * report["before"]["parameters"]
    assert report["after"]["macs"] < 0.5 * report["before"]["macs"]
    assert report["input"]["bytes"] == (folder / "pruned.onnx").stat().st_size
    assert report["output"]["bytes"] == (folder / "optimized.onnx").stat().st_size
    logits = [
        runtime.run(runtime.session(folder / name), {"image": digits.test.inputs.numpy()})[0]
        for name in ("pruned.onnx", "optimized.onnx")
    ]
    np.testing.assert_array_equal(logits[0].argmax(axis=1), logits[1].argmax(axis=1))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4 * np.abs(logits[0]).max())


def test_the_demo_quantizes_and_keeps_nearly_every_answer(
    told: tuple[Path, subprocess.CompletedProcess[str], dict], digits: Data
) -> None:
    folder, ran, _ = told
    report = json.loads((folder / "quantized.json").read_text())
    optimized, quantized = folder / "optimized.onnx", folder / "quantized.onnx"
    logits = [
        runtime.run(runtime.session(path), {"image": digits.test.inputs.numpy()})[0] for path in (optimized, quantized)
    ]
    different = int((logits[0].argmax(axis=1) != logits[1].argmax(axis=1)).sum())
    assert f"{different} of 359 predictions differ" in " ".join(ran.stdout.split())
    assert different <= 4
    if report["quantize"]["declined"] is None:  # on a busy machine nothing may measure as faster
        assert quantized.stat().st_size < 0.6 * optimized.stat().st_size
        assert report["quantize"]["integer_nodes"] >= 10
        assert report["quantize"]["output_sqnr_db"] > 25


@pytest.mark.parametrize(("package", "said"), [("torch", "torch"), ("sklearn", "scikit-learn")])
def test_without_torch_the_demo_says_what_to_install(tmp_path: Path, package: str, said: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None; "
        "from graphopt.cli import main; sys.exit(main(['demo', '--out', 'out']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and ran.stdout == ""
    assert f"error: the demo trains a net, and needs {said}" in ran.stderr
    assert "pip install" in ran.stderr
    assert list(tmp_path.iterdir()) == []
