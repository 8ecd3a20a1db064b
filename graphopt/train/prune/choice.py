"""From settings and a net to what a round zeroes: which structures there are, and by which rule they are chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.train.family import Family
from graphopt.train.progress import Progress, quiet
from graphopt.train.prune import groups, latency
from graphopt.train.prune.groups import Group
from graphopt.train.prune.layers import Layer, excluded, outputs_axis
from graphopt.train.prune.removable import removable
from graphopt.train.prune.scores import Scores
from graphopt.train.prune.selection import merged, select
from graphopt.train.prune.settings import PruneSettings
from graphopt.train.prune.structures import Blocks, Masks, Pool, Runs, Single, Together

Chooser = Callable[[Scores, Mapping[str, Tensor], float], Masks]
"""From scores, what is held, and the share of the way that is behind us (1 in the last round) to what is zero now."""

Scored = Mapping[str, Sequence[Layer]]
"""By parameter name, the layers that use it."""


@dataclass(frozen=True)
class Choice:
    """How each round chooses.

    Attributes:
        choose: What is zero now.
        left: Name of a group that is left whole → why.
    """

    choose: Chooser
    left: Mapping[str, str] = field(default_factory=dict)


def chooser(
    net: nn.Module,
    scored: Scored,
    settings: PruneSettings,
    family: Family | None,
    *,
    progress: Progress = quiet,
) -> Choice:
    """Return what chooses in each round; ``progress`` is told what is under way where groups are looked for.

    Raises:
        UsageError: No unit of this structure is found, or there is no family to find them with.
        GraphoptError: The net cannot be exported, so that groups cannot be found.
    """
    if settings.structure == "n:m":
        runs = list(_runs(scored, settings))
        return Choice(lambda scores, held, share: merged([one.select(scores, held, share) for one in runs]))
    if settings.grouped:
        return _of_groups(net, scored, settings, family, progress)
    return Choice(_least(list(_of_weights(scored, settings)), settings))


def _least(pools: Sequence[Pool], settings: PruneSettings) -> Chooser:
    return lambda scores, held, share: select(
        pools, scores, held, share * settings.amount, settings.scope, normalise=settings.normalise
    )


def _runs(scored: Scored, settings: PruneSettings) -> Iterator[Runs]:
    for name, users in scored.items():
        yield Runs(name, users[0].weight.shape, settings.n, settings.m, 1 - outputs_axis(users[0]))


def _of_weights(scored: Scored, settings: PruneSettings) -> Iterator[Pool]:
    for name, users in scored.items():
        shape = users[0].weight.shape
        if settings.structure == "block":
            yield Blocks(name, shape, *settings.block, transposed=outputs_axis(users[0]) == 1)
        else:
            yield Single(name, shape)


def _of_groups(
    net: nn.Module, scored: Scored, settings: PruneSettings, family: Family | None, progress: Progress
) -> Choice:
    if family is None:
        raise UsageError(
            f"structure '{settings.structure}' needs a family: its example inputs show what belongs together",
            help="give one, or prune 'unstructured', 'block' or 'n:m'",
        )
    net = _on_cpu(net)
    progress("looking for what can only be removed together", 0, 0)
    found, model = _found(net, family)
    kinds = {"filter", "head", "hidden"} if settings.structure == "units" else {settings.structure}
    if settings.stream:
        kinds.add("stream")
    left = {one.name: reason for one in found if one.kind in kinds and (reason := _left_alone(one, scored, settings))}
    wanted = tuple(one for one in found if one.kind in kinds and one.name not in left)
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    if model is not None and wanted and settings.amount:  # what a family says of itself is taken as it is
        worth = removable(wanted, model, shapes, settings.amount, progress=progress)
        wanted, left = worth.groups, {**left, **worth.left}
    if not wanted:
        there = ", ".join(sorted({one.kind for one in found} - kinds)) or "no other kind"
        why = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise UsageError(
            f"no group of kind {' or '.join(sorted(kinds))} {'can be pruned' if left else 'is found'}",
            type(net).__name__,
            f"there is {there}" + (f"; left whole: {why}" if why else ""),
        )
    pools = [Together(group, shapes) for group in wanted]
    if not settings.latency:
        return Choice(_least(pools, settings), left)
    return Choice(_fastest(pools, model or groups.exported(net, family.example(net)), settings), left)


def _on_cpu(net: nn.Module) -> nn.Module:
    """Return the net where the exporter wants it, and where example inputs are."""
    return net if all(one.device.type == "cpu" for one in net.parameters()) else copy.deepcopy(net).cpu()


def _found(net: nn.Module, family: Family) -> tuple[list[Group], ir.Model | None]:
    """Return all groups of a net, and the graph that they were read off if they were."""
    if family.groups is not None:
        return family.groups(net), None
    found = groups.find(net, family.example(net))
    return list(found.groups), found.model


def _left_alone(group: Group, scored: Scored, settings: PruneSettings) -> str | None:
    """Return why a group is left alone before anybody looks at it; None: it is not."""
    writers = [one.parameter for one in group.writes]
    if any(excluded(name, settings.exclude) for name in (group.name, *writers)):
        return "it is excluded"
    if not any(one in scored for one in writers):
        return "none of its weights is the weight of a layer, which is what scores are of"
    return None


def _fastest(pools: Sequence[Together], model: ir.Model, settings: PruneSettings) -> Chooser:
    """Choose widths by what they bring on the target; see ``latency``."""

    def choose(scores: Scores, held: Mapping[str, Tensor], share: float) -> Masks:
        worth, dead = {}, {}
        for pool in pools:
            importance, gone = pool.importance(scores), pool.gone(held)
            left = importance[~gone]
            mean = float(left.mean()) if settings.normalise and left.numel() else 0.0
            worth[pool.name] = (importance / mean if mean > 0 else importance).numpy()
            dead[pool.name] = gone.numpy()
        stay = latency.choose(
            [pool.group for pool in pools], worth, model, share * settings.amount, scope=settings.scope, dead=dead
        )
        return merged([pool.masks(~torch.from_numpy(stay[pool.name])) for pool in pools])

    return choose
