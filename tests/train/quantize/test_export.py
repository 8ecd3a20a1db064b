"""The exported model is what was trained: same integers, same logits, integer kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from graphopt import model as models
from graphopt import runtime
from graphopt.errors import GraphoptError, ModelError
from graphopt.quantization.kernels import kernels
from graphopt.torch_export import export
from graphopt.train.quantize import integer, quantize
from tests.train.quantize import nets


def trained(net, given):
    return quantize(net, nets.data(net), nets.family(net), given, device="cpu")


def quantized_values(model):
    return [str(node.outputs[0].name) for node in model.graph if node.op_type == "QuantizeLinear"]


def run(model, x, optimize=True, watch=()) -> dict[str, Any]:
    """Outputs by name, the integers of some values with them."""
    model = models.clone(model)
    for node in model.graph:
        if node.outputs[0].name in watch:
            model.graph.outputs.append(node.outputs[0])
    names = [str(value.name) for value in model.graph.outputs]
    return dict(zip(names, runtime.session(model, optimize=optimize).run(None, {"image": x}), strict=True))


def samples(net, number=64):
    return nets.data(net, number, seed=5).train.inputs


def agree(result, net, unlike=0.0):
    """Torch in eval mode, onnxruntime on integers and as written, and integers alone in numpy."""
    x = samples(net)
    with torch.no_grad():
        y = result.net(x).numpy()
    watch = tuple(quantized_values(result.model))
    mine = integer.run(result.model, {"image": x.numpy()}, watch)
    for optimize in (True, False):
        theirs = run(result.model, x.numpy(), optimize, watch)
        for name in watch:
            step = np.abs(theirs[name].astype(int) - mine[name].astype(int))
            assert step.max(initial=0) <= 1 and (step > 0).mean() <= unlike, name
        if not unlike:
            np.testing.assert_allclose(theirs["logits"], mine["logits"], rtol=1e-5, atol=1e-6)
    # Torch rounds sums of floats: one step where they lie between two levels, in few samples.
    near = np.isclose(y, mine["logits"], rtol=1e-4, atol=1e-5).all(axis=1)
    assert near.mean() >= 0.95
    assert watch and mine["logits"].std() > 0


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (nets.Residual(), {"strategy": "neuron", "levels": 256}),
        (nets.Residual(7, 7), {"strategy": "layer", "levels": 4}),
        (nets.Chain(), {"strategy": "neuron", "levels": 23}),
        (nets.Chain(), {"strategy": "direct", "levels": 3, "first_last": 256, "per_filter": False}),
        (nets.Sliced(), {"strategy": "filter", "levels": 8}),
        (nets.Perceptron(1, 13), {"strategy": "filter", "levels": 8, "activations": 16}),
    ],
)
def test_torch_onnxruntime_and_integers_agree(net, options):
    result = trained(nets.seeded(net), nets.settings(**options))
    agree(result, net)
    # Every layer and every addition runs on integers; nothing multiplies in float.
    found = kernels(result.model)
    products = sum(isinstance(one, nn.Conv2d | nn.Linear) for one in net.modules())
    pools = 2 if isinstance(net, nets.Residual | nets.Sliced) else 0  # an addition and a mean
    assert found.float_nodes == 0 and found.integer_nodes == products + pools
    # Near miss: a weight that is one level off is seen in the integers.
    other = models.clone(result.model)
    weight = next(v for v in other.graph.initializers.values() if str(v.name).endswith("weight_quantized"))
    assert weight.const_value is not None
    codes = weight.const_value.numpy().copy()
    codes.reshape(-1)[0] += 1 if codes.reshape(-1)[0] <= 0 else -1
    weight.const_value = ir.tensor(codes, name=weight.name)
    x, watch = samples(net).numpy(), tuple(quantized_values(result.model))
    before, after = (integer.run(model, {"image": x}, watch) for model in (result.model, other))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_weights_alone():
    net = nets.seeded(nets.Residual())
    result = trained(net, nets.settings(levels=4, activations=0))
    x = samples(net)
    with torch.no_grad():
        np.testing.assert_allclose(run(result.model, x.numpy())["logits"], result.net(x), rtol=1e-4, atol=1e-5)
    assert not quantized_values(result.model)
    stored = [v for v in result.model.graph.initializers.values() if str(v.name).endswith("weight_quantized")]
    assert len(stored) == 5 and all(v.dtype == ir.DataType.INT8 for v in stored)


class Constant(nets.Perceptron):
    """A layer whose ReLU is dead, or whose activation is the same for every sample."""

    def __init__(self, bias):
        super().__init__(5, 4)
        nets.seeded(self)
        with torch.no_grad():
            self.linears[0].weight.zero_()
            self.linears[0].bias.fill_(bias)


@pytest.mark.parametrize(("bias", "strategy"), [(-1.0, "neuron"), (0.75, "direct")])
def test_dead_relu_and_constant_activations(bias, strategy):
    net = Constant(bias)
    result = trained(net, nets.settings(strategy=strategy, levels=3))
    x = samples(net)
    with torch.no_grad():
        y = result.net(x).numpy()
    assert np.isfinite(y).all() and np.ptp(y, axis=0).max() == 0
    np.testing.assert_allclose(run(result.model, x.numpy())["logits"], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(integer.run(result.model, {"image": x.numpy()})["logits"], y, rtol=1e-5, atol=1e-6)


def test_batches_of_any_size_and_a_net_that_is_left_as_it_is():
    net = nets.seeded(nets.Perceptron(4)).train()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    result = trained(net, nets.settings(strategy="direct", steps=1))
    assert net.training and type(net) is nets.Perceptron
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    for number in (0, 1, 3):
        x = samples(net)[:number].numpy()
        theirs, mine = run(result.model, x)["logits"], integer.run(result.model, {"image": x})["logits"]
        assert theirs.shape == mine.shape == (number, 3)
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-6)


def test_what_needs_floats_is_refused_by_the_integers():
    class Gated(nets.Perceptron):
        def forward(self, image):
            return self.linears[1](torch.sigmoid(self.linears[0](image)))

    net = nets.seeded(Gated(5))
    result = trained(net, nets.settings(strategy="direct", steps=1))
    with pytest.raises(ModelError, match="Sigmoid"):
        integer.run(result.model, {"image": samples(net).numpy()})


class Small(nn.Sequential):
    shape = (1, 4, 4)


def small():
    return Small(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_both_exporters_keep_the_places_of_quantizers(exporter):
    net = small()
    names = {"dynamic_shapes": ({0: "batch"},), "input_names": ["image"], "output_names": ["logits"]}
    family = dataclasses.replace(
        nets.family(net), export=lambda one: export(one, (torch.zeros(2, *net.shape),), exporter=exporter, **names)
    )
    agree(quantize(net, nets.data(net), family, nets.settings(levels=16), device="cpu"), net)


def test_an_export_that_loses_quantizers_is_told_what_to_do():
    net = nets.Sliced()
    family = nets.family(net)
    other = dataclasses.replace(family, export=lambda _: family.export(net))
    with pytest.raises(GraphoptError) as raised:
        quantize(net, nets.data(net), other, nets.settings(levels=16), device="cpu")
    assert "lacks the place of a quantizer" in raised.value.what
    assert raised.value.help and "the net that it is given" in raised.value.help


class Turned(nn.Module):
    """Reads the weight of a layer a second time, rows for columns; it is square, so that both fit."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.shape, self.again = (7,), again
        self.layer, self.head = nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, image):
        """``[n, 7]`` to ``[n, 3]``."""
        x = torch.relu(self.layer(image))
        weight = self.layer.weight
        return self.head(torch.relu(nn.functional.linear(x, weight if self.again else weight.t())))


