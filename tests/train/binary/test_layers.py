"""Binary layers, the nets that get them, and the settings that say how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphopt.train.binary import (
    BinarizeSettings,
    BinaryConv2d,
    BinaryLinear,
    ErrorModule,
    Fourier,
    Sign,
    basis,
    binarize_net,
    deployable,
    signs,
    without_errors,
)
from graphopt.train.binary.methods import METHODS

PLAIN = BinarizeSettings(error=False)


def scaled(weight: torch.Tensor) -> torch.Tensor:
    """Signs of one size an output channel, written out."""
    rows = [row.abs().mean() * torch.where(row > 0, 1.0, -1.0) for row in weight]
    return torch.stack(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": (1, 0), "bias": False},
        {"groups": 2, "dilation": 2, "padding": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same"},
    ],
)
def test_a_convolution_of_signs(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(6, 4, 3, **options)
    binary = BinaryConv2d(layer, PLAIN)
    assert binary.weight is layer.weight and binary.bias is layer.bias
    for size in (0, 1, 3):
        x = torch.randn(size, 6, 7, 5)
        expected = layer._conv_forward(signs(x), scaled(layer.weight.detach()), layer.bias)
        assert torch.allclose(binary(x), expected, atol=1e-5)
    assert binary(torch.zeros(1, 6, 7, 5)).equal(binary(torch.full((1, 6, 7, 5), -3.0)))


def test_a_product_of_signs() -> None:
    layer = nn.Linear(67, 5)
    binary = BinaryLinear(layer, PLAIN)
    x = torch.randn(3, 2, 67)
    assert torch.allclose(binary(x), functional.linear(signs(x), scaled(layer.weight.detach()), layer.bias), atol=1e-5)


def test_gradients_reach_weights_through_sign_and_scale() -> None:
    layer = BinaryLinear(nn.Linear(5, 3, bias=False), PLAIN)
    x, incoming = torch.randn(7, 5), torch.randn(7, 3)
    (layer(x) * incoming).sum().backward()
    weight = layer.weight.detach()
    outer = incoming.T @ signs(x)  # the gradient of the weights as they are multiplied
    scale = weight.abs().mean(dim=1, keepdim=True)
    through_sign = outer * scale * Fourier().gradient(weight, 0.0)
    through_scale = (outer * signs(weight)).sum(dim=1, keepdim=True) * torch.sign(weight) / 5
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, through_sign + through_scale, atol=1e-6)


def test_weights_or_activations_alone() -> None:
    layer, x = nn.Linear(67, 5), torch.randn(3, 67)
    weights = BinaryLinear(layer, replace(PLAIN, activations=32))
    assert torch.allclose(weights(x), functional.linear(x, scaled(layer.weight.detach()), layer.bias), atol=1e-5)
    activations = BinaryLinear(layer, replace(PLAIN, weights=32))
    assert torch.equal(activations(x), functional.linear(signs(x), layer.weight, layer.bias))


class Net(nn.Module):
    """A stem, a block with a shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.conv = nn.Conv2d(4, 6, 3, 2, 1)
        self.point = nn.Conv2d(6, 6, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, 2))
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)


def test_which_layers_are_binary() -> None:
    """Not the first, not the last, not a strided 1x1 shortcut; the parameters keep their names."""
    net = Net()
    before = dict(net.named_parameters())
    assert binarize_net(net, PLAIN) == ["conv", "point", "hidden"]
    assert type(net.stem) is nn.Conv2d and type(net.head) is nn.Linear and type(net.shortcut[0]) is nn.Conv2d
    assert isinstance(net.conv, BinaryConv2d) and isinstance(net.hidden, BinaryLinear)
    assert all(one is before[name] for name, one in net.named_parameters()) and len(before) == 12
    assert binarize_net(Net(), replace(PLAIN, shortcuts=True)) == ["conv", "point", "shortcut.0", "hidden"]
    assert binarize_net(Net(), replace(PLAIN, exclude=("h*", "point"))) == ["conv"]
    attention = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1), nn.Linear(4, 4), nn.Linear(4, 4))
    assert binarize_net(attention, PLAIN) == ["2"]  # its own output layer is never called
    with pytest.raises(ValueError, match="no layer"):
        binarize_net(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), PLAIN)


