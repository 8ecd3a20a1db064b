"""Scales: those of ``graphopt.calibrate``, which lose the least squared error of what a tensor really holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.calibrate.accumulator import Accumulator
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.solve import Constraint, Parameters, solve, solve_rows
from graphopt.errors import GraphoptError
from graphopt.train.quantize.quantizers import ValueQuantizer

CENTRED = Constraint(zero_point=0)
"""Weights have the zero point 0: integer kernels want it, and a sum costs no correction for it."""


def of_filters(weight: Tensor, grid: Grid, *, per_filter: bool = True) -> Parameters:
    """Return scales ``[out]`` of a weight ``[out, ...]`` with the least squared error of each filter (or of all)."""
    rows = rows_of(weight)
    if per_filter or not rows.size:
        return solve_rows(rows, grid, CENTRED)
    found = solve_rows(rows.reshape(1, -1), grid, CENTRED)
    scale, zero, mse, power = (
        np.repeat(one, len(rows)) for one in (found.scale, found.zero_point, found.mse, found.power)
    )
    return Parameters(scale, zero, mse, power, found.method)


def rows_of(weight: Tensor) -> np.ndarray:
    """Return a weight ``[out, ...]`` as float32 ``[out, K]``."""
    array = weight.detach().float().cpu().numpy()
    return array.reshape(len(array), math.prod(array.shape[1:]))


def of_values(quantizer: ValueQuantizer, histogram: Histogram, name: str) -> Parameters:
    """Return scale and zero point of a value for what it held.

    Raises:
        GraphoptError: It held NaN or infinities.
    """
    if histogram.nans or histogram.infinities:
        raise GraphoptError(
            f"{histogram.nans} NaN and {histogram.infinities} infinities in an activation", name, "train it less boldly"
        )
    return solve(histogram, quantizer.grid, quantizer.constraint)


@torch.no_grad()
def histograms(
    net: nn.Module, quantizers: dict[str, ValueQuantizer], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Histogram]:
    """Run the net in eval mode; return what came by at each of some quantizers, all channels of it."""
    net.eval()
    with _counting(quantizers) as counted:
        for inputs, _ in batches:
            net(inputs)
    return {name: one.result() for name, one in counted.items()}


@contextmanager
def _counting(quantizers: dict[str, ValueQuantizer]) -> Iterator[dict[str, Accumulator]]:
    counted = {name: Accumulator() for name in quantizers}
    for name, one in quantizers.items():
        one.seen = counted[name]
    try:
        yield counted
    finally:
        for one in quantizers.values():
            one.seen = None
