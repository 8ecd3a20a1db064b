"""Masks that are left on a net are seen by the exporter, and what they make superfluous is removed."""

from __future__ import annotations

import copy

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import graphopt
from graphopt.train.prune import attach
from graphopt.train.prune.groups import Group, Slice
from graphopt.train.prune.structures import Together
from tests.train.prune.nets import convolutional, perceptron


def units(count: int) -> Together:
    """Hidden units of the perceptron."""
    import numpy as np

    shapes = {name: one.shape for name, one in perceptron(hidden=count).named_parameters()}
    index = np.arange(count)[:, None]
    writes = (Slice("0.weight", 0, index), Slice("0.bias", 0, index))
    return Together(Group("0.weight", "hidden", count, writes, (Slice("2.weight", 1, index),)), shapes)


def test_hidden_units_are_gone_after_optimize() -> None:
    net = perceptron(hidden=64)
    chosen = torch.arange(64) % 4 != 0
    masks = units(64).masks(chosen)
    plain = copy.deepcopy(net)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name)[mask] = 0
    assert attach(net, masks) is net
    x = torch.randn(5, 7)
    assert torch.equal(net(x), plain(x))
    model = graphopt.export(net, (x,))
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert any("mask" in name for name in held), "the mask is an initializer"
    result = graphopt.optimize(model)
    assert result.report.verify is not None and result.report.verify.passed
    shapes = sorted(tuple(value.shape) for value in result.model.graph.initializers.values() if value.shape)  # type: ignore[arg-type]
    assert (7, 16) in shapes or (16, 7) in shapes
    assert (16, 3) in shapes or (3, 16) in shapes
    assert isinstance(result.model, ir.Model)


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