def test_error_modules_of_inputs_and_weights() -> None:
    net = Net()
    binarize_net(net, BinarizeSettings())
    errors = {name: one for name, one in net.named_modules() if isinstance(one, ErrorModule)}
    assert {name: one.first.in_features for name, one in errors.items()} == {
        "conv.of_input.error": 4,
        "conv.of_weight.sign.error": 36,
        "point.of_input.error": 6,
        "point.of_weight.sign.error": 6,
        "hidden.of_input.error": 6,
        "hidden.of_weight.sign.error": 6,
    }
    x = torch.randn(2, 4, 5, 5)
    assert isinstance(net.conv, BinaryConv2d)
    trained, evaluated = net.conv(x), net.eval().conv(x)
    assert not torch.equal(trained, evaluated)
    without_errors(net)
    assert not any(isinstance(one, ErrorModule) for one in net.modules())
    assert torch.equal(net.train().conv(x), evaluated)  # eval mode was the module removed, bit by bit


def test_what_is_deployed_holds_weights_as_they_are_multiplied() -> None:
    net = Net()
    binarize_net(net, BinarizeSettings())
    kept = {name: one.detach().clone() for name, one in net.named_parameters()}
    copied = deployable(net.eval())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(copied.get_submodule("conv")(x), net.conv(x))
    for name in ("conv", "point", "hidden"):
        weight = copied.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        rows = weight.detach().flatten(1).abs()
        assert (rows == rows[:, :1]).all() and (rows > 0).all()
    assert all(torch.equal(kept[name], one) for name, one in net.named_parameters())


def test_each_method_has_its_basis() -> None:
    kinds = {name: type(basis(BinarizeSettings(method=name))).__name__ for name in METHODS}  # type: ignore[arg-type]
    assert len(set(kinds.values())) == 7
    given = basis(BinarizeSettings(omega=0.2, terms_first=3, terms_last=5))
    assert given == Fourier(0.2, 3, 5)
    net = Net()
    binarize_net(net, BinarizeSettings(method="haar", scale_last=1.5))
    assert all(one.basis == basis(BinarizeSettings(method="haar", scale_last=1.5)) for one in every_sign(net))


def every_sign(net: nn.Module) -> list[Sign]:
    return [one for one in net.modules() if isinstance(one, Sign)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "taylor"}, "method"),
        ({"omega": 0.0}, "omega"),
        ({"omega": 3.0}, "omega"),
        ({"terms_first": 19}, "terms"),
        ({"terms_first": -1}, "terms"),
        ({"scale_last": -1.0}, "scales"),
        ({"samples": 129}, "samples"),
        ({"samples": 64}, "samples"),
        ({"steepness_first": 0.0}, "steepness"),
        ({"power_last": 0.5}, "power"),
        ({"alpha": 2.0}, "alpha"),
        ({"weights": 2}, "bits"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinarizeSettings(**wrong)


def test_a_linear_layer_of_an_input_with_four_axes() -> None:
    """Its rows are along the last one, for the error module too, whatever the others are."""
    torch.manual_seed(0)
    layer = BinaryLinear(nn.Linear(3, 5), BinarizeSettings()).train()
    for x in (torch.randn(2, 7, 4, 3), torch.randn(2, 3, 4, 3)):
        torch.testing.assert_close(layer(x), layer(x.flatten(0, 2)).reshape(2, -1, 4, 5))


def test_a_layer_in_several_places_is_binary_in_all_of_them() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net.again = net[1]
    net.inside = nn.Sequential(net[1])
    assert binarize_net(net, replace(PLAIN, exclude=("2",))) == ["1"]
    assert isinstance(net[1], BinaryLinear) and net.again is net[1] and net.inside[0] is net[1]
