"""The inverse-covariance criterion: the least error that is left when a weight goes and the others are fitted again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.train.prune.layers import Layer
from graphopt.train.prune.scores import score
from graphopt.train.prune.scores.covariance import DAMPING, removal


def nothing(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The covariance of inputs does not depend on a loss; running the net is what it needs."""
    return net(inputs).mean()


def case(seed: int) -> tuple[nn.Linear, Tensor]:
    """A row of weights and correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    k = int(torch.randint(2, 12, (1,), generator=generator))
    mixed = torch.randn(k, k, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, k, generator=generator, dtype=torch.float64) @ mixed
    layer = nn.Linear(k, 1, bias=False).double()
    with torch.no_grad():
        sizes = 1 + 0.5 * torch.rand(1, k, generator=generator)  # alike, so that size alone does not decide
        layer.weight.copy_(sizes * torch.randn(1, k, generator=generator).sign())
    return layer, inputs


def refitted(layer: nn.Linear, inputs: Tensor) -> np.ndarray:
    """The mean squared error of the output after each weight was deleted and the rest fitted by least squares."""
    output, errors = (inputs @ layer.weight[0]).detach(), []
    for k in range(inputs.shape[1]):
        rest = inputs[:, [i for i in range(inputs.shape[1]) if i != k]]
        fit = torch.linalg.lstsq(rest, output[:, None]).solution
        errors.append(float((rest @ fit - output[:, None]).square().mean()))
    return np.array(errors)


def test_it_picks_the_weight_that_brute_force_picks() -> None:
    """50 of 50; the scores without the inverse pick another one in many of them."""
    same = {"covariance": 0, "diagonal": 0, "magnitude": 0}
    for seed in range(50):
        layer, inputs = case(seed)
        best = int(refitted(layer, inputs).argmin())
        for name in same:
            found = score(name, layer, [(inputs, torch.zeros(len(inputs)))], nothing)["weight"]
            same[name] += int(found.argmin()) == best
    assert same["covariance"] == 50
    assert max(same["diagonal"], same["magnitude"]) < 40, same


def test_it_is_that_error_up_to_the_damping() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 5, dtype=torch.float64) * torch.tensor([1.0, 1.2, 0.8, 1.0, 0.9])
    layer = nn.Linear(5, 1, bias=False).double()
    found = score("covariance", layer, [(inputs, torch.zeros(400))], nothing)["weight"][0]
    np.testing.assert_allclose(found.numpy(), refitted(layer, inputs), rtol=5e-3)


CONVOLUTIONS: list[Layer] = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, 3, stride=(1, 2), padding=(2, 0), dilation=2, groups=2),
    nn.Conv2d(4, 4, 2, padding=1, groups=4),
    nn.Conv2d(4, 3, 1, bias=False),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("name", ["covariance", "diagonal"])
def test_patches_are_those_of_unfold(layer: nn.Conv2d, name: str) -> None:
    layer = layer.double()
    x = torch.randn(5, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    found = score(name, layer, [(x[:2], torch.zeros(2)), (x[2:], torch.zeros(3))], nothing)["weight"]
    patches = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    k = 4 // layer.groups * taps
    grouped = patches.unflatten(1, (layer.groups, k))
    for group, weight in enumerate(layer.weight.detach().flatten(1).chunk(layer.groups)):
        part = grouped[:, group].movedim(1, 2).reshape(-1, k)
        c = part.T @ part / len(part)
        c += DAMPING * c.diagonal().mean() * torch.eye(k)
        worth = 1 / torch.linalg.inv(c).diagonal() if name == "covariance" else c.diagonal()
        there = found.flatten(1).chunk(layer.groups)[group]
        torch.testing.assert_close(there, weight**2 * worth, rtol=1e-9, atol=0)


def test_covariance_is_never_above_diagonal() -> None:
    """What is left after the others made up for it is at most what is left if they do not."""
    torch.manual_seed(0)
    layer = nn.Conv1d(3, 4, 3, padding=1)
    batches = [(torch.randn(8, 3, 10), torch.zeros(8))]
    less, more = (score(name, layer, batches, nothing)["weight"] for name in ("covariance", "diagonal"))
    assert (less <= more * (1 + 1e-5)).all() and (less < 0.9 * more).any()


def test_inputs_that_are_always_zero() -> None:
    """All of them: nothing is worth anything. One of them: its weight is worth the damping alone."""
    layer = nn.Linear(3, 2)
    assert (score("covariance", layer, [(torch.zeros(4, 3), torch.zeros(4))], nothing)["weight"] == 0).all()
    inputs = torch.randn(50, 3) * torch.tensor([1.0, 0.0, 1.0])
    found = score("covariance", layer, [(inputs, torch.zeros(50))], nothing)["weight"]
    relative = found / layer.weight.detach() ** 2
    assert (relative[:, 1] < 2e-3).all() and (relative[:, [0, 2]] > 0.1).all()


def test_the_unit_of_the_inputs_does_not_matter() -> None:
    """1e-12 and 1e12 in front of the second moments come out as they went in."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 40, 6))
    c = x.transpose(0, 2, 1) @ x
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(removal(c * scale), removal(c) * scale, rtol=1e-9)
    assert removal(np.zeros((2, 0, 0))).shape == (2, 0)


def test_memory_does_not_grow_with_samples() -> None:
    """What is kept of ten times the samples is as large: sums, no rows."""
    import tracemalloc

    layer = nn.Conv2d(3, 4, 3, padding=1)

    def peak(batches: int) -> int:
        generator = torch.Generator().manual_seed(0)
        stream = ((torch.randn(16, 3, 16, 16, generator=generator), torch.zeros(16)) for _ in range(batches))
        tracemalloc.start()
        score("covariance", layer, stream, nothing)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(1)
    few, many = peak(2), peak(20)
    assert many < 1.1 * few
