"""Layers in the order in which the net runs, and quantizers that change nothing until they are told to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from graphopt.errors import GraphoptError
from graphopt.train.quantize.fold import folded
from graphopt.train.quantize.layers import quantizable
from tests.train.quantize import nets


def test_the_order_is_that_of_running_not_of_registration():
    net = nets.Residual()
    found = nets.prepared(net, nets.settings())
    assert [layer.name for layer in found.layers] == ["stem", "conv1", "conv2", "last", "head"]
    assert next(name for name, _ in net.named_children()) == "head"


@pytest.mark.parametrize("net", [nets.Residual(), nets.Residual(1, 1), nets.Chain(), nets.Perceptron(5, 1)])
def test_quantizers_change_nothing_at_first(net):
    nets.seeded(net)
    x = nets.data(net).train.inputs
    plain = folded(net, (x,))
    found = nets.prepared(net, nets.settings())
    with torch.no_grad():
        assert torch.equal(found.net(x), plain(x))


def levels(found):
    return {name.rsplit("_", 1)[0]: one.grid.levels for name, one in found.values.items()}


def test_the_residual_stream_keeps_its_bits():
    found = nets.prepared(nets.Residual(), nets.settings(levels=8, first_last=256))
    by_layer = {layer.name: [found.values[name].grid.levels for name in layer.inputs] for layer in found.layers}
    assert by_layer == {"stem": [256], "conv1": [8], "conv2": [8], "last": [8], "head": [256]}
    unread = [name for name, reader in found.readers.items() if reader is None]
    # The stream behind the stem, what conv2 adds to it, the input of the mean: integers that no layer reads.
    assert [found.values[name].grid.levels for name in unread] == [256] * 3
    same = nets.prepared(nets.Residual(), nets.settings(levels=256))
    assert len(found.values) == len(same.values) + 1  # one quantizer does for both readers where the levels agree


def test_neurons_are_the_channels_of_what_a_layer_makes():
    found = nets.prepared(nets.Chain(), nets.settings())
    made = {layer.name: layer.made for layer in found.layers}
    assert [len(names) for names in made.values()] == [1, 1, 1, 0]
    for layer in found.layers:
        for name in layer.made:
            assert len(found.values[name].active) == layer.components
    assert {len(layer.inputs) for layer in found.layers} == {1}
    # A sum belongs to the last of the layers that it adds up.
    residual = nets.prepared(nets.Residual(), nets.settings(levels=256))
    owners = {name: layer.name for layer in residual.layers for name in layer.made}
    reads = {layer.name: layer.inputs[0] for layer in residual.layers}
    assert owners[reads["last"]] == "conv2" and reads["stem"] not in owners


def test_behind_a_relu_zero_is_the_lowest_level():
    found = nets.prepared(nets.Chain(), nets.settings())
    constraints = [found.values[layer.inputs[0]].constraint for layer in found.layers]
    assert [one.zero_point for one in constraints] == [None, 0, 0, 0]
    assert [one.upper for one in constraints] == [None, None, 6.0, None]


def test_no_quantizer_of_values_where_they_stay_in_float():
    assert not nets.prepared(nets.Residual(), nets.settings(activations=0)).values


def test_nothing_to_quantize():
    with pytest.raises(GraphoptError, match="no convolution"):
        quantizable(folded(nn.ReLU(), (torch.zeros(1, 2),)), nets.settings(), (torch.zeros(1, 2),))


def test_a_masked_weight_is_refused():
    net = nets.Perceptron(5)
    prune.l1_unstructured(net.linears[0], "weight", amount=2)
    with pytest.raises(GraphoptError, match="computed") as caught:
        nets.prepared(net, nets.settings())
    assert "prune.remove" in str(caught.value.help)
    prune.remove(net.linears[0], "weight")
    nets.prepared(net, nets.settings())


class Doubled(nn.Module):
    shape = (5,)

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, image):
        x = self.first(image)
        for _ in range(40):
            x = x + torch.relu(x)
        return self.last(x)


@pytest.mark.timeout(60)
def test_each_value_is_asked_once_whose_channels_it_has():
    """2**40 ways lead from the last addition back to the first layer."""
    found = nets.prepared(Doubled(), nets.settings())
    assert [layer.name for layer in found.layers] == ["first", "last"]
    assert found.layers[0].made == found.layers[1].inputs  # the channels behind all additions are those of the first
