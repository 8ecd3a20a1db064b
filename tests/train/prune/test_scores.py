"""Scores: what their formulas say, from training data and loss."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from graphopt.errors import UsageError
from graphopt.train.prune.scores import SCORES, score
from tests.train.prune.nets import convolutional, images, loss, one, perceptron, vectors

DATA = sorted(set(SCORES) - {"magnitude"})


def squares(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error, the mean over the batch."""
    return (net(inputs) - targets).square().sum(1).mean() / 2


@pytest.mark.parametrize("name", DATA)
def test_scores_change_with_the_data(name: str) -> None:
    net = perceptron()
    assert not torch.equal(one(name, net, [vectors(16)]), one(name, net, [vectors(16, seed=1)]))
    assert torch.equal(one(name, net, [vectors(16)]), one(name, net, [vectors(16)]))


def test_magnitude_does_not_look_at_data() -> None:
    net = perceptron()
    weights = torch.cat([net.get_parameter(name).flatten() for name in ("0.weight", "2.weight")])
    assert torch.equal(one("magnitude", net, []), weights.abs())
    assert torch.equal(one("magnitude", net, [vectors(16)]), weights.abs())


@pytest.mark.parametrize("name", ["exact", "taylor", "obd"])
def test_scores_change_with_the_loss(name: str) -> None:
    net, batch = perceptron(), vectors(16)
    other = score(name, net, [batch], lambda net, x, y: net(x).square().mean())
    assert not any(torch.equal(a, other[key]) for key, a in score(name, net, [batch], loss).items())


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_scores_do_not_depend_on_batches(name: str, make: object) -> None:
    net = (perceptron() if make is perceptron else convolutional()).double()
    inputs, targets = vectors(13) if make is perceptron else images(13)
    inputs = inputs.double()
    whole = one(name, net, [(inputs, targets)])
    parts = one(name, net, [(inputs[a:b], targets[a:b]) for a, b in ((0, 1), (1, 8), (8, 8), (8, 13)) if a < b])
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-15)
    assert (whole >= 0).all() and (whole > 0).any()


@pytest.mark.parametrize("name", sorted(SCORES))
def test_the_net_is_as_it_was(name: str) -> None:
    net = convolutional()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = score(name, net, [images(5)], loss)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "statistics, too"
    assert [part.training for part in net] == [True, False, *[True] * 6]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(part._forward_pre_hooks for part in net)
    assert {key: value.shape for key, value in found.items()} == {
        "0.weight": (6, 2, 3, 3),
        "3.weight": (8, 3, 3, 3),
        "7.weight": (3, 8),
    }
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())


def test_exact_is_the_loss_without_the_weight() -> None:
    net, (inputs, targets) = perceptron().double(), vectors(9)
    inputs = inputs.double()
    found = score("exact", net, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])], loss)["0.weight"]
    weight = net.get_parameter("0.weight").detach()
    for at in ((0, 0), (3, 6), (10, 2)):
        without = weight.clone()
        without[at] = 0
        changed = functional_call(net, {"0.weight": without}, (inputs,))
        expected = (nn.functional.cross_entropy(changed, targets) - loss(net, inputs, targets)).abs()
        assert found[at].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)


def test_exact_of_a_weight_that_is_zero_is_zero() -> None:
    net = perceptron()
    with torch.no_grad():
        net.get_parameter("0.weight")[2] = 0
    found = score("exact", net, [vectors(9)], loss)["0.weight"]
    assert (found[2] == 0).all() and (found[3] > 0).all()


def test_taylor_is_the_gradient_of_the_mean_times_the_weight() -> None:
    net, batch = perceptron(), vectors(9)
    found = score("taylor", net, [batch], loss)
    loss(net, *batch).backward()
    for name, parameter in net.named_parameters():
        if name in found:
            assert parameter.grad is not None
            torch.testing.assert_close(found[name], (parameter.grad * parameter.detach()).abs())


def test_obd_is_the_mean_square_of_the_samples_gradients() -> None:
    net, (inputs, targets) = convolutional().eval(), images(5)
    found = score("obd", net, [(inputs, targets)], loss)
    total = torch.zeros(8, 3, 3, 3)
    for i in range(5):
        total += (
            torch.autograd.grad(loss(net, inputs[i : i + 1], targets[i : i + 1]), net.get_parameter("3.weight"))[0] ** 2
        )
    torch.testing.assert_close(found["3.weight"], total / 5 * net.get_parameter("3.weight").detach() ** 2 / 2)


