"""Batch-norms are folded, and the net computes the same in eval mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.train.quantize.fold import folded
from tests.train.quantize import nets


def norms(net):
    return sum(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in net.modules())


@pytest.mark.parametrize(
    "net",
    [
        nets.Residual(), nets.Residual(7, 7), nets.Residual(1, 1), nets.Chain(), nets.Perceptron(5),
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)),
        nn.Sequential(nn.Conv1d(4, 5, 3, bias=False), nn.BatchNorm1d(5, affine=False)),
    ],
)  # fmt: skip
def test_folded_equals_the_net(net):
    nets.seeded(net)
    shape = getattr(net, "shape", (4, 9) if isinstance(next(iter(net.children())), nn.Conv1d) else (4,))
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    before = {name: one.clone() for name, one in net.state_dict().items()}
    found = folded(net, (x,))
    assert norms(found) == 0
    with torch.no_grad():
        torch.testing.assert_close(found(x), net(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)

    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Twice(), torch.randn(3, 2, 4)),  # the convolution has another reader
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), torch.randn(3, 5, 4)),  # the norm goes along another axis
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5)), torch.randn(3, 4)),  # nothing in front
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False)), torch.randn(3, 4)),
    ],
)
def test_what_cannot_be_folded_stays(net, x):
    nets.seeded(net)
    found = folded(net, (x,))
    assert norms(found) == 1
    with torch.no_grad():
        torch.testing.assert_close(found(x), net(x), rtol=0, atol=0)


def test_what_cannot_be_traced_is_an_error_that_says_what_to_do():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(GraphoptError, match="cannot trace") as caught:
        folded(Branching(), (torch.zeros(1, 2),))
    assert "torch.fx.wrap" in str(caught.value.help)


def test_what_a_net_knows_beside_its_weights_is_carried_over():
    assert folded(nets.Chain(), (torch.zeros(2, 2, 6, 6),)).shape == (2, 6, 6)


def test_what_its_class_knows_is_carried_over_too():
    class Known(nn.Sequential):
        shape = (3,)

        def twice(self):
            return 2

    found = folded(Known(nn.Linear(3, 2)), (torch.zeros(2, 3),))
    assert found.shape == (3,) and not hasattr(found, "twice")


def test_what_was_frozen_stays_frozen():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    net[1].requires_grad_(False)
    net[2].requires_grad_(False)  # its norm is trained
    found = folded(net, (torch.zeros(2, 2),))
    assert [one.requires_grad for one in found.parameters()] == [False, False, True, True, True, True]


def test_an_argument_that_may_be_missing_is_said_without_a_traceback(capsys):
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x, y=None):
            return self.one(x) + self.other(x if y is None else y)

    with pytest.raises(GraphoptError, match="traces it does not run"):
        folded(Optional(), (torch.zeros(2, 3),))
    folded(Optional(), (torch.zeros(2, 3), torch.zeros(2, 3)))  # near miss: all arguments are there
    assert capsys.readouterr().err == ""
