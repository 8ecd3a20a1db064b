"""What stands for nonzero constant channels in front of zero padding: a plane that stays anyway, a map, or one plane.

At the border of a convolution that pads with zeros, a constant channel contributes less than inside, so that it is no
bias. The ways to leave it out, cheapest first (``python -m tests.bench.planes``, decision 0015):

1. Some constant channel of the value stays anyway. It takes the weights ``sum_i c_i / c_j W[:, i]`` of all of them.
2. The sizes are known: a map ``[1, o, *t]`` is added behind the convolution. It is stored by kinds of windows
   (``facts/ops/borders.py``), not larger than the weights of one channel, and saves the channel in the producer too.
3. One channel is kept for all: one that other convolutions need too if possible, else the one of largest value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.facts.constants import stored
from graphopt.facts.ops.borders import kinds, windows
from graphopt.facts.ops.contraction import (
    Geometry,
    constants_at_border,
    geometry,
    input_channels,
    live_rows,
    read_inputs,
    weights_nonzero,
)
from graphopt.facts.store import Facts, Mask
from graphopt.facts.walk import demands

if TYPE_CHECKING:
    from graphopt.plan.classes import Plan

LEAST = 1 / 8
"""A constant may stand for others if it is not smaller than this share of the largest: rounding errors grow by 8."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A contraction that reads constants which do not contribute the same everywhere."""

    node: ir.Node
    geo: Geometry
    x: ir.Value
    read: Mask
    """``[i]`` (bool): the constants it reads."""
    fill: np.ndarray
    """``[i]``: every constant, zero for other inputs."""


def choose_planes(plan: Plan, roots: np.ndarray, keep: Callable[[], np.ndarray]) -> bool:
    """Decide once for every contraction of a graph, in ``facts.borders``; tell whether the demands are others now.

    Args:
        plan: with tracks.
        roots: ``[classes]``: the representative of each class of positions.
        keep: returns which classes (bool, by root) have to be kept under the present demands.
    """
    facts = plan.facts
    if facts.borders:
        return False
    readers = [reader for node in facts.specs if (reader := _reader(node, facts)) is not None]
    if not readers:
        return False
    for reader in readers:
        facts.borders[reader.node] = np.zeros(0, np.int64)  # to see what stays if nobody asks
    demands(facts)
    kept = keep()
    wanted: Counter[int] = Counter()
    for reader in readers:
        wanted.update(roots[_classes(plan, reader)[reader.fill != 0]].tolist())
    for reader in readers:
        own = roots[_classes(plan, reader)]
        stays = kept[own] if (reader.x, reader.geo.x_axis) in plan.tracks else np.ones(own.size, bool)
        chosen = _choice(reader, stays, own, wanted, plan)
        if chosen is None:
            del facts.borders[reader.node]
            continue
        facts.borders[reader.node] = chosen
        kept[own[chosen]] = True
    demands(facts)
    return bool(facts.borders)


def _reader(node: ir.Node, facts: Facts) -> _Reader | None:
    geo = geometry(facts.specs[node])
    x = None if geo is None else node.inputs[geo.x]
    size = None if geo is None else input_channels(node, geo)
    if geo is None or x is None or size is None or facts.demand.get(node.outputs[0]) is None:
        return None
    weight = node.inputs[geo.w]
    if weight is None or weight.dtype is None or not weight.dtype.is_floating_point():
        return None  # integers are not divided
    if stored(weight) is not None:
        return None
    fill = constants_at_border(x, size, geo, facts)
    nonzero = None if fill is None else weights_nonzero(node, geo, facts)
    if fill is None or nonzero is None or not facts.constants.finite(weight):
        return None  # sums of what is not finite are something else at the border
    read = read_inputs(nonzero, live_rows(node, geo, nonzero, facts), geo) & (fill != 0)
    return _Reader(node, geo, x, read, fill) if read.any() else None


def _classes(plan: Plan, reader: _Reader) -> np.ndarray:
    track = plan.tracks.get((reader.x, reader.geo.x_axis))
    return np.zeros(reader.fill.size, np.int64) if track is None else track.ids


def _choice(reader: _Reader, stays: Mask, own: np.ndarray, wanted: Counter[int], plan: Plan) -> np.ndarray | None:
    """Return the positions that stand for the constants of each group; ``None`` to leave every constant where it is."""
    if stays[reader.read].all() and plan.kind == "fastest":
        return None
    width = reader.fill.size // reader.geo.groups
    chosen: list[int] = []
    for group in np.unique(np.flatnonzero(reader.read) // width):
        inside = slice(group * width, (group + 1) * width)
        amounts = np.abs(reader.fill[inside])
        able = amounts >= LEAST * amounts[reader.read[inside]].max()
        staying = able & stays[inside]
        if staying.any():
            chosen.append(int(np.argmax(np.where(staying, amounts, -1))) + inside.start)
        elif map_fits(reader.node, plan.facts):
            return np.zeros(0, np.int64)
        else:
            often = np.array([wanted[root] for root in own[inside].tolist()])
            most = able & (often == often[able].max())
            chosen.append(int(np.argmax(np.where(most, amounts, -1))) + inside.start)
    return np.array(chosen, np.int64)


def map_fits(node: ir.Node, facts: Facts) -> bool:
    """Tell whether a map can be added behind a convolution, and is not larger than the weights of one channel."""
    inside = None if facts.opset < 7 or node.domain not in ("", "ai.onnx") else windows(node)
    if inside is None or not all(rows.size for rows in inside):
        return False
    numbers = [kinds(rows)[0].shape for rows in inside]
    return int(np.prod([kind for kind, _ in numbers])) <= int(np.prod([taps for _, taps in numbers]))
