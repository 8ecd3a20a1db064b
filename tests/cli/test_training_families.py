"""Families of the user's that are at fault: which line, what is wrong with it, and never that graphopt has a bug."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tests.cli.conftest import Run

MODULE = """
from dataclasses import replace

import torch
from torch import nn

from graphopt.train.data import Data, Split
from tests.train import nets
from tests.train.family import FAMILY as GOOD


def fails(*given):
    raise KeyError("on fire")


def broken(label):
    found = nets.data(20, 9)
    found.train.targets[7] = label
    return found


class Breaks(nn.Linear):
    def forward(self, x):
        return fails() if self.training else super().forward(x)


def floats():
    found = nets.data(20, 9)
    return replace(found, train=Split(found.train.inputs, found.train.targets.float()))


ABOVE = replace(GOOD, data=lambda: broken(nets.CLASSES))
BELOW = replace(GOOD, data=lambda: broken(-1))
FLOATS = replace(GOOD, data=floats)
NO_DATA = replace(GOOD, data=lambda: None)
NO_NET = replace(GOOD, new=lambda seed=0: "a net")
FORWARD = replace(GOOD, new=lambda seed=0: nn.Sequential(Breaks(nets.FEATURES, nets.CLASSES)))
PREPARE = replace(GOOD, data=lambda: replace(nets.data(20, 9), prepare=fails))
AUGMENT = replace(GOOD, data=lambda: replace(nets.data(20, 9), augment=fails))
EXPORT = replace(GOOD, export=fails)
NO_EXPORT = replace(GOOD, export=lambda net: None)
INPUT = replace(GOOD, input="pionts")
OUTPUT = replace(GOOD, output="logit")
FEEDS = replace(GOOD, feeds=fails)
"""

RECIPE = """
family: theirs:NAME
train: {epochs: 1, batch: 8}
prune: {score: magnitude, structure: unstructured, rounds: 1, retrain: {epochs: 0}}
"""

LINE = 'theirs.py:13 in fails: raise KeyError("on fire")'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "theirs.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("ABOVE", 2, "Target 3 is out of bounds"),
        ("BELOW", 2, "Target -1 is out of bounds"),
        ("FLOATS", 2, "there is no loss of what the data wants"),
        ("NO_DATA", 1, "is a NoneType, not a graphopt.train.data.Data"),
        ("NO_NET", 1, "is a str, not a torch.nn.Module"),
        ("FORWARD", 1, LINE),
        ("PREPARE", 1, LINE),
        ("AUGMENT", 1, LINE),
        ("EXPORT", 1, LINE),
        ("NO_EXPORT", 2, "exports a NoneType"),
        ("INPUT", 2, "no input 'pionts'"),
        ("OUTPUT", 2, "no output 'logit'"),
        ("FEEDS", 1, LINE),
    ],
)
def test_the_family_is_to_blame(run: Run, folder: Path, name: str, status: int, said: str) -> None:
    recipe, out = folder / "recipe.yaml", folder / "out.onnx"
    recipe.write_text(RECIPE.replace("NAME", name), encoding="utf-8")
    ran = run("prune", recipe, "-o", out)
    assert ran.status == status and said in ran.err, ran.err
    assert "internal error" not in ran.err and not out.exists() and not list(folder.rglob("*.part"))


def test_a_second_input_that_nobody_feeds_is_missed_before_anything_is_trained(run: Run, folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("theirs:NAME", "tests.train.family:TWO"), encoding="utf-8")
    ran = run("prune", recipe, "-o", folder / "out.onnx")
    assert ran.status == 2 and "wants factor beside 'points'" in ran.err, ran.err
    assert not list(folder.rglob("checkpoint.pt"))


def test_what_graphopt_itself_raises_is_not_blamed_on_the_family(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.train.trainer import Trainer

    def bug(*given: object, **more: object) -> None:
        raise ZeroDivisionError("ours")

    bug.__code__ = bug.__code__.replace(co_filename=str(sys.modules[Trainer.__module__].__file__))
    monkeypatch.setattr(Trainer, "fit", bug)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("theirs:NAME", "tests.train.family:FAMILY"), encoding="utf-8")
    ran = run("prune", recipe, "-o", folder / "out.onnx")
    assert ran.status == 1 and "internal error: ZeroDivisionError: ours" in ran.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("model: &a {x: *a}\n", "contains itself"),
        ("model: {1: 2}\n", "unknown key 'model.1'"),
        ("seed: 9223372036854775808\n", "64 bits"),
    ],
)
def test_recipes_that_yaml_takes_and_nobody_means(run: Run, folder: Path, more: str, said: str) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("theirs:NAME", "tests.train.family:FAMILY") + more, encoding="utf-8")
    ran = run("prune", recipe, "-o", folder / "out.onnx")
    assert ran.status == 2 and said in ran.err, ran.err


def test_groups_that_are_not_there_are_missed_before_anything_is_trained(run: Run, folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    text = RECIPE.replace("theirs:NAME", "tests.train.family:FAMILY").replace("unstructured", "head")
    recipe.write_text(text, encoding="utf-8")
    ran = run("prune", recipe, "-o", folder / "out.onnx")
    assert ran.status == 2 and "no group of kind head" in ran.err
    assert not list(folder.rglob("checkpoint.pt"))


@pytest.mark.parametrize("content", ["[]", "3", "{", ""])
def test_a_folder_whose_memory_is_damaged_is_refused(run: Run, folder: Path, content: str) -> None:
    recipe, there = folder / "recipe.yaml", folder / "work"
    recipe.write_text(RECIPE.replace("theirs:NAME", "tests.train.family:FAMILY"), encoding="utf-8")
    there.mkdir()
    (there / "recipe.json").write_text(content, encoding="utf-8")
    ran = run("prune", recipe, "-o", folder / "out.onnx", "--folder", there)
    assert ran.status == 1 and "not what graphopt wrote" in ran.err and "--restart" in ran.err
    assert (there / "recipe.json").read_text(encoding="utf-8") == content
