"""Which dead positions a stream keeps because its LayerNorms would cost more without them.

A LayerNorm that lost positions is several operators (``rewrite/ops/layer_norm.py``) where it was one. That is soon paid
for by what writes and reads the stream, whose products are narrower, but not by one position of a thousand. The
positions that some LayerNorms share are kept, or leave, together. An RMSNorm costs nothing: it stays one operator; and
neither does a LayerNorm that will be one runtime operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import geometry, input_channels
from graphopt.facts.ops.layer_norm import FUSED_RMS, first_axis, norm_of
from graphopt.plan.widths import elements_at

if TYPE_CHECKING:
    from graphopt.plan.classes import Plan

# Measured with onnxruntime 1.31 (``python -m tests.bench.norms``; decision 0013), in copies of an element.
WHOLE = 2.5
AS_RMS = 5.25
CORRECTED = 6.25
NODES = 8
"""Operators that are started in addition."""
MASKED = 1.75
"""As one runtime operator (``python -m tests.bench.ops.norm``; decision 0027)."""


@dataclass(slots=True)
class _Stream:
    """LayerNorms that would lose the same dead classes."""

    dearer: float = 0.0
    """Nanoseconds that the norms take longer without them."""
    spared: float = 0.0
    """Nanoseconds that products take less."""


def kept_for_norms(plan: Plan, roots: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the dead classes (bool, by root) that are better kept.

    Args:
        plan: with tracks.
        roots: ``[classes]``: the representative of each class.
        keep: ``[classes]`` (bool, by root): what has to be kept.
    """
    streams: list[_Stream] = []
    owner = np.full(keep.size, -1)
    for node, spec in plan.facts.specs.items():
        norm = norm_of(spec)
        for axis in () if norm is None or not norm.centred else norm.axes:
            track = plan.tracks.get((node.outputs[0], axis))
            own = np.zeros(0, np.int64) if track is None else roots[track.ids]
            dead = np.unique(own[~keep[own]])
            if not dead.size:
                continue
            place = int(owner[dead].max())
            if place < 0:
                place = len(streams)
                streams.append(_Stream())
            owner[dead[owner[dead] < 0]] = place
            assert norm is not None
            kept, rows = int(keep[own].sum()), elements_at(node.outputs[0], axis)
            streams[place].dearer += _dearer(node, kept, own.size, rows, plan)
    if streams:
        _count_spared(plan, roots, keep, owner, streams)
    stay = np.array([stream.spared < stream.dearer for stream in streams] + [False])
    return stay[owner]


def _dearer(node: ir.Node, kept: int, size: int, rows: int, plan: Plan) -> float:
    """Return by how much a LayerNorm of what is kept costs more than that of all."""
    costs, rank = plan.costs, dims.rank(node.outputs[0]) or 1
    last = node.op_type != "LayerNormalization" or first_axis(node, rank) == rank - 1
    if plan.masked_norms and last and node.outputs[0].dtype != ir.DataType.DOUBLE:
        return (MASKED * kept - WHOLE * size) * rows * costs.element
    each = AS_RMS if plan.facts.opset >= FUSED_RMS else CORRECTED
    return (each * kept - WHOLE * size) * rows * costs.element + NODES * costs.node


def _count_spared(plan: Plan, roots: np.ndarray, keep: np.ndarray, owner: np.ndarray, streams: list[_Stream]) -> None:
    """Add up what the products that write and read each stream save."""
    for node, spec in plan.facts.specs.items():
        geo = geometry(spec)
        x, out = (None if geo is None else node.inputs[geo.x]), node.outputs[0]
        known = dims.static(out)
        if geo is None or x is None or known is None:
            continue
        sides = [(x, geo.x_axis, input_channels(node, geo)), (out, geo.out_axis, known[geo.out_axis])]
        tracks = [plan.tracks.get((value, axis)) for value, axis, _ in sides]
        if tracks == [None, None] or any(size is None for _, _, size in sides):
            continue
        rows = elements_at(out, geo.out_axis)
        lives = [None if track is None else keep[roots[track.ids]] for track in tracks]
        widths = [size if live is None else int(live.sum()) for (_, _, size), live in zip(sides, lives, strict=True)]
        for track, live, width, other in zip(tracks, lives, widths, reversed(widths), strict=True):
            if track is None or live is None or live.all() or width is None or other is None:
                continue
            found = owner[roots[track.ids[~live]]]
            for place, more in zip(*np.unique(found[found >= 0], return_counts=True), strict=True):
                wide, narrow = (plan.costs.product(other, size, rows) for size in (width + int(more), width))
                streams[int(place)].spared += float(wide - narrow)
