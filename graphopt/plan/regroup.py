"""Cells behind a reshape: an axis that is split keeps one cell for each position, in a part over several axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.shaping import pair_axes
from graphopt.plan.cells import Cells, Part, Travel


@dataclass(frozen=True, slots=True)
class _Run:
    """Axes of a reshape with equal products, cut into factors: the input and the output axis that each is part of."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    sizes: list[int]
    in_of: list[int]
    out_of: list[int]


def reshape(cells: Cells, node: ir.Node) -> None:
    """Take all parts of what a reshape reads to what it makes; pin those that it regroups."""
    value, out = node.inputs[0], node.outputs[0]
    known, wide = dims.sizes(value), dims.sizes(out)
    if value is None or known is None or wide is None:
        return
    runs = [run for ins, outs in pair_axes(known, wide) for run in _factored(ins, outs, known, wide)]
    by_axis = {axis: run for run in runs for axis in run.ins}
    taken: dict[int, str] = {}
    for part in sorted(cells.of(value), key=lambda part: -part.cells.size):
        if not _regroup(cells, node, part, by_axis, taken):
            cells.pin(part.cells, f"{node.op_type} regroups it")
    for run in runs:
        for axis in run.outs:
            inner = [place for place, size in enumerate(run.sizes) if run.out_of[place] == axis and size > 1]
            if inner and all(cells.is_free(value, run.in_of[place]) for place in inner):
                cells.free_axes.add((out, axis))


def _regroup(cells: Cells, node: ir.Node, part: Part, by_axis: Mapping[int, _Run], taken: dict[int, str]) -> bool:
    """Take one part through a reshape; False where that cannot be said."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    factors: list[tuple[int, int]] = []  # (first axis of the run, place of the factor in it)
    sizes: list[int] = []
    for axis, size in zip(part.axes, part.cells.shape, strict=True):
        if size == 1 and part.cells.size > 1:
            continue  # where a size of one stands is nothing but a way to write it
        run = by_axis.get(axis)
        if run is None:
            return False
        places = [place for place, of in enumerate(run.in_of) if of == axis]
        factors += [(run.ins[0], place) for place in places]
        sizes += [run.sizes[place] for place in places]
    if not factors or int(np.prod(sizes)) != part.cells.size:
        return False
    # The factors of the output axes that the part comes to, those of other axes included.
    axes: list[int] = []
    every: list[tuple[int, int]] = []
    shape: list[int] = []
    free, wide = True, False
    for first, place in factors:
        run = by_axis[first]
        axis = run.out_of[place]
        if axis in axes:
            continue
        axes.append(axis)
        inner = [k for k, of in enumerate(run.out_of) if of == axis]
        for k in inner:
            if (first, k) not in factors and run.sizes[k] > 1:
                wide = True
                free &= cells.is_free(value, run.in_of[k])
        every += [(first, k) for k in inner]
        shape.append(int(np.prod([run.sizes[k] for k in inner])))
    if any(axis in taken for axis in axes):
        return False
    taken.update(dict.fromkeys(axes, ""))
    source = part.cells.reshape(sizes)
    order = [factors.index(each) for each in every if each in factors]
    source = source.transpose(order)
    full = [by_axis[first].sizes[place] for first, place in every]
    lead = [size if each in factors else 1 for size, each in zip(full, every, strict=True)]
    source = np.broadcast_to(source.reshape(lead), full).reshape(shape)
    made = Part(tuple(axes), cells.fresh(*shape))
    cells.give(out, made)
    travel = Travel(made.cells.ravel(), [("term", source.reshape(-1, 1))], np.ones(source.size, bool))
    cells.travels.append(travel)
    if wide and free:
        cells.copies.append((source.ravel(), made.cells.ravel(), travel))
    else:
        cells.tie(source, made.cells)
    return True


def _factored(ins: Sequence[int], outs: Sequence[int], known: dims.Sizes, wide: dims.Sizes) -> Iterable[_Run]:
    """Yield the run as the coarsest factors that both sides are products of; nothing where there are none."""
    if len(ins) == len(outs) == 1:
        size = known[ins[0]]
        if isinstance(size, int):
            yield _Run(tuple(ins), tuple(outs), [size], [ins[0]], [outs[0]])
        return
    ins, outs = [axis for axis in ins if known[axis] != 1], [axis for axis in outs if wide[axis] != 1]
    left = [size for axis in ins if isinstance(size := known[axis], int)]
    right = [size for axis in outs if isinstance(size := wide[axis], int)]
    if len(left) < len(ins) or len(right) < len(outs) or not left or np.prod(left) != np.prod(right):
        return
    i = j = 0
    a, b = left[0], right[0]
    sizes, in_of, out_of = [], [], []
    while True:
        step = min(a, b)
        if a % step or b % step:
            return
        sizes.append(step)
        in_of.append(ins[i])
        out_of.append(outs[j])
        a, b = a // step, b // step
        if a == 1:
            i += 1
            if i == len(ins):
                break
            a = left[i]
        if b == 1:
            j += 1
            b = right[j]
    yield _Run(tuple(ins), tuple(outs), sizes, in_of, out_of)
