"""How well the approximations rank weights, on a small net that has converged."""

from __future__ import annotations

from statistics import mean

import pytest
from scipy.stats import spearmanr
from torch import Tensor

from tests.train.prune.converged import Converged, converged
from tests.train.prune.nets import together


@pytest.fixture(scope="module")
def small() -> Converged:
    found = converged(seed=0, decay=1e-3)
    slope = max(float(one.grad.abs().max()) for one in found.net.parameters() if one.grad is not None)
    assert slope < 2e-3, f"not converged: {slope}"
    return found


def correlation(small: Converged, name: str, **options: str) -> float:
    """Spearman's, of a score with ``exact``."""
    from graphopt.train.prune.scores import score

    def scores(name: str, **options: str) -> Tensor:
        return together(score(name, small.net, [small.batch], small.loss, **options))  # type: ignore[arg-type]

    return float(spearmanr(scores("exact"), scores(name, **options)).statistic)  # type: ignore[attr-defined]


def test_obd_ranks_as_the_loss_does(small: Converged) -> None:
    """At least 0.8 with the Hessian's diagonal; the Fisher form beside it."""
    assert correlation(small, "obd", curvature="hessian") >= 0.95  # 0.998
    assert correlation(small, "obd") >= 0.8  # 0.98
    assert max(correlation(small, name) for name in ("magnitude", "taylor")) < 0.9, "a near miss: 0.78 and less"


def test_without_weight_decay_obd_does_so_on_average() -> None:
    """A net that fits its data has no minimum at finite weights: single seeds may be below."""
    every = [converged(seed, decay=0.0) for seed in range(5)]
    assert mean(correlation(small, "obd", curvature="hessian") for small in every) >= 0.8  # 0.86
    assert mean(correlation(small, "magnitude") for small in every) < 0.7, "a near miss: 0.53"
