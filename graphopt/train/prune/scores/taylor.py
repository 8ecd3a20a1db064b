"""What a weight is worth to first order."""

from __future__ import annotations

import torch

from graphopt.train.prune.scores.inputs import Batches, Loss, Scores, Weights, some, sums_of


def taylor(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``|g w|`` of every weight, g the gradient of the mean loss over all samples.

    (Molchanov et al. 2016, "Pruning Convolutional Neural Networks", arXiv 1611.06440.) The gradient of the mean is
    nearly zero where training has converged, and what is left of it is mostly noise. The mean of the squares over the
    samples, ``(g_n w)^2``, ranks as ``obd`` does with the empirical Fisher information, so it has no name of its own.
    """
    parameters = list(weights.parameters.values())
    sums = [sums_of(parameter) for parameter in parameters]
    samples = 0
    for inputs, targets in batches:
        samples += len(targets)
        gradients = torch.autograd.grad(
            loss(weights.net, inputs, targets), parameters, allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums, gradients, strict=True):
            total += len(targets) * gradient
    number = some(samples)
    return {
        name: (total / number * parameter.detach()).abs().to(parameter)
        for (name, parameter), total in zip(weights.parameters.items(), sums, strict=True)
    }
