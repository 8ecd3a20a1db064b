"""Operators that only move positions along an axis: Concat, Split, Slice, Pad, Expand, Tile; and sources of constants.

``out[j] = in[index[j]]`` with a constant index, or a constant. Fills travel with their positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.rules import Rule, identity_links, rule, select_forward
from graphopt.facts.store import Facts, Group, Link, Mask, Spec


def normal(axis: int, rank: int) -> int:
    """Return a non-negative axis."""
    return axis + rank if axis < 0 else axis


class Mover(Rule):
    """Facts of every operator of this family."""

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        constants: Sequence[tuple[int, int, Mask, np.ndarray]] = spec.extra if isinstance(spec.extra, list) else ()
        if not constants and not any(v in facts.dead or is_constant(v) for v in node.inputs if v is not None):
            return
        select_forward(node, spec, facts, constants)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("Concat")
class Concat(Mover):
    """``out = in_0 ++ in_1 ++ …`` along ``axis``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        out = dims.static(node.outputs[0])
        if out is None:
            return None
        axis = normal(node.attributes.get_int("axis", 1), len(out))
        links: list[Link] = []
        sizes = []
        for operand, value in enumerate(node.inputs):
            known = dims.static(value)
            if known is None or len(known) != len(out):
                return None
            sizes.append(known[axis])
            links += [Link(operand, i, 0, i) for i in range(len(out)) if i != axis]
        if out[axis] is None or any(size is None for size in sizes):
            return Spec(links, reason="an input of Concat has unknown size along its axis")
        start = 0
        total = sum(size or 0 for size in sizes)
        for operand, size in enumerate(sizes):
            index = np.full(total, -1)
            index[start : start + size] = np.arange(size)
            links.append(Link(operand, axis, 0, axis, index))
            start += size
        return Spec(links)


@rule("Split")
class Split(Mover):
    """Each output is a range of the input along ``axis``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known = dims.static(node.inputs[0])
        if known is None:
            return None
        axis = normal(node.attributes.get_int("axis", 0), len(known))
        links: list[Link] = []
        start = 0
        for out, value in enumerate(node.outputs):
            sizes = dims.static(value)
            size = sizes[axis] if sizes is not None and len(sizes) == len(known) else None
            if size is None or size < 0:  # in a branch that is never taken, sizes may be nonsense
                return None
            links += [Link(0, i, out, i) for i in range(len(known)) if i != axis]
            links.append(Link(0, axis, out, axis, np.arange(start, start + size)))
            start += size
        return Spec(links) if known[axis] == start else None


@rule("Slice")
class Slice(Mover):
    """A strided range of constant bounds along each named axis."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.static(node.inputs[0]), dims.static(node.outputs[0])
        if known is None or out is None or len(known) != len(out):
            return None
        rank = len(known)
        if len(node.inputs) > 1:
            starts, ends = facts.constants.ints(node.inputs[1]), facts.constants.ints(node.inputs[2])
            axes_value = node.inputs[3] if len(node.inputs) > 3 else None
            steps_value = node.inputs[4] if len(node.inputs) > 4 else None
            axes = facts.constants.ints(axes_value) if axes_value is not None else None
            steps = facts.constants.ints(steps_value) if steps_value is not None else None
            if (axes_value is not None and axes is None) or (steps_value is not None and steps is None):
                return None
            if axes is None and axes_value is None:
                first = dims.static(node.inputs[1])
                if first is None or first[0] is None:
                    return None
                axes = list(range(first[0]))
        else:
            starts, ends = list(node.attributes.get_ints("starts", ())), list(node.attributes.get_ints("ends", ()))
            axes = list(node.attributes.get_ints("axes", range(len(starts))))
            steps = None
        assert axes is not None
        named = {normal(axis, rank) for axis in axes}
        links = identity_links(rank, [axis for axis in range(rank) if axis not in named])
        reason = "Slice with bounds that are not constant"
        if starts is None or ends is None:
            return Spec(links, reason=reason)
        for position, axis in enumerate(axes):
            axis = normal(axis, rank)
            size = known[axis]
            step = 1 if steps is None else steps[position]
            if size is None or step == 0:
                continue
            index = np.arange(size)[_python_slice(starts[position], ends[position], step)]
            if index.size == out[axis]:
                links.append(Link(0, axis, 0, axis, index))
        return Spec(links, reason=reason)


def _python_slice(start: int, end: int, step: int) -> slice:
    """ONNX bounds as a Python slice; for a negative step an end below ``-size`` means "to the very start"."""
    if step < 0 and end < -(2**31):
        return slice(start, None, step)
    if step < 0 and end < 0 and end <= -(2**30):
        return slice(start, None, step)
    return slice(start, end, step)


