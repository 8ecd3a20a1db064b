"""Biases are int32 with scale ``s_x s_w``: the scale of a weight must leave room for the bias of its channel.

``|b| / (s_x s_w) + K max|q_x - z_x| max|q_w| <= 2**31 - 1`` keeps the bias, and the sum it is added to, from wrapping
round. A channel whose weights are so small that this does not hold (a pruned or nearly dead one) gets a larger scale:
next to such a bias its weights count for nothing. A channel whose weights are all zero may have any scale, and gets one
that holds its bias with all the digits of a float.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.rounding import squared_error
from graphopt.calibrate.solve import Parameters
from graphopt.facts.constants import Constants
from graphopt.quantization.placement import Bias, Placement, Weight

ROOM = 2.0**31 - 1
"""The largest int32."""

DIGITS = 2.0**24
"""A float32 has so many steps: the bias of a channel without weights is rounded no coarser."""

TINIEST = 2.0**-100
"""Products of scales stay above this, far from where float32 loses digits."""


def fit(placement: Placement, found: MutableMapping[ir.Value, Parameters], constants: Constants) -> list[ir.Value]:
    """Widen the scales of weights whose biases would not fit, in place; return the weights that changed."""
    by_weight: dict[ir.Value, list[Bias]] = {}
    for bias in placement.biases:
        by_weight.setdefault(bias.weight, []).append(bias)
    return [
        weight
        for weight, rows in by_weight.items()
        if weight in placement.weights and _fit(placement, placement.weights[weight], rows, found, constants)
    ]


def _fit(
    placement: Placement,
    weight: Weight,
    biases: list[Bias],
    found: MutableMapping[ir.Value, Parameters],
    constants: Constants,
) -> bool:
    own = found[weight.value]
    shape = np.shape(own.scale)
    least = np.zeros(shape)
    empty = np.broadcast_to(np.asarray(own.power) == 0, shape)
    for bias in biases:
        array = constants.array(bias.value)
        grid = placement.activations[bias.activation].grid
        scale = float(found[bias.activation].scale)
        assert array is not None
        size = np.abs(array.astype(np.float64)).reshape(-1)
        needed = size if shape and size.size == shape[0] else np.broadcast_to(size.max(initial=0.0), shape)
        terms = (constants.size(weight.value) or 0) // max(size.size, 1)
        sums = terms * (grid.high - grid.low) * max(abs(weight.grid.low), abs(weight.grid.high))
        room = np.where(empty, DIGITS, max(ROOM - sums, ROOM / 2))
        least = np.maximum(least, np.maximum(needed / room, TINIEST) / scale)
    least = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    scale = np.asarray(own.scale, np.float32)
    wider = np.where(empty, least, np.maximum(scale, least))
    if np.array_equal(wider, scale):
        return False
    array = constants.array(weight.value)
    assert array is not None
    found[weight.value] = replace(own, scale=wider, mse=_errors(array, weight, own, wider))
    constants.release(weight.value)
    return True


def _errors(array: np.ndarray, weight: Weight, own: Parameters, scale: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each channel (or of all) at another scale."""
    rows = array.reshape(1, -1)
    if scale.ndim and weight.axis is not None:
        rows = np.moveaxis(array, weight.axis, 0).reshape(array.shape[weight.axis], -1)
    found = np.array(own.mse, np.float64).reshape(-1)
    wider = np.flatnonzero((scale != own.scale) & (np.asarray(own.power) > 0))  # a row of zeros has no error
    found[wider] = squared_error(
        rows[wider], scale.reshape(-1)[wider], np.asarray(own.zero_point).reshape(-1)[wider], weight.grid
    )
    return found.reshape(np.shape(own.mse))
