"""Values that no scale fits: what computes them, and what reads them, stays in float.

An attention mask adds ``-inf``, or a number such as -1e38, to scores of size one; the few levels of an integer type
then tell masked from not masked, and every score is the same. The squared error does not see it: next to the mask it
is nothing. What tells is how many levels are in use besides the commonest one.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.solve import Parameters
from graphopt.quantization.placement import Activation
from graphopt.quantization.state import State

FEWEST = 3.0
"""Levels in use (the exponential of their entropy) that a value of many different numbers needs."""

COARSE = 16
"""A type of so few levels was chosen by somebody who knows."""


def unfit(state: State) -> dict[ir.Node, str]:
    """Return the nodes of the placement that have to stay in float, and why."""
    found: dict[ir.Node, str] = {}
    for value, row in state.placement.activations.items():
        reason = _reason(row, state.histograms[str(value.name)], state.parameters[value])
        if reason is None:
            continue
        producer = value.producer()
        around = [use.node for use in value.uses()] + ([producer] if producer is not None else [])
        for node in [one for near in around for one in (near, *_absorbing(near))]:
            if node in state.placement.nodes:
                found[node] = f"{reason} in {value.name}"
    return found


def _absorbing(node: ir.Node) -> list[ir.Node]:
    """Return who writes what a Relu or Clip reads, into whose kernel it may go."""
    found: list[ir.Node] = []
    while node.op_type in ("Relu", "Clip") and node.inputs[0] is not None:
        before = node.inputs[0].producer()
        if before is None:
            break
        found.append(before)
        node = before
    return found


def _reason(row: Activation, seen: Histogram, found: Parameters) -> str | None:
    if seen.infinities:
        return f"{seen.infinities} of {seen.infinities + seen.count} numbers are infinite"
    if seen.distinct is not None or row.grid.levels <= COARSE:
        return None
    used = levels_in_use(seen, row.grid, found)
    return f"the range is so wide that the numbers fall on {used:.0f} levels" if used < FEWEST else None


def levels_in_use(seen: Histogram, grid: Grid, found: Parameters) -> float:
    """Return ``1 + exp(entropy)`` of the levels besides the commonest one; 1 where there is no other."""
    x, n = seen.points()
    steps = np.clip(np.rint(x / float(found.scale)) + float(found.zero_point), grid.low, grid.high)
    _, place = np.unique(steps, return_inverse=True)
    counts = np.bincount(place, weights=n)
    rest = np.delete(counts, np.argmax(counts)) if counts.size else counts
    rest = rest[rest > 0]
    if not rest.size:
        return 1.0
    share = rest / rest.sum()
    return 1.0 + math.exp(-float((share * np.log(share)).sum()))
