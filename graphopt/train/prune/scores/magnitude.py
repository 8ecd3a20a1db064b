"""How large a weight is: the baseline, which looks at no data."""

from __future__ import annotations

from graphopt.train.prune.scores.inputs import Batches, Loss, Scores, Weights


def magnitude(weights: Weights, batches: Batches, loss: Loss) -> Scores:
    """Return ``|w|`` of every weight (Han et al. 2015, "Learning both Weights and Connections", arXiv 1506.02626)."""
    return {name: parameter.detach().abs() for name, parameter in weights.parameters.items()}
