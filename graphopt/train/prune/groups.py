"""What can only be removed together: filters, residual streams, hidden units, attention heads of a torch net.

Nothing is traced here: the net is exported, and ``graphopt.plan.couplings`` reads the groups off the graph, for which
graphopt knows how every operator treats every axis. So groups are found in nets that nobody has seen before, and an
operator that is not known keeps what it meets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from graphopt.pipeline import fold, prepared
from graphopt.plan.couplings import Coupling, couplings
from graphopt.registry import make
from graphopt.torch_export import export

Kind = Literal["filter", "hidden", "head", "stream"]


@dataclass(frozen=True)
class Slice:
    """The positions of one axis of one parameter that belong to each unit of a group.

    Attributes:
        parameter: As ``net.named_parameters()`` calls it.
        axis: Of that parameter.
        index: ``[units, k]`` (int64): the positions of each unit.
    """

    parameter: str
    axis: int
    index: np.ndarray


@dataclass(frozen=True)
class Group:
    """Units that may be removed one by one, each with all of its slices.

    A unit is removed by zeros in ``writes``: the net with these zeros is the pruned net. ``reads`` are dead with it:
    nothing that they hold can be seen in an output.

    Attributes:
        name: Of the first parameter that writes it.
        kind: ``filter``: channels that convolutions compute; ``hidden``: units that linear layers (or tables)
            compute; ``head``: attention heads, or groups of them that share their keys; ``stream``: channels of a
            residual stream, with all that writes into it.
        units: How many there are.
        writes: What computes the units, norms included; and columns of a reader that would see a constant of it.
        reads: What reads the units, and what is computed beside them in vain.
    """

    name: str
    kind: Kind
    units: int
    writes: tuple[Slice, ...]
    reads: tuple[Slice, ...]


@dataclass(frozen=True)
class Found:
    """The groups of a net, and what is in none of them.

    Attributes:
        groups: In the order of the net's parameters.
        left_out: Parameter → why nothing of it may be removed.
        model: The graph they were read off, see ``exported``.
    """

    groups: tuple[Group, ...]
    left_out: Mapping[str, str]
    model: ir.Model


def groups(net: nn.Module, args: tuple[Tensor, ...], *, stream: bool = True) -> list[Group]:
    """Return what can only be removed together in a net.

    Args:
        net: Any module that ``graphopt.export`` exports.
        args: Example inputs of ``forward``, batch first.
        stream: With the residual streams; otherwise they stay as wide as they are.

    Raises:
        GraphoptError: The net cannot be exported.
    """
    return [group for group in find(net, args).groups if stream or group.kind != "stream"]


def find(net: nn.Module, args: tuple[Tensor, ...]) -> Found:
    """Return all groups of a net, streams included, and what is in none.

    Grouped-query attention: the unit is a group of heads with its key and value, or a query head where the keys cannot
    leave (they are in a cache that comes in or goes out): then the columns that read the head are its writes.

    Left out: what an output shows or an input fixes; LSTM, GRU and RNN, whose states are tied to themselves (masked
    ones are narrowed by ``graphopt.optimize`` all the same); weights that are computed, as by a parametrization.

    Raises:
        GraphoptError: The net cannot be exported.
    """
    model = exported(net, args)
    order = {name: place for place, name in enumerate(_parameters(net))}
    found = couplings(model, order)
    made: list[Group] = []
    taken: set[str] = set()
    for coupling in sorted(found.found, key=lambda each: min(order[m.parameter] for m in each.members if m.writes)):
        group = _group(coupling, order, net, taken)
        taken.add(group.name)
        made.append(group)
    return Found(tuple(made), found.pinned, model)


def exported(net: nn.Module, args: tuple[Tensor, ...]) -> ir.Model:
    """Return the graph that groups are read off: one sample, sizes inferred, parameters under their own names.

    Everything that is computed from constants is folded, but nothing that a parameter has a part in. Their names are
    the model's ``meta["parameters"]``.

    Args:
        net: Any module that ``graphopt.export`` exports; left as it is.
        args: Example inputs of ``forward``, batch first.

    Raises:
        GraphoptError: The net cannot be exported.
    """
    context = prepared(export(net, _sample(args), verify=False), plan="smallest")
    graph, names = context.model.graph, _parameters(net)
    # What is a graph input may be anything to a pass: it is left alone.
    held = [value for name, value in graph.initializers.items() if name in names]
    graph.inputs.extend(held)
    fold(context)
    make("tidy", {}).run(context)
    for _ in held:
        graph.inputs.pop()
    context.model.meta["parameters"] = tuple(value.name for value in held)
    return context.model


def _parameters(net: nn.Module) -> Collection[str]:
    return dict(net.named_parameters())


def _sample(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the first sample of a batch: heads that are merged with a batch of one are still told apart."""
    sizes = {each.shape[0] if each.dim() else 0 for each in args}
    return tuple(each[:1] for each in args) if len(sizes) == 1 and sizes != {0} else args


def _group(coupling: Coupling, order: Mapping[str, int], net: nn.Module, taken: Collection[str]) -> Group:
    members = sorted(coupling.members, key=lambda each: (order[each.parameter], each.axis))
    writes, reads = (
        tuple(Slice(each.parameter, each.axis, each.index) for each in members if each.writes == wanted)
        for wanted in (True, False)
    )
    wide = [each.parameter for each in writes if net.get_parameter(each.parameter).dim() > 1]
    name = base = wide[0] if wide else writes[0].parameter
    number = 1
    while name in taken:
        number += 1
        name = f"{base} ({number})"
    return Group(name, _kind(coupling), coupling.units, writes, reads)


def _kind(coupling: Coupling) -> Kind:
    if coupling.attends:
        return "head"
    if coupling.joined:
        return "stream"
    return "filter" if "convolution" in coupling.writers else "hidden"
