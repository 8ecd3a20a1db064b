"""A step quantizes exactly what it says, re-trains the rest, and freezes to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.train.data import Data, Split
from graphopt.train.quantize import folded, quantizable, quantizers
from graphopt.train.quantize.process import Process
from graphopt.train.quantize.strategies import shared, steps
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer
from tests.train.quantize import nets

STRATEGIES = ("direct", "layer", "filter", "neuron")


class Watched(Process):
    """Looks at the net after every step, before and after the subset is frozen."""

    def __init__(self, *args):
        super().__init__(*args)
        self.done = {layer.name: np.zeros(0, np.int64) for layer in self.found.layers}
        self.frozen = {}
        self.moved = 0
        self.seen = 0

    def quantize(self, step):
        super().quantize(step)
        for layer in step.layers:
            self.done[layer.name] = np.union1d(self.done[layer.name], self.chosen(layer, step))
        self.check_weights()
        if step.channels or step.values:
            self.check_values()

    def freeze(self, step):
        for name, (rows, weight) in self.frozen.items():
            now = next(layer.module.weight for layer in self.found.layers if layer.name == name).detach()
            assert torch.equal(now[rows].view(torch.int32), weight.view(torch.int32))  # 0 ulp
        before = {layer.name: layer.latent.detach().clone() for layer in self.found.layers}
        super().freeze(step)
        for layer in self.found.layers:
            # In front of the quantizer, too; what is not frozen is left as it is.
            rows = torch.as_tensor(self.done[layer.name])
            assert torch.equal(layer.latent[rows], layer.module.weight[rows])
            rest = np.setdiff1d(np.arange(layer.components), self.done[layer.name])
            assert torch.equal(layer.latent[rest], before[layer.name][rest])
            self.frozen[layer.name] = rows, layer.module.weight.detach()[rows].clone()
        self.check_weights()
        self.seen += 1

    def check_weights(self):
        """Exactly the chosen filters take no more than N values, scale by scale."""
        for layer in self.found.layers:
            rows = layer.module.weight.detach().flatten(1).numpy()
            few = [np.unique(row).size <= layer.quantizer.grid.levels for row in rows]
            if rows.shape[1] > layer.quantizer.grid.levels:
                assert np.flatnonzero(few).tolist() == self.done[layer.name].tolist()

    def check_values(self):
        """Exactly the active channels take no more than N values."""
        caught = {}
        hooks = [
            one.register_forward_hook(lambda module, args, out, name=name: caught.__setitem__(name, (args[0], out)))
            for name, one in self.found.values.items()
        ]
        with torch.no_grad():
            self.found.net.eval()(self.trainer.data.train.inputs)
        for hook in hooks:
            hook.remove()
        for name, one in self.found.values.items():
            given, out = (each.movedim(one.axis, 0).flatten(1).numpy() for each in caught[name])
            active = one.active.numpy()
            assert np.unique(out[active]).size <= one.grid.levels  # one scale for all of them
            assert np.array_equal(out[~active], given[~active])
            if active.any() and np.unique(given[active]).size > one.grid.levels:
                assert not np.array_equal(out[active], given[active])
        if self.settings.strategy == "neuron":
            for layer in self.found.layers:
                for name in layer.made:
                    assert np.flatnonzero(self.found.values[name].active).tolist() == self.done[layer.name].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("build", [nets.Residual, nets.Chain])
def test_exactly_the_chosen_are_on_levels_and_stay_there(strategy, build):
    net = nets.seeded(build())
    process = nets.process(net, nets.settings(strategy=strategy, levels=4), Watched)
    process.run()
    assert process.seen == len(steps(process.found, process.settings)) == len(process.history.rows)
    assert all(len(process.done[layer.name]) == layer.components for layer in process.found.layers)
    assert all(one.active.all() for one in process.found.values.values())
    assert process.history.rows[-1].frozen == sum(layer.components for layer in process.found.layers)
    assert sum(row.filters for row in process.history.rows) == process.history.rows[-1].frozen  # each once


@pytest.mark.parametrize("options", [{"optimizer": "sgd", "rate": 0.1, "weight_decay": 0.1}, {"optimizer": "adamw"}])
def test_the_rest_is_trained_meanwhile(options):
    from dataclasses import replace

    net = nets.seeded(nets.Perceptron(13, 11))
    given = nets.settings(strategy="filter")
    process = nets.process(net, replace(given, retrain=replace(given.retrain, **options)), Watched)
    first, *_ = process.found.layers
    before = {layer.name: layer.latent.detach().clone() for layer in process.found.layers}
    todo = steps(process.found, process.settings)
    process._step(todo[0], 0, "none", (0, 6), True)  # quantized and frozen, nothing trained
    process.trainer.stage("one", lambda fresh: process._step(todo[1], 6, "the rest", (0, 6), fresh))
    second = process.found.layers[1]
    assert (second.latent != before[second.name]).float().mean() > 0.99
    rest = np.setdiff1d(np.arange(first.components), process.done[first.name])
    assert (first.latent[rest] != before[first.name][rest]).float().mean() > 0.99


def test_all_strategies_train_equally_long():
    totals = set()
    for strategy in STRATEGIES:
        found = nets.prepared(nets.Residual(), nets.settings(strategy=strategy))
        number = len(steps(found, nets.settings(strategy=strategy)))
        assert number == {"direct": 1, "layer": 5, "filter": 23, "neuron": 23}[strategy]
        budget = list(shared(nets.settings(steps=50, strategy=strategy), number, 5))
        totals.add(sum(budget))
        assert max(budget) - min(budget) <= 1
    assert totals == {50}
    epochs = nets.settings(steps=0)
    assert sum(shared(epochs, 3, 7)) == epochs.retrain.epochs * 7


@pytest.mark.parametrize("strategy", ["direct", "neuron"])
def test_gradients_reach_every_earlier_quantized_layer(strategy, monkeypatch):
    net = nets.seeded(nets.Residual(7, 1))
    process = nets.process(net, nets.settings(strategy=strategy, levels=8))
    task, x, y = process.trainer.task, torch.zeros(0), torch.zeros(0)
    for step in steps(process.found, process.settings):
        process.quantize(step)
        x, y = next(process.trainer.batches(process.trainer.data.train, size=40))
        task.loss(process.found.net(x), y).backward()
        for layer in process.found.layers:
            gradient = layer.latent.grad
            active = layer.quantizer.active
            assert gradient is not None and (gradient[active].abs().sum() > 0 or not active.any())
            layer.latent.grad = None
    # Rounding alone has no gradient: then nothing but the last bias would learn.
    monkeypatch.setattr(quantizers, "fake_quantize", lambda x, *rest, **more: x.detach().round())
    task.loss(process.found.net(x), y).backward()
    assert all(layer.latent.grad is None or not layer.latent.grad.any() for layer in process.found.layers)


@pytest.mark.parametrize("order", ["error", "importance"])
def test_orders_put_what_counts_first(order):
    net = nets.Perceptron(7, 7)
    nets.seeded(net)
    with torch.no_grad():
        if order == "error":
            net.linears[0].weight.copy_(torch.tensor([[-2.0, -1, 0, 1, 0, 1, -2]]).repeat(7, 1))  # exact on 4 levels
            net.linears[0].weight[3] = torch.tensor([1.0, 0.7, 0.4, -0.3, -0.9, 0.2, 0.5])
        else:
            net.linears[1].weight[:, [0, 1, 2, 4, 5, 6]] = 0  # nobody reads the others
    process = nets.process(net, nets.settings(strategy="filter", order=order))
    process.quantize(steps(process.found, process.settings)[0])
    layer = process.found.layers[0]
    assert 3 in process.chosen(layer, steps(process.found, process.settings)[0])
    by_index = nets.process(net, nets.settings(strategy="filter"))
    by_index.quantize(steps(by_index.found, by_index.settings)[0])
    assert 3 not in by_index.chosen(by_index.found.layers[0], steps(by_index.found, by_index.settings)[0])


def test_pruned_weights_stay_zero():
    net = nets.seeded(nets.Perceptron(11, 5))
    with torch.no_grad():
        net.linears[1].weight[::2, ::3] = 0
        net.linears[2].weight[1], net.linears[2].bias[1] = 0, 0
        net.linears[0].bias[5] = 0  # the bias of a filter that is there: an accident
    for zeros in (True, False):
        process = nets.process(net, nets.settings(zeros=zeros, levels=23))
        process.run()
        now = process.found.net.state_dict()
        weight = {name: layer.module.weight for name, layer in zip("abc", process.found.layers, strict=True)}
        for kept in (weight["b"][::2, ::3], weight["c"][1], now["layers.2.bias"][1]):
            assert bool(kept.any()) != zeros
        assert weight["b"][1::2].any() and bool(now["layers.0.bias"][5])


@pytest.mark.parametrize("widths", [(1,), (13, 1)])
@pytest.mark.parametrize("strategy", ["direct", "filter", "neuron"])
def test_width_one_and_prime(widths, strategy):
    process = nets.process(nets.seeded(nets.Perceptron(*widths)), nets.settings(strategy=strategy, levels=3), Watched)
    process.run()
    assert process.history.rows[-1].frozen == sum(widths) + 3


def test_one_component_at_a_time():
    process = nets.process(nets.seeded(nets.Perceptron(5)), nets.settings(iterations=0), Watched)
    process.run()
    assert [row.filters for row in process.history.rows] == [1] * 8


def test_one_scale_for_a_whole_weight():
    process = nets.process(nets.seeded(nets.Perceptron(11)), nets.settings(per_filter=False), Watched)
    process.run()
    for layer in process.found.layers:
        assert len(layer.quantizer.scale.unique()) == 1
        assert len(layer.module.weight.unique()) <= 4
    apart = nets.process(nets.seeded(nets.Perceptron(11)), nets.settings(), Watched)
    apart.run()
    assert all(len(layer.quantizer.scale.unique()) > 1 for layer in apart.found.layers)


def test_activations_that_are_not_finite_are_an_error():
    net = nets.seeded(nets.Perceptron(5))
    with torch.no_grad():
        net.linears[0].bias[0] = torch.nan
    with pytest.raises(GraphoptError, match="NaN"):
        nets.process(net, nets.settings(strategy="direct", steps=1)).run()


class Stopped(Exception):  # noqa: N818
    """The power fails."""


@pytest.mark.parametrize(("strategy", "after"), [("direct", 14), ("neuron", 1), ("neuron", 14), ("neuron", 33)])
def test_a_resumed_run_gives_the_same_net(tmp_path, strategy, after):
    net = nets.seeded(nets.Chain())
    given = nets.settings(strategy=strategy, steps=32, order="importance")

    def run(folder, stop=0):
        count = 0

        def progress(what, done, total):
            nonlocal count
            count += 1
            if count == stop:
                raise Stopped

        found = nets.prepared(net, given)
        task = nets.family(net).task
        trainer = Trainer(found.net, nets.data(net), task, device="cpu", folder=folder, progress=progress)
        process = Process(found, trainer, given)
        process.run()
        return found, process

    whole, _ = run(None)
    with pytest.raises(Stopped):
        run(tmp_path, stop=after)
    again, process = run(tmp_path)
    for name, one in whole.net.state_dict().items():
        assert torch.equal(one, again.net.state_dict()[name]), name
    assert len(process.history.rows) == len(steps(again, given))


def test_nothing_left_to_train_is_no_stage_of_training():
    net = nets.seeded(nets.Perceptron())
    net.linears[0].register_parameter("bias", None)
    process = nets.process(net, nets.settings(), Watched)
    process.run()
    assert {row["stage"] for row in process.trainer.history} == {f"layers.0 {i}/3" for i in (1, 2, 3)}


class Tied(nn.Module):
    """Two layers with one weight and one bias, and an embedding that is the last layer's weight, too."""

    shape = (5,)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(7, 6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.letters.weight

    def forward(self, letters):
        x = self.letters(letters).mean(1)
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_layers_share_is_each_ones_own(strategy):
    """As each has levels of its own: nothing that is held is moved by another one."""
    net, settings = Tied(), nets.settings(strategy=strategy)
    letters = torch.randint(7, (32, 5), generator=torch.Generator().manual_seed(0))
    found = quantizable(folded(net, (letters,)), settings, (letters,))
    samples = Split(letters, letters[:, 0])
    process = Watched(found, Trainer(found.net, Data(samples, samples), CLASSIFICATION, device="cpu"), settings)
    assert len({id(one) for one in found.net.parameters()}) == len(list(net.parameters())) + 3
    process.run()
    assert process.seen and net.second.weight is net.first.weight


def test_a_layer_that_is_not_trained_has_an_importance():
    net = nets.seeded(nets.Perceptron(7, 7))
    net.linears[0].weight.requires_grad_(False)
    process = nets.process(net, nets.settings(strategy="filter", order="importance"))
    before = process.found.layers[0].latent.detach().clone()
    process.quantize(steps(process.found, process.settings)[0])
    assert not process.found.layers[0].latent.requires_grad and torch.equal(process.found.layers[0].latent, before)


def test_progress_is_told_of_all_subsets_together():
    said = []
    net, given = nets.Sliced(), nets.settings(steps=23, strategy="filter")
    found = nets.prepared(net, given)
    trainer = Trainer(
        found.net, nets.data(net), nets.family(net).task, device="cpu", progress=lambda *told: said.append(told)
    )
    Process(found, trainer, given).run()
    number = len(steps(found, given))
    assert number > 7
    subsets = [told for told in said if told[0].startswith("subset ")]
    trained = [told for told in subsets if ", loss " in told[0]]
    assert [told[1:] for told in trained] == [(done, 23) for done in range(1, 24)], "one bar, from end to end"
    assert [told[1] for told in subsets] == sorted(told[1] for told in subsets) and {told[2] for told in subsets} == {
        23
    }
    levels = [told[0] for told in subsets if told[0].endswith(", levels")]
    assert levels == [f"subset {k} of {number}: {one.name}, levels" for k, one in enumerate(steps(found, given), 1)]
    assert said[-1][0].startswith("all levels are frozen, the rest, loss ")
