"""Filters, hidden units and streams that go in rounds, and are gone after `optimize`."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt import runtime
from graphopt.errors import UsageError
from graphopt.train.family import Family
from graphopt.train.prune import PruneSettings, attach, prune
from graphopt.train.prune.groups import Group, Slice
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from tests.train.prune.nets import images, trainer

QUICK = Settings(epochs=1, batch=16, rate=1e-2)


class Residual(nn.Module):
    """A stem, a residual block, a classifier with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.Conv2d(12, 8, 1)
        self.inner_norm = nn.BatchNorm2d(12)
        self.hidden, self.last = nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(x))))
        return self.last(torch.relu(self.hidden(x.mean((2, 3)))))


def exported(net: nn.Module) -> ir.Model:
    """With the batch left open."""
    return graphopt.export(net, (torch.zeros(2, 2, 6, 6),), dynamic_shapes={"images": {0: "batch"}})


FAMILY = Family(
    name="residual", new=Residual, data=lambda: None, task=CLASSIFICATION,  # type: ignore[arg-type, return-value]
    example=lambda net: (torch.zeros(2, 2, 6, 6),), export=exported, input="images", output="logits",
)  # fmt: skip


def net() -> Residual:
    torch.manual_seed(0)
    return Residual()


def gone(net: nn.Module, name: str, axis: int = 0) -> set[int]:
    """Positions of an axis of a parameter that are zero everywhere."""
    weight = net.get_parameter(name)
    return set((weight.movedim(axis, 0).flatten(1) == 0).all(1).nonzero().flatten().tolist())


def test_filters_and_hidden_units_go_whole_and_optimize_removes_them() -> None:
    model = net()
    fit = trainer(model, images(48), images(16, 1))
    found = prune(fit, PruneSettings(structure="units", amount=0.5, rounds=2, retrain=QUICK), FAMILY)
    filters, hidden = gone(model, "inner.weight"), gone(model, "hidden.weight")
    assert (len(filters), len(hidden)) == (6, 5)
    assert gone(model, "outer.weight", 1) == filters and gone(model, "last.weight", 1) == hidden
    for name in ("inner_norm.weight", "inner_norm.bias"):
        assert set((model.get_parameter(name) == 0).nonzero().flatten().tolist()) == filters
    assert not found.masks.keys() & {"stem.weight", "outer.bias", "last.bias"}, "the stream stays"
    assert found.history[0].sparsity < found.history[1].sparsity
    inputs = images(9, 2)[0]
    expected = model(inputs).detach().numpy()
    onnx = FAMILY.export(attach(model, found.masks))
    assert any("mask" in (name or "") for name in onnx.graph.initializers), "masks can be seen"
    result = graphopt.optimize(onnx)
    assert result.report.verify is not None and result.report.verify.passed
    shapes = [tuple(value.shape or ()) for value in result.model.graph.initializers.values()]
    assert (6, 8, 3, 3) in shapes and (8, 6, 1, 1) in shapes, shapes
    assert (5, 8) in shapes or (8, 5) in shapes, shapes
    (logits,) = runtime.run(runtime.session(result.model), {"images": inputs.numpy()})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_a_stream_is_pruned_as_one() -> None:
    model = net()
    settings = PruneSettings(structure="filter", stream=True, amount=0.5, rounds=1, retrain=QUICK)
    prune(trainer(model, images(48), images(16, 1)), settings, FAMILY)
    stream = gone(model, "stem.weight")
    assert len(stream) == 4
    assert gone(model, "outer.weight") == stream == gone(model, "inner.weight", 1) == gone(model, "hidden.weight", 1)
    assert len(gone(model, "inner.weight")) == 6
    assert gone(model, "hidden.weight") == set(), "hidden units were not asked for"


def declared(net: nn.Module) -> list[Group]:
    """The hidden units, as a family that knows them says."""
    index = np.arange(10)[:, None]
    writes = (Slice("hidden.weight", 0, index), Slice("hidden.bias", 0, index))
    return [Group("hidden.weight", "hidden", 10, writes, (Slice("last.weight", 1, index),))]


def test_a_family_may_say_what_goes_together() -> None:
    knowing = dataclasses.replace(FAMILY, groups=declared)
    model = net()
    fit = trainer(model, images(48), images(16, 1))
    found = prune(fit, PruneSettings(structure="hidden", amount=0.3, rounds=1, retrain=QUICK), knowing)
    assert len(gone(model, "hidden.weight")) == 3
    assert set(found.masks) == {"hidden.weight", "hidden.bias", "last.weight"}
    with pytest.raises(UsageError, match="no group of kind filter") as error:
        prune(trainer(net(), images(8), images(8)), PruneSettings(structure="filter"), knowing)
    assert "hidden" in str(error.value)
    with pytest.raises(UsageError, match="no group"):
        prune(trainer(net(), images(8), images(8)), PruneSettings(structure="hidden", exclude=("hidden",)), knowing)


def test_the_least_important_units_go() -> None:
    """Rows that are tiny, whatever else is there."""
    knowing = dataclasses.replace(FAMILY, groups=declared)
    model = net()
    with torch.no_grad():
        model.hidden.weight[[2, 7]] *= 1e-3
        model.last.weight[:, 4] *= 1e-6  # a reader's weights have no say in magnitude
    settings = PruneSettings(
        score="magnitude", structure="hidden", amount=0.2, rounds=1, retrain=dataclasses.replace(QUICK, epochs=0)
    )
    prune(trainer(model, images(8), images(8)), settings, knowing)
    assert gone(model, "hidden.weight") == {2, 7}


class Wide(nn.Module):
    """Widths of which a CPU's steps are a few."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 48)
        self.last = nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(images.flatten(1)[:, :64])))))


def test_with_latency_widths_are_steps_of_the_target() -> None:
    """A quarter and a bit goes: without, to 45 and 34; with, to widths at which a CPU is faster, and stays there."""
    wide = dataclasses.replace(FAMILY, new=Wide)
    left = {}
    for latency in (False, True):
        torch.manual_seed(0)
        model = Wide()
        settings = PruneSettings(structure="hidden", latency=latency, amount=0.3, rounds=2, retrain=QUICK)
        prune(trainer(model, images(48), images(16, 1)), settings, wide)
        left[latency] = 64 - len(gone(model, "first.weight")), 48 - len(gone(model, "second.weight"))
        assert gone(model, "second.weight", 1) == gone(model, "first.weight")
    assert left[False] == (45, 34)
    assert all(width % 16 == 0 and width <= size for width, size in zip(left[True], (64, 48), strict=True)), left
    assert left[True] != (64, 48)
