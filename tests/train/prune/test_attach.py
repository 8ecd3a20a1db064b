"""Masks that are left on a net, as torch's own pruning leaves them. What the exporter makes of them: test_units.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from graphopt.train.prune import attach
from tests.train.prune.nets import convolutional, perceptron


def test_the_net_computes_with_its_masks() -> None:
    """Bit by bit what it computes with zeros in place, under the names of torch's own pruning."""
    net, masked = perceptron(hidden=16), perceptron(hidden=16)
    mask = torch.rand(16, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    with torch.no_grad():
        net.get_parameter("0.weight")[mask] = 0
    assert attach(masked, {"0.weight": mask}) is masked
    x = torch.randn(5, 7)
    assert torch.equal(net(x), masked(x))
    assert torch.equal(masked.get_buffer("0.weight_mask"), (~mask).float())
    assert "0.weight_orig" in dict(masked.named_parameters())


def test_a_mask_of_nothing_is_not_attached() -> None:
    net = convolutional()
    attach(net, {"0.weight": torch.zeros(6, 2, 3, 3, dtype=torch.bool), "3.weight": torch.ones(8, 3, 3, 3).bool()})
    assert not torch_prune.is_pruned(net[0])
    assert torch_prune.is_pruned(net[3])
    torch_prune.remove(net[3], "weight")
    assert (net.get_parameter("3.weight") == 0).all()


def test_a_norm_and_a_bias_can_be_masked() -> None:
    net = convolutional().eval()
    zero = torch.tensor([True, False, False, True, False, False])
    attach(net, {"1.weight": zero, "1.bias": zero, "0.weight": zero[:, None, None, None].expand(6, 2, 3, 3)})
    found = net[1](net[0](torch.randn(2, 2, 6, 6)))
    assert (found[:, zero] == 0).all() and (found[:, ~zero] != 0).any()


def test_an_unknown_parameter() -> None:
    with pytest.raises(KeyError):
        attach(nn.Linear(2, 2), {"wieght": torch.ones(2, 2, dtype=torch.bool)})