@rule("Pad")
class Pad(Mover):
    """Constant positions before and after; negative pads cut. Other modes are needed whole where they pad."""

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        super().forward(node, spec, facts)
        # Along the axes that are not padded a constant stays one only if it is what the others are padded with.
        out, value = node.outputs[0], node.inputs[0]
        rank = dims.rank(value)
        pads = None if rank is None else pads_of(node, rank, facts)
        if pads is None or out not in facts.dead or node.attributes.get_string("mode", "constant") != "constant":
            return
        fill = _pad_value(node, facts)
        for axis in list(facts.dead[out]):
            others = [pad for i, pad in enumerate(pads) if i not in (axis, axis + (rank or 0))]
            if not any(pad > 0 for pad in others):
                continue
            dead = facts.dead[out].pop(axis)
            if fill is not None:
                facts.set_dead(out, axis, dead.mask & (dead.fill == fill), dead.fill)
        if not facts.dead.get(out, True):
            del facts.dead[out]

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known = dims.static(node.inputs[0])
        if known is None or dims.rank(node.outputs[0]) != len(known):
            return None
        rank = len(known)
        pads = pads_of(node, rank, facts)
        mode = node.attributes.get_string("mode", "constant")
        if pads is None:
            return None
        links = identity_links(rank, [axis for axis in range(rank) if pads[axis] == 0 and pads[rank + axis] == 0])
        fill = _pad_value(node, facts)
        constants: list[tuple[int, int, Mask, np.ndarray]] = []
        if mode != "constant" or fill is None:
            return Spec(links, reason=f"Pad of mode {mode}")
        for axis in range(rank):
            before, after, size = pads[axis], pads[rank + axis], known[axis]
            if (before == 0 and after == 0) or size is None:
                continue
            kept = np.arange(max(0, -before), max(0, -before, size + min(0, after)))
            index = np.concatenate([np.full(max(before, 0), -1), kept, np.full(max(after, 0), -1)]).astype(np.int64)
            links.append(Link(0, axis, 0, axis, index))
            constants.append((0, axis, index < 0, np.full(index.size, fill)))
        return Spec(links, extra=constants, reason="Pad along an axis of unknown size")


def pads_of(node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
    """Return the ``2 * rank`` pads of a Pad node of any opset, or ``None`` when they are not constant."""
    if len(node.inputs) < 2:
        found = node.attributes.get_ints("pads", node.attributes.get_ints("paddings", ()))
        return list(found) if len(found) == 2 * rank else None
    pads = facts.constants.ints(node.inputs[1])
    if pads is None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = facts.constants.ints(node.inputs[3])
        if axes is None:
            return None
        whole = [0] * (2 * rank)
        for position, axis in enumerate(axes):
            whole[normal(axis, rank)] = pads[position]
            whole[rank + normal(axis, rank)] = pads[len(axes) + position]
        return whole
    return pads if len(pads) == 2 * rank else None


def _pad_value(node: ir.Node, facts: Facts) -> np.ndarray | None:
    out = node.outputs[0]
    dtype = out.dtype.numpy() if out.dtype is not None and out.dtype != ir.DataType.STRING else None
    if dtype is None:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        value = facts.constants.array(node.inputs[2])
        return None if value is None or value.size != 1 else value.reshape(()).astype(dtype)
    return np.asarray(node.attributes.get_float("value", 0.0)).astype(dtype)


@rule("Expand")
class Expand(Mover):
    """Broadcast to a shape: axes that keep their size keep their positions; of copies there are as many as wanted."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        value, out = node.inputs[0], node.outputs[0]
        known, wide = dims.sizes(value), dims.sizes(out)
        if known is None or wide is None or len(known) > len(wide):
            return None
        offset = len(wide) - len(known)
        links = []
        repeated = list(range(offset))
        pinned: set[tuple[int, int]] = set()
        for axis, size in enumerate(known):
            if dims.provably_equal(size, wide[axis + offset]):
                links.append(Link(0, axis, 0, axis + offset))
            elif size == 1:
                repeated.append(axis + offset)
            else:
                pinned.add((0, axis + offset))
        groups = _copies(node, repeated, facts)
        return Spec(links, pinned=frozenset(pinned), at_source=True, groups=groups)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        value, out = node.inputs[0], node.outputs[0]
        known = dims.static(out)
        if value is None or known is None:
            return
        offset = len(known) - (dims.rank(value) or 0)
        for axis, size in enumerate(known):
            if size is None or (0, axis) in spec.pinned:
                continue
            along = facts.along(value, axis - offset if axis >= offset else None, size)
            if along is not None:
                facts.set_dead(out, axis, along[0], along[1])


@rule("Tile")
class Tile(Mover):
    """Repetition by constants: ``index = arange(n) repeated``. Repeated positions live and die together."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known = dims.static(node.inputs[0])
        repeats = facts.constants.ints(node.inputs[1]) if len(node.inputs) > 1 else None
        if known is None or repeats is None or len(repeats) != len(known) or len(node.inputs) != 2:
            return None
        links = [Link(0, axis, 0, axis) for axis, count in enumerate(repeats) if count == 1]
        for axis, count in enumerate(repeats):
            size = known[axis]
            if count > 1 and size is not None and size != 1:
                links.append(Link(0, axis, 0, axis, np.tile(np.arange(size), count)))
        copies = [axis for axis, count in enumerate(repeats) if count > 1 and known[axis] == 1]
        groups = _copies(node, copies, facts)
        return Spec(links, reason="Tile repeats this axis", groups=groups)


def _copies(node: ir.Node, axes: list[int], facts: Facts) -> tuple[Group, ...]:
    """Return a layout of its own for each output axis that repeats the one position there is of a live value."""
    known = None if facts.constants.known(node.inputs[0]) else dims.static(node.outputs[0])
    sizes = [(axis, known[axis]) for axis in axes] if known is not None else []
    return tuple(Group(size, outputs=((0, axis, np.arange(size)),)) for axis, size in sizes if size)


@rule("ConstantOfShape")
class ConstantOfShape(Mover):
    """One constant everywhere, whatever the shape."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        return Spec([])

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out = node.outputs[0]
        known, dtype = dims.static(out), out.dtype
        if known is None or dtype is None or dtype == ir.DataType.STRING:
            return
        fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1)
        for axis, size in enumerate(known):
            if size:
                facts.set_dead(out, axis, np.ones(size, bool), np.full(size, fill.reshape(-1)[0], dtype.numpy()))


@rule("Shape", "Size")
class Shape(Rule):
    """Sizes are read, values are not."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        if node.op_type == "Size":
            return None
        return Spec([], unread=frozenset({0}), reason=None)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True