def test_obd_with_the_hessian_is_its_diagonal() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 2, (6,))
    found = score("obd", net, [batch], loss, curvature="hessian")

    def of(weight: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net, {"0.weight": weight}, (batch[0],)), batch[1])

    weight = net.get_parameter("0.weight").detach()
    full = hessian(of, weight)
    assert isinstance(full, Tensor)
    bends = full.reshape(12, 12).diagonal().reshape(4, 3)
    assert (bends < 0).any() and (bends > 0).any()
    torch.testing.assert_close(found["0.weight"], bends.clamp_min(0) * weight**2 / 2, rtol=1e-9, atol=1e-15)


def test_on_a_quadratic_at_its_minimum_obd_is_exact_and_taylor_sees_nothing() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    net = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(inputs, targets).solution.T)
    batches = [(inputs, targets)]
    exact = score("exact", net, batches, squares)["weight"]
    bends = score("obd", net, batches, squares, curvature="hessian")["weight"]
    torch.testing.assert_close(bends, exact, rtol=1e-9, atol=1e-15)
    assert (score("taylor", net, batches, squares)["weight"] < 1e-9 * exact).all()
    # Without damping the diagonal of the input's moments is twice that.
    diagonal = score("diagonal", net, batches, squares)["weight"]
    torch.testing.assert_close(diagonal / 2, exact, rtol=2e-3, atol=0)


def test_weights_that_nothing_uses_are_worth_nothing() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(7, 3), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    for name in DATA:
        found = score(name, Idle(), [vectors(5)], loss)
        assert (found["idle.weight"] == 0).all(), name
        assert (found["used.weight"] > 0).any(), name


def test_a_tied_weight_has_the_score_of_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    net = Twice().double()
    inputs = torch.randn(8, 3, dtype=torch.float64)
    batches = [(inputs, torch.randint(0, 3, (8,)))]
    power = torch.cat([inputs, torch.tanh(net.a(inputs)).detach()]).square().mean(0)
    expected = net.a.weight.detach() ** 2 * (power + 1e-3 * power.mean())
    torch.testing.assert_close(score("diagonal", net, batches, loss)["a.weight"], expected)
    one_by_one = [torch.autograd.grad(loss(net, inputs[i : i + 1], batches[0][1][i : i + 1]), net.a.weight)[0]
                  for i in range(8)]  # fmt: skip
    fisher = torch.stack(one_by_one).square().mean(0)
    torch.testing.assert_close(score("obd", net, batches, loss)["a.weight"], fisher * net.a.weight.detach() ** 2 / 2)


@pytest.mark.parametrize("name", DATA)
def test_no_data_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="no samples"):
        score(name, perceptron(), [], loss)


def test_an_unknown_score_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean taylor"):
        score("tailor", perceptron(), [], loss)


def test_a_net_without_weights_has_no_scores() -> None:
    assert score("obd", nn.ReLU(), [], loss) == {}
    assert score("obd", perceptron(), [], loss, exclude=["*"]) == {}


def test_a_loss_that_fails_leaves_the_weight() -> None:
    net = perceptron()
    before = net.get_parameter("0.weight").detach().clone()
    calls = np.zeros(1)

    def failing(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise RuntimeError("no")
        return loss(net, x, y)

    with pytest.raises(RuntimeError, match="no"):
        score("exact", net, [vectors(4)], failing)
    assert torch.equal(net.get_parameter("0.weight"), before)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_numbers_of_16_bits(name: str) -> None:
    """The scores are those of the same weights with 32 bits, as far as 8 digits of a number go."""
    narrow, (inputs, targets) = convolutional().bfloat16(), images(16)
    wide = copy.deepcopy(narrow).float()
    found = score(name, narrow, [(inputs.bfloat16(), targets)], loss)
    for key, expected in score(name, wide, [(inputs.bfloat16().float(), targets)], loss).items():
        assert found[key].dtype == torch.bfloat16
        if name != "exact":  # a difference of two losses has no digits left
            torch.testing.assert_close(found[key].float(), expected, rtol=0.1, atol=0.1 * float(expected.max()))


@pytest.mark.parametrize("name", ["taylor", "obd"])
def test_small_addends_are_not_forgotten(name: str) -> None:
    """600 equal samples have the mean that one of them has; a sum of 16 bits stops growing at 256 of them."""
    net, (inputs, targets) = perceptron().bfloat16(), vectors(1)
    sample = inputs.bfloat16(), targets
    (once, often) = (one(name, net, [sample] * times) for times in (1, 600))
    torch.testing.assert_close(often, once, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_layers_that_are_called_by_keyword(name: str) -> None:
    class Named(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return self[2](input=self[1](self[0](input=input)))

    plain = perceptron()
    named, batch = Named(*plain), vectors(8)
    assert torch.equal(one(name, named, [batch]), one(name, plain, [batch]))
