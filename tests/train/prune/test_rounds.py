"""Rounds of scoring, zeroing and re-training on real training."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.train.data import Data, Split
from graphopt.train.hooks import Held, Hook
from graphopt.train.prune import Pruned, PruneSettings, prune
from graphopt.train.prune.rounds import drawn
from graphopt.train.prune.settings import Name
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer
from tests.train.prune.nets import convolutional, data, images, perceptron, trainer, vectors

QUICK = Settings(epochs=1, batch=16, rate=1e-2)


def pruned(net: nn.Module, train: tuple, test: tuple, retrain: Settings = QUICK, **options: object) -> Pruned:
    """The net, pruned in place."""
    return prune(trainer(net, train, test), PruneSettings(retrain=retrain, **options))  # type: ignore[arg-type]


class Watch(Hook):
    """Remembers the net before the first step of each round, and looks at the zeros after every step."""

    def __init__(self, net: nn.Module, held: Held) -> None:
        self.net, self.held = net, held
        self.zeroed: list[dict[str, torch.Tensor]] = []
        self.steps = 0

    def at(self, share: float) -> None:
        if share == 0:
            self.zeroed.append({name: one.detach().clone() for name, one in self.net.named_parameters()})

    def after_step(self) -> None:
        self.steps += 1
        for name, mask in self.held.masks.items():
            assert (self.net.get_parameter(name)[mask] == 0).all()


def watched(net: nn.Module, monkeypatch: pytest.MonkeyPatch, settings: PruneSettings) -> tuple[Pruned, Watch]:
    """The net, pruned in place under observation."""
    from graphopt.train.prune import rounds

    fit = trainer(net, vectors(80), vectors(20, 1))
    seen: list[Watch] = []

    def held(net: nn.Module) -> Held:
        hook = Held(net)
        seen.append(Watch(net, hook))
        fit.add("watch", seen[0])
        return hook

    monkeypatch.setattr(rounds, "Held", held)
    return prune(fit, settings), seen[0]


def test_the_selected_are_zero_and_the_kept_are_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of zeroing, before the first step of re-training; with one round, against the net as it came."""
    net = perceptron(hidden=13)
    before = {name: one.detach().clone() for name, one in net.named_parameters()}
    found, watch = watched(net, monkeypatch, PruneSettings(amount=0.6, rounds=1, retrain=QUICK))
    assert len(watch.zeroed) == 1 and watch.steps == 5
    for name, value in watch.zeroed[0].items():
        zero = found.masks.get(name, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(value, before[name].masked_fill(zero, 0)), name
        assert torch.equal(value.view(torch.int32)[~zero], before[name].view(torch.int32)[~zero]), name
    assert [int(found.masks[name].sum()) for name in ("0.weight", "2.weight")] == [int(0.6 * 91), int(0.6 * 39)]


@pytest.mark.parametrize(
    "retrain",
    [
        Settings(epochs=3, batch=8, optimizer="sgd", rate=0.05, momentum=0.9, weight_decay=1e-2),
        Settings(epochs=3, batch=8, optimizer="adamw", rate=1e-2, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_zeros_stay_while_the_kept_change(retrain: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step, with momentum and weight decay that were there before; at least 99 % of the kept change."""
    net = convolutional()
    torch.manual_seed(0)
    fit = trainer(net, images(64), images(16, 1))
    fit.fit(retrain)
    before = {name: one.detach().clone() for name, one in net.named_parameters()}
    found = prune_again(net, retrain)
    zeros = changed = kept = 0
    for name, mask in found.masks.items():
        parameter = net.get_parameter(name)
        assert (parameter[mask] == 0).all() and not torch.signbit(parameter[mask]).any()
        zeros, kept = zeros + int(mask.sum()), kept + int((~mask).sum())
        changed += int((parameter != before[name])[~mask].sum())
    assert zeros > 0.49 * (zeros + kept)
    assert changed >= 0.99 * kept


def prune_again(net: nn.Module, retrain: Settings) -> Pruned:
    """Half of the weights, in two rounds."""
    return pruned(net, images(64), images(16, 1), retrain, amount=0.5, rounds=2)


def test_each_rounds_zeros_contain_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    net = perceptron(hidden=13)
    found, watch = watched(net, monkeypatch, PruneSettings(amount=0.9, rounds=4, retrain=QUICK, score="taylor"))
    zeros = [{name: value == 0 for name, value in state.items() if name in found.masks} for state in watch.zeroed]
    assert len(zeros) == 4
    for earlier, later in zip(zeros, [*zeros[1:], found.masks], strict=True):
        assert all((later[name] >= mask).all() for name, mask in earlier.items())
    counts = [sum(int(mask.sum()) for mask in some.values()) for some in zeros]
    assert counts == [int(s * 0.9 * 91 + 1e-9) + int(s * 0.9 * 39 + 1e-9) for s in (37 / 64, 56 / 64, 63 / 64, 1)]
    assert [round(row.aim, 6) for row in found.history] == [round(0.9 * s / 64, 6) for s in (37, 56, 63, 64)]
    assert [row.sparsity for row in found.history] == [count / 130 for count in counts]


def test_the_history_says_what_happened() -> None:
    net, train, test = perceptron(), vectors(80), vectors(30, 1)
    fit = trainer(net, train, test)
    fit.fit(Settings(epochs=20, batch=16, rate=1e-2))
    good = fit.evaluate()
    found = pruned(net, train, test, amount=0.7, rounds=2)
    assert found.before == good
    assert [row.number for row in found.history] == [1, 2]
    assert all(math.isfinite(row.loss) for row in found.history)
    assert found.history[1].zeroed <= good
    assert found.figure == found.history[1].retrained == trainer(net, train, test).evaluate()
    assert found.sparsity == (int(0.7 * 77) + int(0.7 * 33)) / 110


def test_scores_come_from_training_data_and_not_from_test_data() -> None:
    """Another training set, other zeros; another test set, the same ones."""
    net = perceptron()

    def zeros(score: Name, train: int, test: int) -> list[int]:
        found = pruned(
            copy.deepcopy(net), vectors(40, train), vectors(20, test), Settings(epochs=0), score=score, rounds=1
        )
        return torch.cat([mask.flatten() for mask in found.masks.values()]).nonzero().flatten().tolist()

    for score in ("taylor", "obd", "covariance", "diagonal"):
        assert zeros(score, 0, 5) == zeros(score, 0, 6) != zeros(score, 1, 5), score
    assert zeros("magnitude", 0, 5) == zeros("magnitude", 1, 5), "a near miss: it looks at no data"


def test_one_shot_is_no_epochs() -> None:
    net = perceptron()
    found = pruned(net, vectors(40), vectors(20, 1), Settings(epochs=0), amount=0.5, rounds=1, score="exact")
    assert math.isnan(found.history[0].loss)
    assert found.history[0].zeroed == found.figure


def test_nothing_is_pruned_of_amount_zero() -> None:
    net = perceptron()
    before = copy.deepcopy(net.state_dict())
    found = pruned(net, vectors(40), vectors(20, 1), Settings(epochs=0), amount=0.0, rounds=1)
    assert found.sparsity == 0 and not any(mask.any() for mask in found.masks.values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_all_layers_together() -> None:
    net = perceptron()
    found = pruned(net, vectors(40), vectors(20, 1), Settings(epochs=0), amount=0.5, rounds=1, scope="global",
                   score="magnitude")  # fmt: skip
    weights = torch.cat(
        [
            one.abs().flatten()
            for one in (perceptron().get_parameter("0.weight"), perceptron().get_parameter("2.weight"))
        ]
    )
    zero = torch.cat([found.masks[name].flatten() for name in ("0.weight", "2.weight")])
    assert int(zero.sum()) == 55
    assert weights[zero].max() < weights[~zero].min()


def test_what_is_excluded_stays() -> None:
    found = pruned(perceptron(), vectors(40), vectors(20, 1), amount=0.5, rounds=1, exclude=("2",))
    assert list(found.masks) == ["0.weight"]
    assert found.sparsity == int(0.5 * 77) / 77
    with pytest.raises(UsageError, match="no weight to prune"):
        pruned(perceptron(), vectors(40), vectors(20, 1), exclude=("*",))


def test_n_of_m_in_rounds() -> None:
    net = convolutional()
    net[0] = nn.Conv2d(2, 8, 3, stride=2, padding=1)
    net[1], net[3] = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
    found = pruned(net, images(48), images(16, 1), structure="n:m", n=1, m=4, rounds=3)
    assert not found.masks["0.weight"].any(), "2 inputs are less than a run"
    zeros = found.masks["3.weight"].movedim(1, -1).unflatten(-1, (2, 4))
    assert ((~zeros).sum(-1) == 1).all()
    assert ((~found.masks["7.weight"]).unflatten(1, (2, 4)).sum(-1) == 1).all()
    assert found.history[-1].aim == 0.75
    assert torch.equal(net.get_parameter("3.weight") == 0, found.masks["3.weight"])


def test_blocks_in_rounds() -> None:
    net = perceptron(hidden=12)
    found = pruned(net, vectors(40), vectors(20, 1), structure="block", block=(4, 3), amount=0.5, rounds=2)
    blocks = found.masks["0.weight"][:, :6].unflatten(0, (3, 4)).unflatten(2, (2, 3)).transpose(1, 2).flatten(2)
    assert (blocks.all(-1) | ~blocks.any(-1)).all() and blocks.any()
    assert (found.masks["0.weight"][:, 6].unflatten(0, (3, 4)).sum(1) % 4 == 0).all(), "smaller ones at the edge"


def test_surgery_replaces_rounds() -> None:
    net = perceptron(hidden=13)
    fit = trainer(net, vectors(80), vectors(20, 1))
    found = prune(fit, PruneSettings(score="surgery", amount=0.75, rounds=3, retrain=QUICK))
    assert len(fit.history) == 3, "as many epochs as all rounds together"
    assert [int(mask.sum()) for mask in found.masks.values()] == [int(0.75 * 91), int(0.75 * 39)]
    assert all((net.get_parameter(name)[mask] == 0).all() for name, mask in found.masks.items())
    assert math.isnan(found.history[0].zeroed) and found.figure == fit.evaluate()


@pytest.mark.parametrize("score", ["obd", "surgery"])
def test_an_interrupted_run_goes_on_where_it_was(score: Name, tmp_path: Path) -> None:
    """The net, the masks and the history of a run that was stopped after each of its epochs are those of one run."""
    settings = PruneSettings(score=score, amount=0.8, rounds=2, retrain=Settings(epochs=2, batch=16, rate=1e-2))

    def run(folder: Path | None, stop: int) -> tuple[Pruned, nn.Module]:
        def watch(label: str, done: int, total: int) -> None:
            seen[0] += 1
            if seen[0] == stop:
                raise KeyboardInterrupt

        seen, net = [0], perceptron(hidden=13)
        return prune(trainer(net, vectors(80), vectors(20, 1), folder=folder, progress=watch), settings), net

    whole, expected = run(None, 0)
    for number, stop in enumerate((3, 7, 12, 17)):  # five steps an epoch
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            run(folder, stop)
        found, net = run(folder, 0)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
        assert all(torch.equal(mask, whole.masks[name]) for name, mask in found.masks.items())
        assert repr(found.history) == repr(whole.history) and found.before == whole.before  # nan is not nan


def test_samples_are_drawn_once_each() -> None:
    split = data(vectors(20), vectors(5)).train
    some = drawn(split, 7, 3)
    inputs = [some[i][0].tolist() for i in range(len(some))]
    assert len(some) == 7 and all(one in split.inputs.tolist() for one in inputs)
    assert len({tuple(one) for one in inputs}) == 7
    assert len(drawn(split, 100, 0)) == 20
    assert [drawn(split, 7, 3)[i][0].tolist() for i in range(7)] == inputs
    assert [drawn(split, 7, 4)[i][0].tolist() for i in range(7)] != inputs


class Listed(torch.utils.data.Dataset):
    """Samples that are not in tensors."""

    def __init__(self, number: int) -> None:
        self.inputs, self.targets = vectors(number)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index], self.targets[index]


def test_any_dataset_will_do() -> None:
    some = drawn(Listed(20), 7, 3)
    split = drawn(data(vectors(20), vectors(5)).train, 7, 3)
    assert len(some) == 7
    assert all(torch.equal(some[i][0], split[i][0]) for i in range(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1.0}, "amount"),
        ({"amount": -0.1}, "amount"),
        ({"rounds": 0}, "rounds"),
        ({"samples": 0}, "samples"),
        ({"n": 4, "m": 4}, "n:m"),
        ({"n": 0}, "n:m"),
        ({"block": (0, 4)}, "block"),
        ({"score": "surgery", "structure": "filter"}, "surgery"),
        ({"stream": True}, "stream"),
        ({"latency": True, "structure": "block"}, "latency"),
    ],
)
def test_settings_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneSettings(**options)


def test_groups_need_a_family() -> None:
    with pytest.raises(UsageError, match="needs a family"):
        pruned(perceptron(), vectors(40), vectors(20, 1), structure="hidden")


@pytest.mark.parametrize("name", ["obd", "covariance"])
def test_no_samples_to_score_by(name: Literal["obd", "covariance"]) -> None:
    with pytest.raises(UsageError, match="no samples"):
        prune(trainer(perceptron(), vectors(0), vectors(4)), PruneSettings(score=name, retrain=QUICK))


@pytest.mark.parametrize(
    ("score", "options", "losses"),
    [
        ("taylor", {}, 2),
        ("obd", {}, 80),
        ("obd", {"curvature": "hessian"}, 2),
        ("exact", {}, 2 * (1 + 5 * 4 + 4 * 3)),
        ("covariance", {}, 2),
        ("magnitude", {}, 0),
    ],
)
def test_progress_is_told_while_scores_are_computed(score: Name, options: dict[str, object], losses: int) -> None:
    said: list[tuple[str, int, int]] = []
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    samples = Data(Split(torch.randn(80, 5), torch.arange(80) % 3), Split(torch.randn(3, 5), torch.arange(3)))
    one = Trainer(net, samples, CLASSIFICATION, device="cpu", progress=lambda *told: said.append(told))
    prune(one, PruneSettings(score=score, rounds=1, samples=80, retrain=QUICK, **options))  # type: ignore[arg-type]
    told = [(done, total) for label, done, total in said if label == f"round 1 of 1: scores by {score}"]
    assert told == [(done, losses) for done in range(losses)]
    trained = [one for one in said if one[0].startswith("round 1 of 1, 50% pruned, loss ")]
    assert [one[1:] for one in trained] == [(done, 5) for done in range(1, 6)]
