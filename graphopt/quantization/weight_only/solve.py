"""Scales and zero points of blocks of weights, and the integers that follow: numbers for one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import FREE, Constraint, Method, Parameters, solve_rows
from graphopt.context import Context
from graphopt.quantization.placement import Placement, Weight
from graphopt.quantization.request import Request
from graphopt.quantization.weight_only.layout import blocked, restored, to_rows
from graphopt.quantization.weight_only.rounding import CHUNK, rounded
from graphopt.quantization.weight_only.search import best_scale
from graphopt.quantization.weight_only.sweep import best_scale as exactly
from graphopt.quantization.weight_only.table import TABLE

Progress = Callable[[str, int, int], None]

FEW = 4
"""Up to so many levels the best scale is found exactly: there are few events to sort."""

ZEROS = 1
"""Zero points this far from the one that covers the range are tried."""


def solved(
    context: Context,
    placement: Placement,
    request: Request,
    progress: Progress | None = None,
    *,
    known: Container[ir.Value] = (),
) -> dict[ir.Value, Parameters]:
    """Return the parameters of the weights of a placement that are not known."""
    found = {}
    missing = [weight for value, weight in placement.weights.items() if value not in known]
    for number, weight in enumerate(missing):
        if progress is not None:
            progress("quantizing weights", number, len(missing))
        array = context.constants.array(weight.value)
        assert array is not None
        found[weight.value] = of_weight(array, weight, request)
        context.constants.release(weight.value)
    return found


def may_turn(weight: Weight, request: Request) -> bool:
    """Tell whether every operator that reads a weight takes negative scales."""
    return all(any(form.turned for form in TABLE[request.target].get(node.op_type, ())) for node, _ in weight.readers)


def of_weight(array: np.ndarray, weight: Weight, request: Request) -> Parameters:
    """Return the parameters of a weight: ``[rows, ceil(K / B)]`` with blocks, else ``[channels]``.

    The scale is float32 with a value that the weight's own type has, because it is stored in that type.
    """
    if not weight.block:
        assert weight.axis is not None
        rows = np.moveaxis(array, weight.axis, 0).reshape(array.shape[weight.axis], -1)
        found = solve_rows(rows, weight.grid, weight.constraint, method=request.method)
        return found
    rows = to_rows(array, weight.axis or 0)
    turned = may_turn(weight, request) and request.method != "minmax"
    scale, zero = of_rows(
        rows, weight.block, weight.grid, weight.constraint, request.method, turned=turned, dtype=array.dtype
    )
    return measured(rows, scale, zero, weight, request.method)


def of_rows(
    rows: np.ndarray,
    block: int,
    grid: Grid,
    constraint: Constraint,
    method: Method,
    *,
    turned: bool = False,
    dtype: np.dtype | type = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, zero point), ``[rows, ceil(K / B)]``, of rows ``[rows, K]``.

    Args:
        rows: The weights.
        block: ``B``.
        grid: Their type.
        constraint: Its zero point may be fixed.
        method: ``mse`` finds the least squared error; ``minmax`` covers the range.
        turned: A symmetric type may be turned round, by a negative scale.
        dtype: The type that scales are stored in.
    """
    blocks = blocked(rows.astype(np.float32), block)
    shape = blocks.shape[:2]
    flat = blocks.reshape(-1, block)
    if method in ("percentile", "entropy"):
        found = solve_rows(flat, grid, constraint, method=method)
        scale, zero = found.scale.astype(np.float64), found.zero_point
    elif method == "minmax":
        scale, zero = _covering(flat, grid, constraint)
    elif constraint.zero_point is not None:
        scale, zero = _around(flat, grid, int(constraint.zero_point), turned)
    else:
        scale, zero = _free(flat, grid)
    scale = scale.astype(dtype).astype(np.float32)
    scale[scale == 0] = 1.0  # nothing but zeros, or numbers below what the type of the scale can tell from zero
    return scale.reshape(shape), zero.reshape(shape).astype(np.int16)


def codes_of(rows: np.ndarray, found: Parameters, weight: Weight) -> np.ndarray:
    """Return the integers of rows ``[rows, K]``, int16: those of a product so that the errors of a row cancel out.

    ``minmax`` rounds each weight to its nearest level and nothing else.
    """
    copied = any(node.op_type == "Gather" for node, _ in weight.readers)
    balanced = not copied and found.method != "minmax"
    return rounded(rows, found.scale, found.zero_point, weight.block, weight.grid, balanced=balanced)


def measured(
    rows: np.ndarray, scale: np.ndarray, zero: np.ndarray, weight: Weight, method: str, codes: np.ndarray | None = None
) -> Parameters:
    """Return parameters with the error that they leave: numbers for the whole weight, not for each block."""
    found = Parameters(scale, zero, np.zeros(()), np.zeros(()), method)
    noise = power = 0.0
    count, size = rows.shape
    step = max(1, CHUNK // max(1, size))
    for first in range(0, count, step):
        part = slice(first, first + step)
        w = rows[part].astype(np.float32)
        some = replace(found, scale=scale[part], zero_point=zero[part])
        q = codes_of(w, some, weight) if codes is None else codes[part]
        error = restored(q, scale[part], zero[part], weight.block) - w
        noise += float(np.sum(error * error, dtype=np.float64))
        power += float(np.sum(w * w, dtype=np.float64))
    return replace(found, mse=np.asarray(noise / max(rows.size, 1)), power=np.asarray(power / max(rows.size, 1)))


def _covering(flat: np.ndarray, grid: Grid, constraint: Constraint) -> tuple[np.ndarray, np.ndarray]:
    """The range ``[min(w, 0), max(w, 0)]`` just fits."""
    low, high = flat.min(axis=1).clip(max=0).astype(np.float64), flat.max(axis=1).clip(min=0).astype(np.float64)
    if constraint.zero_point is not None:
        zero = np.full(len(flat), constraint.zero_point)
    else:
        step = np.where(high > low, (high - low) / (grid.high - grid.low), 1.0)
        zero = np.clip(np.rint(grid.low - low / step), grid.low, grid.high).astype(np.int64)
    above, below = grid.high - zero, zero - grid.low
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.fmax(np.where(above > 0, high / above, 0), np.where(below > 0, -low / below, 0))
    return scale, zero


def _around(flat: np.ndarray, grid: Grid, zero: int, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """The zero point is given; the range may be turned round."""
    best = exactly if grid.levels <= FEW else best_scale
    below, above = zero - int(grid.low), int(grid.high) - zero
    scale, error = best(flat, below, above)
    if turned and below != above:
        other, smaller = best(flat, above, below)
        scale = np.where(smaller < error, -other, scale)
    return scale, np.full(len(flat), zero)


def _free(flat: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Zero points beside the one that covers the range, each with its best scale."""
    _, centre = _covering(flat, grid, FREE)
    scale, least, zero = np.zeros(len(flat)), np.full(len(flat), np.inf), centre.copy()
    low, high = int(grid.low), int(grid.high)
    for offset in (0, *range(-ZEROS, 0), *range(1, ZEROS + 1)):
        candidate = np.clip(centre + offset, low, high)
        own, error = best_scale(flat, candidate - low, high - candidate)
        better = error < least
        scale[better], least[better], zero[better] = own[better], error[better], candidate[better]
    return scale, zero
