"""What a weight is worth to its own layer's output, from the second moments of the layer's input.

``C = E[x x^T] + lambda I`` with ``lambda = 1e-3 mean diag C``; for convolutions x is a patch of the padded input, for
those in groups there is one C for each. The output of a row w changes by ``(w - w')^T C (w - w')`` in the mean square.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.calibrate.moments import SecondMoment
from graphopt.train.prune.layers import Layer, as_tensor, matrix, rows, unmatrix
from graphopt.train.prune.scores.inputs import Batches, Loss, Scores, Weights, some

DAMPING = 1e-3
"""lambda, relative to the mean of the diagonal."""

T = TypeVar("T")


def covariance(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``w_k^2 / [C^-1]_kk``: how much the output changes if w_k goes and the rest of its row makes up for it.

    This is the least that is left after the row was fitted again by least squares (Hassibi and Stork 1993, "Optimal
    Brain Surgeon", for the squared error of a layer; US 11,907,843). It is in units of the layer's output: to compare
    layers, divide by each one's mean (``PruneSettings.normalise``).
    """
    moments = _over_inputs(weights, batches, loss, lambda found: SecondMoment.of(found))
    scores: Scores = {}
    for name in list(moments):
        moment = moments.pop(name)
        layer, parameter = weights.layers[name][0], weights.parameters[name]
        scores[name] = _weighted(layer, parameter, removal(moment.matrix / max(moment.count, 1)))
    return scores


def removal(c: np.ndarray) -> np.ndarray:
    """Return ``1 / [C^-1]_kk`` for ``C = c + lambda I``: ``[groups, K]`` from ``[groups, K, K]``; 0 where c is 0."""
    mean = np.einsum("gkk->gk", c).mean(axis=1)[:, None, None] if c.size else np.ones((len(c), 1, 1))
    # The unit of c is taken out first: how well the inverse is computed does not depend on it.
    relative = np.divide(c, mean, out=np.zeros_like(c), where=mean > 0) + DAMPING * np.eye(c.shape[2])
    return mean[:, :, 0] / np.einsum("gkk->gk", np.linalg.inv(relative))


def diagonal(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``w_k^2 C_kk``: how much the output changes if w_k goes and nothing makes up for it.

    The cheap fallback: K numbers a layer instead of K^2. (Sun et al. 2023, "Wanda", arXiv 2306.11695, ranks by its
    square root.)
    """
    powers = _over_inputs(weights, batches, loss, _Powers.of)
    scores: Scores = {}
    for name, power in powers.items():
        c = power.total / max(power.count, 1)
        damped = c + DAMPING * c.mean(axis=1, keepdims=True)
        scores[name] = _weighted(weights.layers[name][0], weights.parameters[name], damped)
    return scores


class _Powers:
    """Sums of squares over rows, ``[groups, K]``; ``a + b`` is that of both."""

    def __init__(self, count: int, total: np.ndarray) -> None:
        self.count, self.total = count, total

    @classmethod
    def of(cls, found: np.ndarray) -> _Powers:
        return cls(found.shape[1], np.einsum("gnk,gnk->gk", found, found, dtype=np.float64))

    def __add__(self, other: _Powers) -> _Powers:
        return _Powers(self.count + other.count, self.total + other.total)


def _weighted(layer: Layer, parameter: nn.Parameter, importance: np.ndarray) -> Tensor:
    """Return ``w^2`` times ``[groups, K]``, the same for every row of a group, in the shape of the weight."""
    squares = matrix(layer, parameter.detach().cpu().double() ** 2).numpy()
    return unmatrix(layer, as_tensor(squares * importance[:, None], parameter))


@torch.no_grad()
def _over_inputs(weights: Weights, batches: Batches, loss: Loss, of: Callable[[np.ndarray], T]) -> dict[str, T]:
    """Return ``of`` the rows that each weight is multiplied with, added up over calls, layers and batches."""
    found: dict[str, T] = {}

    def look(name: str, layer: Layer, x: Tensor) -> None:
        for some_rows in rows(layer, x):
            one = of(some_rows)
            found[name] = found[name] + one if name in found else one  # type: ignore[operator]

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        return lambda module, args, named: look(name, module, args[0] if args else named["input"])  # type: ignore[arg-type]

    handles = [
        layer.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, some in weights.layers.items()
        for layer in some
    ]
    samples = 0
    try:
        for inputs, targets in batches:
            samples += len(targets)
            loss(weights.net, inputs, targets)
    finally:
        for handle in handles:
            handle.remove()
    some(samples)
    for name, users in weights.layers.items():
        if name not in found:  # a layer that nothing calls: its weights are worth nothing
            shape = matrix(users[0], weights.parameters[name].detach()).shape
            found[name] = of(np.zeros((shape[0], 0, shape[2])))
    return found
