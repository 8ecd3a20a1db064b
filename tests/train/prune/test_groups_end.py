"""From groups to a small model: units removed in torch, masks exported, optimized, verified, counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphopt
from graphopt.facts.stats import stats
from graphopt.train.prune.groups import find
from graphopt.train.prune.masks import attach
from tests.nets import resnet
from tests.nets.masking import randomise


@pytest.mark.parametrize("stream", [True, False])
def test_half_of_the_units_leave_a_quarter_of_the_work(stream: bool) -> None:
    """With the streams ``(1 - p)^2`` of the multiply-adds stay, but for the stem's; without them ``1 - p``."""
    net = randomise(resnet.ResNet((16, 32), 1, projection=True), 0, centre=0.3)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = find(net, (x,))
    numbers, masks = np.random.default_rng(0), {}
    for group in found.groups:
        if group.kind == "stream" and not stream:
            continue
        gone = numbers.permutation(group.units)[: group.units // 2]
        for each in (*group.writes, *group.reads):
            mask = masks.setdefault(
                each.parameter, torch.zeros_like(net.get_parameter(each.parameter), dtype=torch.bool)
            )
            mask.index_fill_(each.axis, torch.from_numpy(each.index[gone].ravel()), True)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).masked_fill_(mask, 0)
    attach(net, masks)
    with torch.no_grad():
        wanted = net.eval()(x)
    model = graphopt.export(net, (x,), dynamic_shapes={"image": {0: "batch"}})
    small = graphopt.optimize(model, plan="smallest")
    assert small.report.verify is not None and small.report.verify.passed
    got = graphopt.runtime.run(graphopt.runtime.session(small.model), {"image": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-5)
    share = stats(small.model).macs / stats(found.model).macs
    least, most = (0.25, 0.28) if stream else (0.5, 0.57)
    assert least <= share <= most
    assert stats(small.model).parameters < most * stats(found.model).parameters
