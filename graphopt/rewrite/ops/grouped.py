"""Convolutions in groups keep equally many inputs, and equally many outputs, in every group that is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import Geometry, canonical, original
from graphopt.facts.store import Mask, Spec
from graphopt.rewrite import quantized
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import outputs_narrowed, wanted_by_links


@dataclass(frozen=True, slots=True)
class Groups:
    """What a grouped convolution becomes; the masks have as many positions in every row."""

    kept: np.ndarray
    """``[g']``: groups that are left."""
    outputs: Mask
    """``[g', o]``: which outputs of each are computed."""
    inputs: Mask
    """``[g', i]``: which inputs of each are read."""
    needed: Mask
    """``[g', i]``: those of them whose weights count."""

    def rows(self) -> np.ndarray:
        """Return the outputs that are computed, of all groups."""
        return self._positions(self.outputs)

    def columns(self) -> np.ndarray:
        """Return the inputs that are read, of all groups."""
        return self._positions(self.inputs)

    def _positions(self, mask: Mask) -> np.ndarray:
        group, place = np.nonzero(mask)
        return self.kept[group] * mask.shape[1] + place


def choose(geo: Geometry, rows: Mask, have: Mask, needed: Mask, *, gathers: bool) -> Groups:
    """Decide what is computed and read.

    Args:
        geo: of the convolution.
        rows: ``[o]`` (bool): outputs that the plan keeps, of all groups.
        have: ``[i]``: inputs that are there.
        needed: ``[i]``: inputs whose weights count.
        gathers: read as little as possible, although all that is there would do.
    """
    wanted = rows.reshape(geo.groups, -1)
    kept = np.flatnonzero(wanted.any(axis=1))
    kept = kept if kept.size else np.arange(1)  # nobody reads it: the node goes, but is not gone yet
    present, read = have.reshape(geo.groups, -1)[kept], needed.reshape(geo.groups, -1)[kept]
    inputs = filled_up(read, present)
    counts = present.sum(axis=1)
    if counts.min() == counts.max() >= 1 and (not gathers or counts[0] == inputs[0].sum()):
        inputs = present  # no gather but that of the groups
    return Groups(kept, filled_up(wanted[kept]), inputs, read & inputs)


def filled_up(needed: Mask, preferred: Mask | None = None) -> Mask:
    """Return ``[g, n]``: the needed positions of each row, and others until all rows have as many; at least one."""
    most = max(int(needed.sum(axis=1).max()), 1)
    worth = 2 * needed.astype(np.int8)
    if preferred is not None:
        worth += preferred
    ranks = np.argsort(np.argsort(-worth, axis=1, kind="stable"), axis=1, kind="stable")
    return ranks < most


def narrow_weight(node: ir.Node, geo: Geometry, groups: Groups, edit: Edit) -> None:
    """Cut the weight group by group: every group may keep other positions. Inputs that do not count are silenced."""
    silent = bool((groups.inputs & ~groups.needed).any())
    if not silent and groups.outputs.all() and groups.inputs.all() and groups.kept.size == geo.groups:
        return
    value = node.inputs[geo.w]
    assert value is not None
    count = groups.kept.size
    outputs = np.nonzero(groups.outputs)[1].reshape(count, -1, 1)
    inputs = np.nonzero(groups.inputs)[1].reshape(count, 1, -1)
    counts = np.take_along_axis(groups.needed[:, None], inputs, axis=2)

    def compute(array: np.ndarray, zero: np.ndarray) -> np.ndarray:
        taken = canonical(array, geo)[groups.kept[:, None, None], outputs, inputs]
        if not counts.all():
            point = zero if geo.w_zero is None else geo.w_zero.astype(taken.dtype)
            taken = np.where(counts.reshape(counts.shape + (1,) * (taken.ndim - 3)), taken, point.reshape(-1)[:1])
        return original(taken, geo)

    transposed = geo.w_in < geo.w_out
    o, i = outputs.shape[1], inputs.shape[2]
    head = [count * i, o] if transposed else [count * o, i]
    shape = [*head, *(size or 0 for size in (dims.static(value) or ())[2:])]
    edit.counts["cut"] += 1
    stem = str(value.name)
    base = stem if stem.endswith("_cut") else f"{stem}_cut"
    rows = None if transposed else groups.rows()
    node.replace_input_with(geo.w, quantized.changed(value, compute, shape, rows, base, edit))


def depthwise(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Every channel has its filter: the channels go as they do through an elementwise operator."""
    kept = edit.planned(node.outputs[0]).get(1)
    wanted = wanted_by_links(node, 0, spec, edit)
    wanted.pop(1, None)  # channels whose outputs stay are read, also where only dead outputs read them
    if kept is not None:
        wanted[1] = kept
        node.attributes["group"] = ir.AttrInt64("group", int(kept.size))
    edit.operand(node, 0, wanted)
    for operand in range(1, len(node.inputs)):
        if node.inputs[operand] is not None:
            edit.operand(node, operand, wanted_by_links(node, operand, spec, edit))
    outputs_narrowed(node, edit)
