"""What a weight is worth to second order, where the gradient is zero: ``h_kk w^2 / 2``.

LeCun, Denker and Solla 1989, "Optimal Brain Damage". With ``h_kk`` from the empirical Fisher information, the mean over
samples of the squared gradient of a sample's loss, it is the diagonal of what "WoodFisher" (Singh and Alistarh 2020,
arXiv 2004.14340) uses. That equals the Hessian only where the net's probabilities are those of the data.
"""

from __future__ import annotations

import torch

from graphopt.train.prune.scores.inputs import Batches, Loss, Scores, Weights, some, sums_of


def obd(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``h_kk w^2 / 2`` with ``h_kk`` the mean of the squared gradients of single samples.

    One sample after the other: exact whatever the net does with its weights (ties, functions, attention), and no
    memory beyond one gradient. ``torch.func.vmap`` over samples was measured: 13 times slower for a small
    convolutional net on a CPU.
    """
    parameters = list(weights.parameters.values())
    sums = [sums_of(parameter) for parameter in parameters]
    samples = 0
    for inputs, targets in batches:
        samples += len(targets)
        for i in range(len(targets)):
            one = loss(weights.net, inputs[i : i + 1], targets[i : i + 1])
            gradients = torch.autograd.grad(one, parameters, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums, gradients, strict=True):
                wide = gradient.to(total.dtype)
                total.addcmul_(wide, wide)
    number = some(samples)
    return {
        name: (total / number * parameter.detach() ** 2 / 2).to(parameter)
        for (name, parameter), total in zip(weights.parameters.items(), sums, strict=True)
    }


def obd_hessian(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``max(h_kk, 0) w^2 / 2`` with ``h_kk`` the diagonal of the Hessian of the mean loss, exactly.

    A row of the Hessian for each weight, by a second derivative: for tests and small nets. Where the loss bends down
    (``h_kk < 0``, as it may before training has converged) the score is zero.
    """
    sums = {name: sums_of(parameter) for name, parameter in weights.parameters.items()}
    samples = 0
    for inputs, targets in batches:
        samples += len(targets)
        parameters = list(weights.parameters.values())
        first = torch.autograd.grad(
            loss(weights.net, inputs, targets), parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        for (name, parameter), gradient in zip(weights.parameters.items(), first, strict=True):
            if not gradient.requires_grad:  # the loss is linear in it, or does not depend on it
                continue
            flat = gradient.reshape(-1)
            second = torch.stack([_second(flat[k], parameter).reshape(-1)[k] for k in range(len(flat))])
            sums[name] += len(targets) * second.reshape(parameter.shape)
    number = some(samples)
    return {
        name: ((sums[name] / number).clamp_min(0) * parameter.detach() ** 2 / 2).to(parameter)
        for name, parameter in weights.parameters.items()
    }


def _second(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    (row,) = torch.autograd.grad(gradient, parameter, retain_graph=True, allow_unused=True, materialize_grads=True)
    return row
