"""How well the approximations rank weights, on a small net that has converged."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from graphopt.models.data import digits
from tests.train.prune.nets import together


def decayed(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """What training minimises: cross entropy, and weight decay, which gives it a minimum at finite weights."""
    return cross_entropy(net(inputs), targets) + 5e-4 * sum(one.square().sum() for one in net.parameters())


@pytest.fixture(scope="module")
def converged() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A net and digits of 4x4 pixels."""
    train = digits.load(train=600).train
    inputs, labels = avg_pool2d(train.inputs.double(), 2).flatten(1), train.targets
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, history_size=30, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = decayed(net, inputs, labels)
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    slope = max(float(parameter.grad.abs().max()) for parameter in net.parameters() if parameter.grad is not None)
    assert slope < 2e-3, f"not converged: {slope}"
    return net, (inputs, labels)


def test_obd_ranks_as_the_loss_does(converged: tuple[nn.Module, tuple[Tensor, Tensor]]) -> None:
    """Spearman's correlation with ``exact``: at least 0.8 with the Hessian's diagonal; the Fisher form beside it."""
    from graphopt.train.prune.scores import score

    net, batch = converged

    def scores(name: str, **options: str) -> Tensor:
        return together(score(name, net, [batch], decayed, **options))  # type: ignore[arg-type]

    truth = scores("exact")

    def correlation(found: Tensor) -> float:
        return float(spearmanr(truth, found).statistic)  # type: ignore[attr-defined]

    hessian, fisher = correlation(scores("obd", curvature="hessian")), correlation(scores("obd"))
    assert hessian >= 0.95  # 0.998
    assert fisher >= 0.8  # 0.98
    assert max(correlation(scores(name)) for name in ("magnitude", "taylor")) < 0.9, "a near miss: 0.78 and less"
