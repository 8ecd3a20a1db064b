"""A family that users could have written: three classes of points, a few layers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import nn

from graphopt.torch_export import export
from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.task import CLASSIFICATION
from tests.train import nets


def new(seed: int = 0, hidden: int = 13, depth: int = 1) -> nn.Module:
    """Return a net with random weights, with so many layers of hidden units."""
    if hidden < 1:
        raise ValueError(f"{hidden} hidden units")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [nets.FEATURES, *[hidden] * depth]
        layers = [one for a, b in itertools.pairwise(sizes) for one in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], nets.CLASSES))


def data(train: int = 61, test: int = 31, features: int = nets.FEATURES) -> Data:
    """Return points; others than the net takes, if asked for other features."""
    found = nets.data(train, test)
    return replace(found, prepare=lambda points: points[:, :features])


def to_onnx(net: nn.Module) -> ir.Model:
    """Return the net with its batch left open."""
    return export(
        net,
        (torch.zeros(2, nets.FEATURES),),
        dynamic_shapes=({0: "batch"},),
        input_names=["points"],
        output_names=["logits"],
        exporter="torchscript" if type(net) is nn.Sequential else "dynamo",  # the former is quick
    )


FAMILY = Family(
    "points", new, data, CLASSIFICATION, lambda net: (torch.zeros(2, nets.FEATURES),), to_onnx, "points", "logits"
)

NOT_A_FAMILY = new

# Its exporter writes another net than it is given.
BROKEN = replace(FAMILY, name="broken", export=lambda net: to_onnx(new(seed=99)))


class _Scaled(nn.Sequential):
    """Takes a factor that it can do without."""

    def forward(  # type: ignore[override]
        self, points: torch.Tensor, factor: torch.Tensor | None = None
    ) -> torch.Tensor:
        found = super().forward(points)
        return found if factor is None else found * factor


def _with_factor(net: nn.Module) -> ir.Model:
    example, names = TWO.example(net), ["points", "factor"]
    return export(net, example, dynamic_shapes=({0: "batch"}, None), input_names=names, output_names=["logits"])


# Its example has two inputs, and its data one.
TWO = replace(
    FAMILY,
    name="two",
    new=lambda seed=0, **options: _Scaled(*new(seed, **options)),  # type: ignore[misc]
    example=lambda net: (torch.zeros(2, nets.FEATURES), torch.ones(1)),
    export=_with_factor,
)
