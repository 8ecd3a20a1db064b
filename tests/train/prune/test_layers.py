"""A layer is a matrix times patches of its input, whatever its stride, padding, dilation and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graphopt.train.prune.layers import Layer, layers, matrix, outputs_axis, rows, unmatrix

CASES: list[tuple[Layer, tuple[int, ...]]] = [
    (nn.Linear(5, 3, bias=False), (7, 5)),
    (nn.Linear(1, 1, bias=False), (2, 3, 1)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), (3, 4, 11)),
    (nn.Conv2d(3, 5, 3, bias=False), (2, 3, 7, 5)),
    (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, bias=False), (1, 4, 9, 6)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), (2, 2, 5, 5)),
    (nn.Conv2d(2, 3, 4, padding="same", bias=False), (2, 2, 5, 6)),
    (nn.Conv2d(2, 3, 2, padding="valid", padding_mode="circular", bias=False), (2, 2, 5, 6)),
    (nn.Conv2d(2, 3, 1, stride=3, bias=False), (1, 2, 7, 7)),
    (nn.Conv3d(2, 4, 2, padding=1, groups=2, bias=False), (2, 2, 3, 4, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False), (2, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 3, stride=(2, 3), dilation=(1, 2), bias=False), (2, 3, 4, 3)),
    (nn.ConvTranspose2d(3, 2, 2, padding=2, bias=False), (2, 3, 5, 6)),  # the padding crops
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("layer", "shape"), CASES, ids=[str(layer) for layer, _ in CASES])
def test_matrix_times_rows_is_the_layer(layer: Layer, shape: tuple[int, ...]) -> None:
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = matrix(layer, layer.weight.detach()).numpy()
    patches = np.concatenate(list(rows(layer, x)), axis=1)
    y = weight @ patches.transpose(0, 2, 1)  # [groups, rows, n]
    expected = layer(x).detach()
    expected = (expected.movedim(-1, 0) if isinstance(layer, nn.Linear) else expected.movedim(1, 0)).flatten(1)
    np.testing.assert_allclose(y.reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-12)
    assert torch.equal(unmatrix(layer, matrix(layer, layer.weight)), layer.weight)
    outputs = layer.weight.shape[outputs_axis(layer)]
    assert outputs == (expected.shape[0] // (layer.groups if isinstance(layer, nn.ConvTranspose1d) else 1))


def test_a_sample_without_a_batch_axis() -> None:
    layer = nn.Conv1d(2, 3, 3, padding=1)
    x = torch.randn(2, 5)
    assert np.array_equal(next(rows(layer, x)), next(rows(layer, x[None])))


def test_no_samples_have_no_rows() -> None:
    assert list(rows(nn.Conv2d(2, 3, 3), torch.zeros(0, 2, 5, 5))) == []
    assert list(rows(nn.Linear(2, 3), torch.zeros(0, 2))) == []


class Tied(nn.Module):
    """Two layers that share a weight, one that is frozen, an embedding and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen.weight.requires_grad_(False)
        self.table, self.norm = nn.Embedding(5, 3), nn.LayerNorm(3)
        self.body = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1))


def test_which_weights_are_pruned() -> None:
    net = Tied()
    assert {name: len(users) for name, users in layers(net).items()} == {
        "first.weight": 2,
        "body.0.weight": 1,
        "body.1.weight": 1,
    }
    assert list(layers(net, ["body.1"])) == ["first.weight", "body.0.weight"]
    assert list(layers(net, ["body.*"])) == ["first.weight"]
    assert list(layers(net, ["*.weight"])) == []
    assert list(layers(net, ["body"])) == list(layers(net)), "a name is not a prefix"
