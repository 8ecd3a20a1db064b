"""Recipes: what is read, what is refused, and what the message says."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from graphopt.errors import GraphoptError, UsageError
from graphopt.train import family as families
from graphopt.train import recipe
from graphopt.train.fields import read
from graphopt.train.settings import Settings

POINTS = "family: tests.train.family:FAMILY\n"


@dataclass(frozen=True)
class Method:
    """One field of each type that methods use."""

    score: Literal["obd", "taylor"] = "obd"
    bits: Literal[1, 32] = 1
    amount: float = 0.5
    rounds: int = 4
    grow: bool = False
    name: str = "it"
    levels: int | None = None
    block: tuple[int, int] = (16, 16)
    exclude: tuple[str, ...] = ()
    retrain: Settings = field(default_factory=lambda: Settings(epochs=2))

    def __post_init__(self) -> None:
        if self.amount > 1:
            raise ValueError("amount is a share")


def method(content: Any) -> Method:
    return read(Method, content, "r.yaml", "prune")


def test_what_is_left_out_keeps_its_default() -> None:
    assert method(None) == method({}) == Method()
    found = method({"score": "taylor", "retrain": {"rate": 0.5}})
    assert found == Method(score="taylor", retrain=Settings(rate=0.5)), "a nested part begins with its own defaults"


def test_every_type_is_read() -> None:
    found = method(
        {
            **{"score": "taylor", "bits": 32, "amount": 1, "rounds": 7, "grow": True, "name": "a", "levels": 3},
            **{"block": [4, 1], "exclude": ["a", "b*"], "retrain": {"epochs": 0, "autocast": "bfloat16"}},
        }
    )
    assert found == Method(
        "taylor", 32, 1.0, 7, True, "a", 3, (4, 1), ("a", "b*"), Settings(epochs=0, autocast="bfloat16")
    )
    assert type(found.amount) is float and isinstance(found.exclude, tuple)
    assert method({"amount": "2e-3"}).amount == 0.002, "YAML takes that for text"
    assert method({"levels": None}).levels is None and method({"exclude": []}).exclude == ()


@pytest.mark.parametrize(
    ("content", "what", "help_"),
    [
        ({"scoer": "obd"}, "unknown key 'prune.scoer'", "did you mean score?"),
        ({"retrain": {"epoch": 3}}, "unknown key 'prune.retrain.epoch'", "did you mean epochs?"),
        ({7: 1}, "unknown key 'prune.7'", "known: score"),
        (
            {"score": "tailor"},
            "'prune.score' is 'tailor', not one of obd, taylor (did you mean taylor?)",
            "prune.score",
        ),
        ({"bits": 2}, "'prune.bits' is 2, not one of 1, 32", ""),
        ({"bits": True}, "'prune.bits' is true, not one of 1, 32", ""),
        ({"bits": "1"}, "'prune.bits' is '1', not one of 1, 32", ""),
        ({"amount": "much"}, "'prune.amount' is 'much', not a number", ""),
        ({"amount": True}, "'prune.amount' is true, not a number", ""),
        ({"amount": [1]}, "'prune.amount' is [1], not a number", ""),
        ({"rounds": 4.0}, "'prune.rounds' is 4.0, not a whole number", ""),
        ({"rounds": True}, "'prune.rounds' is true, not a whole number", ""),
        ({"rounds": None}, "'prune.rounds' is empty, not a whole number", ""),
        ({"grow": 1}, "'prune.grow' is 1, not true or false", ""),
        ({"name": 3}, "'prune.name' is 3, not text", ""),
        ({"levels": "few"}, "'prune.levels' is 'few', not a whole number or empty", ""),
        ({"block": [1]}, "'prune.block' is [1], not a list of 2", ""),
        ({"block": 4}, "'prune.block' is 4, not a list of 2", ""),
        ({"exclude": "a"}, "'prune.exclude' is 'a', not a list, each text", ""),
        ({"exclude": ["a", 3]}, "'prune.exclude' is ['a', 3], not text", ""),
        ({"retrain": 3}, "'prune.retrain' is 3, not a part with keys", ""),
        ({"retrain": {"rate": -1}}, "'prune.retrain': rate is -1.0, which is not positive", "prune.retrain"),
        ({"amount": 1.5}, "'prune': amount is a share", "prune"),
        ([1], "'prune' is [1], not a part with keys", ""),
    ],
)
def test_what_cannot_be_understood_is_refused(content: Any, what: str, help_: str) -> None:
    with pytest.raises(UsageError) as caught:
        method(content)
    assert what in caught.value.what
    assert caught.value.where == "r.yaml" and help_ in (caught.value.help or "")
    assert caught.value.exit_status == 2


def test_a_field_without_default_is_asked_for() -> None:
    @dataclass
    class Needs:
        number: int

    with pytest.raises(UsageError, match=r"'a\.number' is missing"):
        read(Needs, {}, "r.yaml", "a")
    assert read(Needs, {"number": 1}, "r.yaml", "a") == Needs(1)


# --- files ------------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read(tmp_path: Path) -> None:
    text = "seed: 3\nmodel: {hidden: 5}\ndata: {train: 7}\ntrain: {epochs: 1, rate: 1e-2}\nprune: {amount: 0.25}\n"
    found = recipe.load(written(tmp_path, POINTS + text))
    assert found.seed == 3 and found.train == Settings(epochs=1, rate=0.01)
    assert found.prune is not None and found.prune.amount == 0.25
    assert found.quantize is None and found.binarize is None
    net = found.new_net()
    assert net.get_parameter("0.weight").shape == (5, 7)
    assert torch.equal(net.get_parameter("0.weight"), found.new_net().get_parameter("0.weight"))
    assert len(found.load_data().train) == 7
    assert recipe.settings_of(found, "prune") is found.prune
    with pytest.raises(UsageError, match="no part 'binarize'") as caught:
        recipe.settings_of(found, "binarize")
    assert "made for prune" in (caught.value.help or "")


def test_changes_take_the_place_of_what_it_says(tmp_path: Path) -> None:
    path = written(tmp_path, POINTS + "train: {epochs: 1, batch: 3}\n")
    changes = ["train.epochs=4", "model.hidden=2", "quantize-train.retrain.rate=1e-2", "prune={amount: 0.1}"]
    found = recipe.load(path, changes, seed=9)
    assert found.train == Settings(epochs=4, batch=3) and dict(found.model) == {"hidden": 2} and found.seed == 9
    assert found.quantize is not None and found.quantize.retrain.rate == 0.01
    assert found.prune is not None and found.prune.amount == 0.1
    assert recipe.load(path, ["seed=5"]).seed == 5
    for change, said in (
        ("train.epochs", "cannot read"),
        ("=3", "cannot read"),
        ("train..epochs=3", "cannot read"),
        ("train.epochs={", "is not YAML"),
        ("train.epochs.x=3", "'epochs' is 1, which has no keys"),
        ("train.epoch=3", "unknown key 'train.epoch'"),
    ):
        with pytest.raises(UsageError, match=said):
            recipe.load(path, [change])


@pytest.mark.parametrize("name", families.names())
def test_every_family_has_a_recipe_that_can_be_read(name: str) -> None:
    found = recipe.load(name)
    assert found.family.name == name and found.content["family"] == name
    methods = [one for one in recipe.METHODS if one in found.content]
    assert methods, "a recipe is for something"
    for method_ in methods:
        recipe.settings_of(found, method_)


def test_names_are_those_of_the_folders() -> None:
    assert {"mlp_digits", "resnet_digits", "resnet_cifar", "vgg_small", "mobilenet"} <= set(families.names())
    assert families.names() == sorted(families.names())
    assert families.family("mlp_digits").name == "mlp_digits"


@pytest.mark.parametrize(
    ("text", "what", "help_"),
    [
        ("", "has no parts", "family, seed"),
        ("- a\n- b\n", "has no parts", ""),
        ("family: [", "is not YAML", "line 1"),
        ("train: {epochs: 3}\n", "names no family", "mlp_digits"),
        ("family: mlp_digit\n", "unknown family 'mlp_digit'", "did you mean mlp_digits?"),
        ("family: tests.train.family:FAMLY\n", "has no 'FAMLY'", "did you mean FAMILY?"),
        ("family: tests.train.family:NOT_A_FAMILY\n", "is not a graphopt.train.family.Family", "docs/training.md"),
        ("family: no.such:FAMILY\n", "there is no module 'no'", "install it"),
        (POINTS + "trian: {}\n", "unknown key 'trian'", "did you mean train?"),
        (POINTS + "seed: -1\n", "'seed' is -1", ""),
        (POINTS + "seed: yes\n", "'seed' is True", ""),
        (POINTS + "model: 3\n", "'model' is 3, not a part with keys", ""),
        (POINTS + "train: 3\n", "'train' is 3, not a part with keys", "epochs"),
        (POINTS + "prune: {score: obt}\n", "not one of", "prune.score"),
        (POINTS + "quantize-train: {levels: 1}\n", "'quantize-train'", ""),
        (POINTS + "binarize: {omega: 0}\n", "'binarize': omega", ""),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path: Path, text: str, what: str, help_: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.load(written(tmp_path, text))
    assert what in caught.value.what and help_ in (caught.value.help or "") and caught.value.where
    assert caught.value.exit_status == 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe") as caught:
        recipe.load("mlp_digts")
    assert "did you mean mlp_digits?" in (caught.value.help or "")
    with pytest.raises(UsageError, match="is a folder"):
        recipe.load(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UsageError, match="is not YAML"):
        recipe.load(tmp_path / "image.yaml")


def test_options_of_model_and_data_are_checked(tmp_path: Path) -> None:
    for part, options, said, kind in (
        ("model", "{hiden: 3}", "unknown key 'model.hiden'", UsageError),
        ("model", "{seed: 3}", "unknown key 'model.seed'", UsageError),
        ("model", "{hidden: 0}", "cannot be made: ValueError: 0 hidden units", GraphoptError),
        ("data", "{trian: 3}", "unknown key 'data.trian'", UsageError),
        ("data", "{train: many}", "the data of 'points' cannot be made: TypeError", GraphoptError),
    ):
        found = recipe.load(written(tmp_path, POINTS + f"{part}: {options}\n"))
        with pytest.raises(kind, match=said):
            found.new_net() if part == "model" else found.load_data()


def test_every_part_is_known() -> None:
    known = {one.name for one in fields(recipe.Recipe)}
    assert set(recipe._ATTRIBUTE.values()) < known and set(recipe._ATTRIBUTE) == set(recipe.METHODS)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, POINTS + "train:\n  epochs: 1\n  rate: 0.1\n  epochs: 3\n")
    with pytest.raises(UsageError, match="the key 'epochs' is there twice") as caught:
        recipe.load(path)
    assert caught.value.where == f"{path}:5" and "line 3" in (caught.value.help or "")
    near = POINTS + "train: &same {epochs: 1}\nprune: {retrain: {<<: *same, epochs: 3}}\n"
    found = recipe.load(written(tmp_path, near)).prune
    assert found is not None and found.retrain.epochs == 3, "what is merged may be said anew"


@pytest.mark.parametrize(
    ("name", "said", "help_"),
    [
        (".x:Y", "cannot be read", "write it as PKG.MODULE:NAME"),
        ("a..b:Y", "cannot be read", "write it as PKG.MODULE:NAME"),
        ("nets.py:Y", "is a file, not a module", "write it as nets:Y"),
    ],
)
def test_a_family_that_is_not_named_as_modules_are(tmp_path: Path, name: str, said: str, help_: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        recipe.load(written(tmp_path, f"family: {name}\n"))
    assert help_ in (caught.value.help or "")
    with pytest.raises(UsageError, match="no such recipe") as caught:
        recipe.load("nets.py:Y")
    assert "family: nets:Y" in (caught.value.help or "")
