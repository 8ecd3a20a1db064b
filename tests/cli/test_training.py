"""`prune`, `quantize-train`, `binarize`: from a recipe to a file, in whichever state the folder is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from graphopt import runtime  # noqa: E402
from graphopt.train import checkpoint  # noqa: E402
from graphopt.train.run import Run as Training  # noqa: E402
from tests.cli.conftest import Run, listing  # noqa: E402
from tests.train import nets  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
family: tests.train.family:FAMILY
model: {hidden: 16, depth: 2}
data: {train: 120}
train: {epochs: 8, batch: 8, rate: 0.02}
prune: {score: taylor, structure: hidden, amount: 0.5, rounds: 2, samples: 64, retrain: {epochs: 2, batch: 8}}
quantize-train: {levels: 16, samples: 64, retrain: {epochs: 2, batch: 8}, final: {epochs: 1, batch: 8}}
binarize: {train: {epochs: 8, batch: 8, rate: 0.02}}
"""

METHODS = ("prune", "quantize-train", "binarize")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are of no interest here."""
    monkeypatch.setitem(Training.__init__.__kwdefaults__, "bench_seconds", 0.01)  # type: ignore[arg-type]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def state(folder: Path) -> dict[str, Any]:
    """The weights of a checkpoint."""
    found = checkpoint.read(folder)
    assert found is not None
    return found["net"]


def answers(path: Path) -> np.ndarray:
    points = nets.data(train=120).test.inputs.numpy()
    return np.asarray(runtime.run(runtime.session(path), {"points": points})[0]).argmax(1)


def widths(path: Path) -> set[int]:
    """Every size of every weight."""
    return {size for one in onnx.load(path).graph.initializer for size in one.dims}


@pytest.mark.parametrize("method", METHODS)
def test_from_a_recipe_to_a_file(run: Run, recipe: Path, method: str) -> None:
    folder, out, page = recipe.parent / "work", recipe.parent / "out.onnx", recipe.parent / "page.html"
    ran = run(method, recipe, "-o", out, "--folder", folder, "--report", page)
    assert ran.status == 0, ran.err
    names = {
        "prune": ["pruned", "optimized"],
        "quantize-train": ["quantized", "optimized"],
        "binarize": ["binarized", "packed"],
    }
    for word in ("✓ trained points on 120 samples", "parameters", "latency", "accuracy", "trained", *names[method]):
        assert word in ran.out
    assert f"wrote {out}, {page}" in ran.out and f"graphopt {method} {recipe} --set train.epochs" in ran.out
    onnx.checker.check_model(onnx.load(out))
    text = page.read_text(encoding="utf-8")
    said = json.loads(text.split('id="report">')[1].split("</script>")[0])
    assert said["method"] == method and [one["name"] for one in said["stages"]] == ["trained", *names[method]]
    assert "<script src" not in text and "http" not in text.split("<style>")[0]
    targets = nets.data(train=120).test.targets.numpy()
    assert said["stages"][-1]["figure"] == pytest.approx((answers(out) == targets).mean()), "measured on the file"
    assert said["stages"][0]["figure"] > 0.8
    if method == "prune":
        assert np.array_equal(answers(out), answers(folder / "pruned.onnx"))
        assert 16 in widths(folder / "pruned.onnx") and 16 not in widths(out), "half of the 16 hidden units are gone"
    assert said["same_answers"] >= said["answers"] - 1 == 30

    # The same once more trains nothing; what is printed with --json is one object and nothing else.
    before = {name: one for name, one in listing(folder).items() if name.endswith(checkpoint.NAME)}
    assert set(before) == {f"float/{checkpoint.NAME}", f"{method}/{checkpoint.NAME}"}
    again = run(method, recipe, "-o", out, "--folder", folder, "--json")
    assert again.status == 0
    repeated = json.loads(again.out)
    assert {name: one for name, one in listing(folder).items() if name in before} == before
    assert [row["figure"] for row in repeated["stages"]] == [row["figure"] for row in said["stages"]]
    assert repeated["recipe"] == said["recipe"] and repeated["history"] == said["history"]


def test_ctrl_c_leaves_a_training_that_goes_on(run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, folder = recipe.parent / "out.onnx", recipe.parent / "out.training"
    whole = recipe.parent / "whole.onnx"
    recipe.write_text(RECIPE.replace("hidden, amount", "unstructured, amount"))
    assert run("prune", recipe, "-o", whole).status == 0
    real, left = Training._trainer, 0

    def counting(self: Training, *given: Any) -> Any:
        trainer = real(self, *given)

        def progress(label: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        trainer._progress = progress
        return trainer

    monkeypatch.setattr(Training, "_trainer", counting)
    for steps in (15 * 3 + 1, 15 * 6, 15 * 2):  # within the float training, and then within the rounds
        left = steps
        ran = run("prune", recipe, "-o", out)
        assert ran.status == 130 and "the same command goes on from there" in ran.err and str(folder) in ran.err
        assert not out.exists() and (folder / "float" / checkpoint.NAME).is_file()
        assert not list(recipe.parent.rglob("*.part"))
    left = 0
    assert run("prune", recipe, "-o", out).status == 0
    for part in ("float", "prune"):
        assert nets.same(state(folder / part), state(recipe.parent / "whole.training" / part)), part
    assert listing(recipe.parent)["out.onnx"] == listing(recipe.parent)["whole.onnx"]


def test_another_recipe_is_refused_and_restart_begins_anew(run: Run, recipe: Path) -> None:
    folder, out = recipe.parent / "work", recipe.parent / "out.onnx"
    few = ("--set", "train.epochs=1", "--set", "prune.structure=unstructured")
    assert run("prune", recipe, "-o", out, "--folder", folder, *few).status == 0
    before = listing(recipe.parent)
    ran = run("prune", recipe, "-o", out, "--folder", folder)
    assert ran.status == 1 and "train.epochs is 1 there and 8 here" in ran.err and "--restart" in ran.err
    ran = run("prune", recipe, "-o", out, "--folder", folder, *few, "--set", "prune.amount=0.75")
    assert ran.status == 1 and "prune.amount is 0.5 there and 0.75 here" in ran.err
    ran = run("prune", recipe, "-o", out, "--folder", folder, *few, "--seed", "1")
    assert ran.status == 1 and "seed is 0 there and 1 here" in ran.err
    assert listing(recipe.parent) == before
    ran = run("prune", recipe, "-o", out, "--folder", folder, *few, "--seed", "1", "--restart")
    assert ran.status == 0 and listing(recipe.parent)["out.onnx"] != before["out.onnx"]


def test_a_model_that_is_another_function_is_not_written(run: Run, recipe: Path) -> None:
    broken = recipe.read_text().replace(":FAMILY", ":BROKEN").replace("depth: 2", "depth: 1")
    recipe.write_text(broken)
    few = ("--set", "train.epochs=4", "--set", "prune.retrain.epochs=1", "--set", "prune.rounds=1")
    ran = run("prune", recipe, "-o", recipe.parent / "out.onnx", *few)
    assert ran.status == 3 and "its ONNX model" in ran.err
    assert not (recipe.parent / "out.onnx").exists()


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (["--set", "train.epoch=1"], 2, "did you mean epochs?"),
        (["--set", "prune.amount=2"], 2, "amount is a share"),
        (["--set", "prune"], 2, "--set train.epochs=3"),
        (["--set", "family=mlp_digit"], 2, "did you mean mlp_digits?"),
        (["--set", "model.hiden=1"], 2, "did you mean hidden?"),
        (["--set", "model.hidden=0"], 1, "0 hidden units"),
        (["--set", "data.features=5"], 2, "samples of 5, its example is of 7"),
        (["--set", "data.test=0"], 1, "nothing to judge by"),
        (["--set", "train.rate=1e30"], 1, "lower rate"),
        (["--set", "prune.structure=head"], 2, "no group of kind head"),
        (["--set", "family=tests.train.family:TWO"], 2, "wants factor beside 'points', and the family has no feeds"),
        (["--seed", "-1"], 2, "--seed"),
        (["--folder", "{folder}/no/such"], 1, "does not exist"),
        (["--report", "{folder}/no/such.html"], 1, "does not exist"),
        (["--report", "{folder}/out.onnx"], 2, "same file"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, recipe: Path, change: list[str], status: int, said: str
) -> None:
    recipe.write_text(recipe.read_text().replace("epochs: 8", "epochs: 1"))
    out = recipe.parent / "out.onnx"
    ran = run("prune", recipe, "-o", out, *(one.format(folder=recipe.parent) for one in change))
    assert ran.status == status and said in ran.err, ran.err
    assert not out.exists() and not list(recipe.parent.rglob("*.part"))


@pytest.mark.parametrize("part", ["model", "data"])
def test_an_option_that_means_nothing_leaves_nothing_behind(run: Run, recipe: Path, part: str) -> None:
    before = listing(recipe.parent)
    change = f"{part}.nosuch=3"
    ran = run("prune", recipe, "-o", recipe.parent / "out.onnx", "--set", change)
    assert ran.status == 2
    assert f"unknown key '{part}.nosuch'" in ran.err and f"--set {change}" in ran.err and str(recipe) not in ran.err
    assert listing(recipe.parent) == before
    recipe.write_text(RECIPE.replace(f"{part}: {{", f"{part}: {{nosuch: 3, "), encoding="utf-8")
    before = listing(recipe.parent)
    ran = run("prune", recipe, "-o", recipe.parent / "out.onnx")
    assert "unknown key" in ran.err and str(recipe) in ran.err and "--set" not in ran.err, "the file says it here"
    assert listing(recipe.parent) == before


@pytest.mark.parametrize("method", METHODS)
def test_what_is_missing_is_said(run: Run, recipe: Path, method: str) -> None:
    ran = run(method, recipe.parent / "no.yaml", "-o", recipe.parent / "out.onnx")
    assert ran.status == 2 and "no such recipe" in ran.err
    ran = run(method, recipe)
    assert ran.status == 2 and "-o" in ran.err
    recipe.write_text("family: tests.train.family:FAMILY\n")
    ran = run(method, recipe, "-o", recipe.parent / "out.onnx")
    assert ran.status == 2 and f"no part '{method}'" in ran.err
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["recipe.yaml"]


def test_without_torch_it_says_what_to_install(run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else real(name, *more))
    ran = run("prune", recipe, "-o", recipe.parent / "out.onnx")
    assert ran.status == 1 and "needs torch" in ran.err and 'pip install "graphopt[train]"' in ran.err


def test_nothing_to_binarize_is_said(run: Run, recipe: Path) -> None:
    ran = run("binarize", recipe, "-o", recipe.parent / "out.onnx", "--set", "model.depth=1", "--set", "train.epochs=1")
    assert ran.status == 2 and "name a family with more layers" in ran.err
    assert not (recipe.parent / "out.onnx").exists()


@pytest.mark.long
def test_torchrun(recipe: Path) -> None:
    """Two processes write one file, and one of them prints."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "graphopt", "prune", str(recipe), "-o", str(recipe.parent / "out.onnx"), "--json"),
            *("--set", "train.epochs=2"),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["processes"] == 2 and said["stages"][-1]["parameters"] < said["stages"][0]["parameters"]
    assert answers(recipe.parent / "out.onnx").shape == (31,)