@pytest.mark.parametrize("again", [False, True])
def test_a_weight_that_is_read_the_other_way_round_keeps_its_levels(again):
    """A scale a filter would be one a column there; and where the weight is read as the layer reads it, it is one."""
    net = nets.seeded(Turned(again))
    with torch.no_grad():
        net.layer.weight *= torch.logspace(-2, 1, 7)[:, None]  # scales that differ
    result = trained(net, nets.settings(steps=2, strategy="direct", levels=16, activations=0))
    x = samples(net)
    with torch.no_grad():
        y = result.net(x).numpy()
    np.testing.assert_allclose(run(result.model, x.numpy())["logits"], y, rtol=1e-4, atol=1e-5)
    back = [node.inputs[0] for node in result.model.graph if node.op_type == "DequantizeLinear"]
    assert any("layer.weight" in str(value.name) for value in back if value is not None)


def test_a_net_of_another_type_is_refused():
    with pytest.raises(GraphoptError, match="a weight of float64 cannot be quantized"):
        nets.prepared(nets.Perceptron(5).double(), nets.settings())


class Single(nn.Linear):
    """One layer and nothing around it."""

    shape = (7,)

    def forward(self, image):  # pyright: ignore[reportIncompatibleMethodOverride] (the input's name in the model)
        """``[n, 7]`` to ``[n, 3]``."""
        return super().forward(image)


def test_a_net_that_is_a_single_layer():
    net = nets.seeded(Single(7, 3))
    agree(trained(net, nets.settings(steps=2, strategy="neuron", levels=16, iterations=0)), net)
