"""What is held stays, to the last bit, against momentum, Adam's moments and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.train.hooks import Held, Hook
from tests.train.nets import net, same, short, trainer, weights

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.05, "rate": 0.1},
    "adam": {"optimizer": "adam", "weight_decay": 0.05},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.05},
}


class Later(Hook):
    """Holds in the midst of training, when the optimizer already has momentum."""

    def __init__(self, held: Held, masks: dict[str, Tensor], value: float | None) -> None:
        self.held, self.masks, self.value = held, masks, value

    def at(self, share: float) -> None:
        if share == 0.25:
            for name, mask in self.masks.items():
                self.held.hold(name, mask, self.value)


def masks(of: torch.nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(one.shape, generator=generator) < share for name, one in of.named_parameters()}


@pytest.mark.parametrize("value", [0.0, 0.125, None], ids=["zeros", "levels", "as they are"])
@pytest.mark.parametrize("when", ["before", "in the midst"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_held_numbers_stay_and_the_others_learn(optimizer: str, when: str, value: float | None) -> None:
    one = trainer(net=net(hidden=101))
    held, chosen = Held(one.net), masks(one.net)
    if when == "in the midst":
        one.add("later", Later(held, chosen, value))
    else:
        for name, mask in chosen.items():
            held.hold(name, mask, value)
    one.add("held", held)
    start = weights(one.net)
    one.fit(short(**{**OPTIMIZERS[optimizer], "epochs": 3}))
    after = weights(one.net)
    kept = dict(one.net.named_parameters())
    moved = free = 0
    for name, mask in chosen.items():
        wanted = held.state_dict()["values"][name] if value is None else torch.full_like(after[name], value)
        assert torch.equal(after[name][mask], wanted[mask]), "0 ulp"
        if value is None and when == "before":
            assert torch.equal(after[name][mask], start[name][mask])
        assert not kept[name].grad[mask].any(), "nor does a gradient reach them"  # type: ignore[index]
        moved += int((after[name] != start[name])[~mask].sum())
        free += int((~mask).sum())
    assert moved >= 0.99 * free > 100


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_the_hook_they_move(optimizer: str) -> None:
    """Near miss: zeros that nobody holds are gone after one step; a masked gradient alone does not hold them either."""

    class Masked(Hook):
        def after_backward(self) -> None:
            for name, parameter in one.net.named_parameters():
                assert parameter.grad is not None
                parameter.grad.masked_fill_(chosen[name], 0)

    for hook, first in ((None, 1), (Masked(), 3)):
        one = trainer(net=net(hidden=101))
        chosen = masks(one.net)
        if hook is not None:
            one.add("masked", hook)
        value = 0.0 if hook is None else 0.5
        with torch.no_grad():
            for name, parameter in one.net.named_parameters():
                parameter[chosen[name]] = value
        one.fit(short(**{**OPTIMIZERS[optimizer], "epochs": first}))
        stayed = sum(int((now[chosen[name]] == value).sum()) for name, now in one.net.named_parameters())
        total = sum(int(mask.sum()) for mask in chosen.values())
        assert stayed < 0.5 * total


def test_holding_more_keeps_what_was_held_before() -> None:
    one = net()
    held = Held(one)
    weight = dict(one.named_parameters())["0.weight"]
    where = torch.zeros(weight.shape, dtype=torch.bool)
    where[0] = True
    held.hold("0.weight", where, 0.25)
    where = torch.ones_like(where)
    where[-1] = False
    held.hold("0.weight", where, 0.0)
    assert (weight[0] == 0.25).all() and not weight[1:-1].any() and weight[-1].all()
    assert held.masks["0.weight"][:-1].all() and not held.masks["0.weight"][-1].any()
    with torch.no_grad():
        weight += 1
    held.after_step()
    assert (weight[0] == 0.25).all() and not weight[1:-1].any() and (weight[-1] != 0).all()
    held.release("0.weight")
    with torch.no_grad():
        weight += 1
    held.after_step()
    assert (weight[0] == 1.25).all() and not held.masks
    with pytest.raises(KeyError):
        held.hold("0.weigth", where)


def test_state_is_taken_back() -> None:
    one, other = net(), net()
    held, again = Held(one), Held(other)
    for name, mask in masks(one).items():
        held.hold(name, mask, 0.5)
    other.load_state_dict(one.state_dict())
    again.load_state_dict(held.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    again.after_step()
    assert all((now[again.masks[name]] == 0.5).all() for name, now in other.named_parameters())
    assert not same(weights(one), weights(other)), "what is not held has moved"


def test_signed_zeros_and_nans_are_held_as_they_are() -> None:
    one = net()
    held = Held(one)
    bias = one[0].bias
    assert isinstance(bias, torch.nn.Parameter)
    with torch.no_grad():
        bias[:3] = torch.tensor([-0.0, float("nan"), float("inf")])
    held.hold("0.bias", torch.arange(13) < 3)
    before = bias.detach().clone().view(torch.int32)
    with torch.no_grad():
        bias += 1
    held.after_step()
    assert torch.equal(bias.detach().view(torch.int32)[:3], before[:3])
    assert not torch.equal(bias.detach().view(torch.int32)[3:], before[3:])
