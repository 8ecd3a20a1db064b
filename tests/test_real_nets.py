"""Masked torch nets of the usual architectures, exported in three forms, against a twin that was narrowed by hand.

The fast half takes ResNet-20 and small versions of the others, the long half full sizes and all test images.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import graphopt
from graphopt import runtime
from graphopt.facts.stats import stats
from tests.nets import cifar
from tests.nets.catalogue import FORMS, FULL, SMALL, Net, trained
from tests.nets.exporting import masked_model, twin_model
from tests.nets.remains import inside_chains, masks_left, widenings

_FAST = [("small", name) for name in SMALL] + [("full", "resnet20")]
_LONG = [("full", name) for name in FULL if name != "resnet20"]
EVERY = [pytest.param(*case, id="-".join(case)) for case in _FAST] + [
    pytest.param(*case, id="-".join(case), marks=pytest.mark.long) for case in _LONG
]


def _net(size: str, name: str) -> Net:
    return (FULL if size == "full" else SMALL)[name]


@cache
def original(size: str, name: str, form: str) -> ir.Model:
    return masked_model(_net(size, name), form)


@cache
def smallest(size: str, name: str, form: str) -> ir.Model:
    return graphopt.optimize(original(size, name, form), plan="smallest", verify=False).model


@cache
def twin(size: str, name: str) -> ir.Model:
    # The tracing exporter fuses batch-norms as the other one does, in a tenth of the time.
    return twin_model(_net(size, name), traced=True)


def outputs(model: ir.Model, feeds: np.ndarray, *, as_written: bool = False) -> np.ndarray:
    return runtime.run(runtime.session(model, optimize=not as_written), {"x": feeds})[0]


def assert_same(one: ir.Model, other: ir.Model, net: Net, batches: tuple[int, ...]) -> None:
    """The same numbers up to the order of sums, and the same class wherever two classes are not tied."""
    for batch in batches:
        feeds = net.inputs(batch, seed=batch).numpy()
        expected, given = outputs(one, feeds, as_written=True), outputs(other, feeds)
        assert given.dtype == expected.dtype
        assert given.shape == expected.shape
        if not batch:
            continue
        allowed = 1e-5 * float(np.abs(expected).max())
        assert float(np.abs(given - expected).max()) <= allowed, net.name
        best = np.sort(expected, axis=1)
        clear = best[:, -1] - best[:, -2] > 2 * allowed
        assert clear.any()
        assert (expected.argmax(1) == given.argmax(1))[clear].all()


@pytest.mark.parametrize(("size", "name"), EVERY)
@pytest.mark.parametrize("form", FORMS)
def test_optimized_net_computes_the_same(size: str, name: str, form: str) -> None:
    net = _net(size, name)
    assert_same(
        original(size, name, form), smallest(size, name, form), net, (0, 1, 3, 17) if size == "small" else (1, 3)
    )


@pytest.mark.parametrize(("size", "name"), EVERY)
@pytest.mark.parametrize("form", FORMS)
def test_no_mask_is_left(size: str, name: str, form: str) -> None:
    if form != "zeros":
        assert masks_left(original(size, name, form)), "the masks are to be seen before"
    assert masks_left(smallest(size, name, form)) == []


@pytest.mark.parametrize(("size", "name"), EVERY)
@pytest.mark.parametrize("form", FORMS)
def test_joins_only_at_residual_adds(size: str, name: str, form: str) -> None:
    model = smallest(size, name, form)
    assert inside_chains(model) == []
    allowed = _net(size, name).residuals + len(widenings(original(size, name, form)))
    assert len(widenings(model)) <= allowed


@pytest.mark.parametrize(("size", "name"), EVERY)
@pytest.mark.parametrize("form", FORMS)
def test_no_more_parameters_than_the_twin(size: str, name: str, form: str) -> None:
    before = stats(original(size, name, form)).parameters
    after, optimum = stats(smallest(size, name, form)).parameters, stats(twin(size, name)).parameters
    assert optimum < before
    assert after <= optimum


@pytest.mark.parametrize(("size", "name"), EVERY)
@pytest.mark.parametrize("form", FORMS)
def test_a_second_run_changes_nothing(size: str, name: str, form: str) -> None:
    once = smallest(size, name, form)
    again = graphopt.optimize(once, plan="smallest", verify=False)
    assert stats(again.model) == stats(once)
    assert [node.op_type for node in again.model.graph] == [node.op_type for node in once.graph]


@pytest.mark.parametrize("name", ["vgg-alive", "resnet18", "encoder"])
def test_fastest_plan_computes_the_same(name: str) -> None:
    model = original("small", name, "masks")
    result = graphopt.optimize(model, plan="fastest", verify=False).model
    assert masks_left(result) == []
    assert_same(model, result, SMALL[name], (1, 3))


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_twin_computes_the_same(size: str, name: str) -> None:
    """The yardstick itself is right."""
    net = _net(size, name)
    assert_same(original(size, name, "torchscript"), twin(size, name), net, (1, 5))


def test_a_net_without_masks_keeps_its_channels() -> None:
    import torch

    from tests.nets.exporting import plainly_exported
    from tests.nets.masking import randomise
    from tests.nets.resnet import ResNet

    module = randomise(ResNet((7, 10), 1, projection=True), 3)
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = plainly_exported(module, inputs)
    result = graphopt.optimize(model, plan="smallest", verify=False)
    assert stats(result.model).macs == stats(model).macs
    assert stats(result.model).parameters == stats(model).parameters
    assert result.report.scatters.inserted == 0


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [20, 56])
def test_every_cifar_test_image_keeps_its_class(depth: int, form: str) -> None:
    if not (trained(depth) and cifar.present()):
        pytest.skip("needs trained weights and images in ../shared/data beside the repository")
    name = f"resnet{depth}"
    before = runtime.session(original("full", name, form), optimize=False)
    after = runtime.session(smallest("full", name, form))
    seen = 0
    for images, _ in cifar.batches():
        (expected,), (given,) = runtime.run(before, {"x": images}), runtime.run(after, {"x": images})
        assert float(np.abs(expected - given).max()) < 1e-4
        assert (expected.argmax(1) == given.argmax(1)).all()
        seen += len(images)
    assert seen == 10_000
