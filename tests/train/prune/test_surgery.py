"""Prune and splice: weights learn under the mask, and come back."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.train.prune.scores.surgery import Surgery
from graphopt.train.settings import Settings
from tests.train.prune.nets import perceptron, trainer, vectors


def started(weights: list[float], amount: float) -> tuple[nn.Linear, Surgery]:
    """A layer of these weights under the knife."""
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    surgery = Surgery(layer, ["weight"], amount)
    surgery.begin()
    return layer, surgery


def step(layer: nn.Linear, surgery: Surgery, share: float, change: list[float]) -> None:
    """What a step of training does, with this change by the optimizer."""
    surgery.at(share)
    surgery.after_backward()
    with torch.no_grad():
        layer.weight += torch.tensor([change])
    surgery.after_step()


def test_a_weight_that_grows_again_returns() -> None:
    layer, surgery = started([0.1, 1.0, 2.0, 3.0], 0.25)
    step(layer, surgery, 0.7, [0, 0, 0, 0])
    assert layer.weight.tolist() == [[0, 1, 2, 3]]
    step(layer, surgery, 0.7, [2.0, 0, 0, 0])  # it learns under the mask
    assert layer.weight.tolist() == [[2.1, 0, 2, 3]] or torch.allclose(layer.weight, torch.tensor([[2.1, 0, 2, 3]]))
    assert surgery.dense["weight"][0, 1] == 1, "the other one is not lost"


def test_between_the_thresholds_nothing_changes() -> None:
    """Thresholds lie 10 % below and above the middle of the 2nd and the 3rd of the magnitudes."""
    layer, surgery = started([0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 0.25)
    step(layer, surgery, 0.74, [0.0] * 8)
    assert surgery.masks["weight"].nonzero()[:, 1].tolist() == [0, 1]
    step(layer, surgery, 0.74, [1.85, *[0.0] * 7])  # 1.95, next to 2: thresholds 1.78 and 2.17
    assert surgery.masks["weight"].nonzero()[:, 1].tolist() == [0, 1]
    step(layer, surgery, 0.74, [0.35, *[0.0] * 7])  # 2.3, above 2: thresholds 1.94 and 2.37
    assert surgery.masks["weight"].nonzero()[:, 1].tolist() == [0, 1]
    step(layer, surgery, 0.74, [0.3, *[0.0] * 7])  # 2.6: thresholds 2.07 and 2.53
    assert surgery.masks["weight"].nonzero()[:, 1].tolist() == [1, 2], "one was spliced, another one pruned"


def test_in_the_end_exactly_the_amount_is_zero() -> None:
    layer, surgery = started([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 7.0], 3 / 7)
    step(layer, surgery, 0.8, [0.0] * 7)
    assert surgery.masks["weight"].tolist() == [[False, True, False, True, True, False, False]]
    step(layer, surgery, 0.9, [-4.9, 9.0, 0, 0, 0, 0, 0])  # masks stay after three quarters of training
    assert surgery.end()["weight"].tolist() == [[False, True, False, True, True, False, False]]
    assert torch.equal(layer.weight == 0, torch.tensor([[False, True, False, True, True, False, False]]))
    before = layer.weight.detach().clone()
    surgery.after_step()
    assert torch.equal(layer.weight, before), "it is over"


def test_training_too_short_to_settle_ends_at_the_amount() -> None:
    layer, surgery = started([3.0, 1.0, 2.0, 4.0], 0.5)
    assert surgery.end()["weight"].tolist() == [[False, True, True, False]]
    assert layer.weight.tolist() == [[3, 0, 0, 4]]


def test_all_layers_together() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net.get_parameter("0.weight").copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        net.get_parameter("1.weight").copy_(torch.tensor([[10.0, 20.0], [30.0, 40.0]]))
    surgery = Surgery(net, ["0.weight", "1.weight"], 0.25, "global")
    surgery.begin()
    surgery.operate(0.5)
    assert surgery.masks["0.weight"].sum() == 3 and not surgery.masks["1.weight"].any()  # the last of a layer stays
    masks = surgery.end()
    assert masks["0.weight"].tolist() == [[True, True], [False, False]] and not masks["1.weight"].any()


def test_pruned_weights_learn_and_some_return_in_training() -> None:
    """In a real training: weights under the mask change, some come back, and the net holds zeros all the time."""
    net = perceptron(hidden=16)
    fit = trainer(net, vectors(120), vectors(30, 1))
    surgery = Surgery(net, ["0.weight", "2.weight"], 0.8)
    fit.add("surgery", surgery)
    watch = Watch(net, surgery)
    fit.add("watch", watch)
    fit.stage("surgery", lambda fresh: (surgery.begin(), fit.fit(Settings(epochs=12, batch=20, rate=2e-2)))[0])
    assert watch.learnt > 0 and watch.returned > 0
    masks = surgery.end()
    assert [int(mask.sum()) for mask in masks.values()] == [int(0.8 * 7 * 16), int(0.8 * 16 * 3)]
    assert all((net.get_parameter(name)[mask] == 0).all() for name, mask in masks.items())


class Watch(Surgery):
    """Counts what happens to pruned weights, step by step."""

    def __init__(self, net: nn.Module, surgery: Surgery) -> None:
        super().__init__(net, [], 0.0)
        self.net, self.surgery = net, surgery
        self.learnt = self.returned = 0
        self.before: dict[str, torch.Tensor] = {}
        self.zero: dict[str, torch.Tensor] = {}

    def after_step(self) -> None:
        masks, dense = self.surgery.masks, self.surgery.dense
        for name, mask in masks.items():
            assert (self.net.get_parameter(name)[mask] == 0).all()
            assert torch.equal(self.net.get_parameter(name)[~mask], dense[name][~mask])
            if self.zero:
                self.learnt += int((self.zero[name] & (dense[name] != self.before[name])).sum())
                self.returned += int((self.zero[name] & ~mask).sum())
        self.before, self.zero = {name: one.clone() for name, one in dense.items()}, masks


def test_its_state_goes_through_a_checkpoint() -> None:
    layer, surgery = started([0.1, 1.0, 2.0, 3.0], 0.25)
    step(layer, surgery, 0.7, [0.0] * 4)
    state = surgery.state_dict()
    again = Surgery(layer, ["weight"], 0.25)
    again.load_state_dict(state)
    step(layer, again, 0.7, [2.0, 0, 0, 0])
    assert layer.weight[0, 0] > 2 and again.masks["weight"].tolist() == [[False, True, False, False]]
