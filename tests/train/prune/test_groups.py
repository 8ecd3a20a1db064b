"""What is removed together: the groups of nets of every kind, each proved by what can be seen in the net's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.facts.stats import macs, stats
from graphopt.plan.cost import CostModel
from graphopt.train.prune.groups import Found, Slice, groups
from graphopt.train.prune.predicted import Predicted
from tests.train.prune.group_nets import CASES, LONG, built

NAMES = [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in CASES]


@torch.no_grad()
def _outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = net(*inputs)
    return found if isinstance(found, tuple) else (found,)


@torch.no_grad()
def _set(net: nn.Module, slices: Iterable[Slice], unit: int, values: torch.Generator | None = None) -> None:
    """Zero a unit's slices, or fill them with large numbers."""
    for each in slices:
        parameter, at = net.get_parameter(each.parameter), torch.from_numpy(each.index[unit])
        part = parameter.index_select(each.axis, at)
        new = torch.zeros_like(part) if values is None else 3 * torch.randn(part.shape, generator=values)
        parameter.index_copy_(each.axis, at, new)


def _same(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found(name: str) -> None:
    found = built(name)[2]
    listed = tuple((group.name, group.kind, group.units) for group in found.groups)
    assert listed == CASES[name].groups
    assert len({group.name for group in found.groups}) == len(listed)
    for group in found.groups:
        assert group.writes
        for each in (*group.writes, *group.reads):
            assert each.index.dtype == np.int64 and each.index.shape[0] == group.units
            assert np.unique(each.index).size == each.index.size  # no position belongs to two units


@pytest.mark.parametrize("name", NAMES)
def test_what_reads_a_removed_unit_is_dead(name: str) -> None:
    """Zeros in ``writes``: whatever stands in ``reads``, no output changes by a bit. Of a unit that stays it does."""
    net, inputs, found = built(name)
    numbers = torch.Generator().manual_seed(2)
    before = _outputs(net, inputs)
    for group in found.groups:
        seen = set[str]()
        for unit in range(min(group.units, 3)):
            changed = deepcopy(net)
            _set(changed, group.writes, unit)
            removed = _outputs(changed, inputs)
            _set(changed, group.reads, unit, numbers)
            assert _same(_outputs(changed, inputs), removed), group.name
            seen |= {"itself"} if not _same(removed, before) else set()
            for each in group.reads if group.units > 1 else ():
                near_miss = deepcopy(net)
                _set(near_miss, group.writes, unit)
                _set(near_miss, [each], (unit + 1) % group.units, numbers)
                seen |= {each.parameter} if not _same(_outputs(near_miss, inputs), removed) else set()
        # Some units may be silent behind a ReLU; not all of them.
        assert seen == {"itself", *(each.parameter for each in group.reads if group.units > 1)}, group.name


def _left(model: ir.Model, found: Found, gone: Mapping[str, int]) -> int:
    """Multiply-adds of the graph once so many units of each group are gone, operator by operator."""
    time = Predicted(found.groups, model, CostModel())
    stay = {group.name: group.units - gone[group.name] for group in found.groups}
    total = 0
    for each in time.operators:
        sides = [each.outputs] if each.kind in ("depthwise", "computed") else [each.inputs, each.outputs]
        share = [Fraction(int(side.at(stay, time.units)), side.size) for side in sides]
        total += int(macs(each.node) * math.prod(share))
    counted = {each.node for each in time.operators}
    return total + sum(macs(node) for node in model.graph if node not in counted)


@pytest.mark.parametrize("name", NAMES)
def test_optimize_makes_good_what_the_groups_promise(name: str) -> None:
    """A unit of every group that has several goes: multiply-adds as of the net without them, the same outputs."""
    net, inputs, found = built(name)
    net, gone = deepcopy(net), {group.name: int(group.units > 1) for group in found.groups}
    for group in found.groups:
        if gone[group.name]:
            _set(net, group.writes, group.units // 2)
    model, promised = models.clone(found.model), _left(found.model, found, gone)
    for parameter, value in net.named_parameters():
        model.graph.initializers[parameter].const_value = ir.tensor(value.detach().numpy().copy(), name=parameter)
    small = graphopt.optimize(model, plan="smallest", verify=False, measure=False).model
    # Of vision transformers the class token is selected before its last layer: then there is even less to do.
    assert stats(small).macs == promised if name != "vit" else stats(small).macs < promised
    assert promised < stats(model).macs
    assert stats(small).parameters < stats(model).parameters
    one = tuple(each[:1] for each in inputs)
    feeds = {value.name or "": each.numpy() for value, each in zip(model.graph.inputs, one, strict=True)}
    for got, wanted in zip(runtime.run(runtime.session(small), feeds), _outputs(net, one), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-5)


def test_streams_may_be_left_out() -> None:
    net, inputs, found = built("residual")
    named = [group.name for group in found.groups if group.kind != "stream"]
    assert 0 < len(named) < len(found.groups)
    assert [group.name for group in groups(net, inputs, stream=False)] == named
