"""How important each weight is: the change of the loss if it were removed, in several approximations.

::

    exact       |L(w; w_k = 0) - L(w)|      exact.py       one run for each weight: for tests and small nets
    taylor      |g w|                       taylor.py      first order
    obd         h_kk w^2 / 2                obd.py         second order; h_kk by the empirical Fisher information
    covariance  w_k^2 / [C^-1]_kk           covariance.py  of the layer's output, after a refit
    diagonal    w_k^2 C_kk                  covariance.py  of the layer's output
    magnitude   |w|                         magnitude.py   the baseline, without data
    surgery     |w| of weights that learn   surgery.py     prune and splice during training; a hook, not a score
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from graphopt.errors import UsageError, nearest
from graphopt.train.prune.layers import layers
from graphopt.train.prune.scores.covariance import covariance, diagonal
from graphopt.train.prune.scores.exact import exact
from graphopt.train.prune.scores.inputs import Batches, Loss, Scores, Weights
from graphopt.train.prune.scores.magnitude import magnitude
from graphopt.train.prune.scores.obd import obd, obd_hessian
from graphopt.train.prune.scores.taylor import taylor

__all__ = ["SCORES", "Batches", "Curvature", "Loss", "Scores", "score"]

SCORES: dict[str, Callable[[Weights, Batches, Loss], Scores]] = {
    "exact": exact,
    "taylor": taylor,
    "obd": obd,
    "covariance": covariance,
    "diagonal": diagonal,
    "magnitude": magnitude,
}

Curvature = Literal["fisher", "hessian"]


def score(
    name: str,
    net: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    exclude: Sequence[str] = (),
    curvature: Curvature = "fisher",
) -> Scores:
    """Return the importance of every weight of linear layers and convolutions: higher is more important.

    The net is put into eval mode and back; its weights and gradients stay as they are.

    Args:
        name: One of ``SCORES``.
        net: Any net.
        batches: Training data, gone through once: inputs as the net takes them, on its device, and targets.
        loss: Of net, inputs and targets: the mean over the batch.
        exclude: Names or globs of parameters or modules that are left out.
        curvature: For ``obd``: ``fisher`` (the empirical Fisher information), or ``hessian`` (exact; slow).

    Returns:
        By parameter name, a tensor of the parameter's shape, type and device.

    Raises:
        UsageError: No score has this name, or there is no data.
    """
    if name not in SCORES:
        meant = nearest(name, SCORES)
        hint = f"did you mean {meant}? " if meant else ""
        raise UsageError(f"unknown score '{name}'", help=f"{hint}known: {', '.join(SCORES)}")
    scored = layers(net, exclude)
    known = dict(net.named_parameters())
    weights = Weights(net, {one: known[one] for one in scored}, scored)
    compute = obd_hessian if (name, curvature) == ("obd", "hessian") else SCORES[name]
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        return compute(weights, batches, loss) if scored else {}
    finally:
        for module, training in modes.items():
            module.training = training
