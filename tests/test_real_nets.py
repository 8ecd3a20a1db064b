"""Masked torch nets of the usual architectures, exported in three forms, against a twin that was narrowed by hand.

The fast half takes ResNet-20 and small versions of the others, the long half all forms, full sizes and all test images.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import graphopt
from graphopt import runtime
from graphopt.errors import ModelError
from graphopt.facts.stats import stats
from tests.nets import billions, cifar, decoder, quantized
from tests.nets.catalogue import FULL, SMALL, trained
from tests.nets.exporting import masked_model, twin_model
from tests.nets.net import FORMS, Net
from tests.nets.remains import inside_chains, joins, masks_left, widenings

# Exporting takes most of the time, and tracing a tenth of the other exporter's. The fast half has the older nets in the
# form that leaves most to do, those that differ most in every form, the newer ones traced; the long half all the rest.
_IN_EVERY_FORM = {"resnet18", "mobilenet", "unet", "encoder"}
_TRACED = {
    *("decoder-groups", "decoder-each", "decoder-any", "mobilenet3", "shufflenet", "shufflenet-unlike", "superres"),
    *("groupnorm", "tagger", "stream-rms", "stream-layer", "vit"),
}


def _is_fast(size: str, name: str, form: str) -> bool:
    if size == "full":
        return (name, form) == ("resnet20", "torchscript")
    return form == ("torchscript" if name in _TRACED else "masks") or name in _IN_EVERY_FORM


def _net(size: str, name: str) -> Net:
    return (FULL if size == "full" else SMALL)[name]


# Hundreds of megabytes each: they get one test of their own.
_HEAVY = [name for name in FULL if name == "bert" or name.startswith("decoder")]
_NETS = [("small", name) for name in SMALL] + [("full", name) for name in FULL if name not in _HEAVY]
PLANS = ("smallest", "fastest")
EVERY = [
    pytest.param(
        size, name, form, id=f"{size}-{name}-{form}", marks=[] if _is_fast(size, name, form) else pytest.mark.long
    )
    for size, name in _NETS
    for form in _net(size, name).forms
]
SHUFFLED = "survivors that differ from group to group: the shuffle is not renumbered for them yet"


def but(reason: str, *names: str, forms: tuple[str, ...] = FORMS) -> list[Any]:
    """Every net, of which those with these names in these forms are known to fail."""
    mark = pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError)
    failing = {(name, form) for name in names for form in forms}
    return [
        pytest.param(*case.values, id=case.id, marks=[*case.marks, mark]) if case.values[1:] in failing else case
        for case in EVERY
    ]


# Each net once.
TWINS = [
    case
    for case in EVERY
    if case.values[2] == ("torchscript" if case.values[0] == "full" or case.values[1] in _TRACED else "masks")
]


@cache
def original(size: str, name: str, form: str) -> ir.Model:
    return masked_model(_net(size, name), form)


@cache
def optimized(size: str, name: str, form: str, plan: str) -> ir.Model:
    return graphopt.optimize(original(size, name, form), plan=plan, verify=False, measure=False).model


def smallest(size: str, name: str, form: str) -> ir.Model:
    return optimized(size, name, form, "smallest")


@cache
def twin(size: str, name: str) -> ir.Model:
    # The tracing exporter fuses batch-norms as the other one does, in a tenth of the time.
    return twin_model(_net(size, name), traced=True)


def assert_same(one: ir.Model, other: ir.Model, net: Net, batches: tuple[int, ...]) -> None:
    """The same numbers up to the order of sums, and the same class wherever two classes are not tied."""
    before, after = runtime.session(one, optimize=False), runtime.session(other)
    if runtime.fatal_on_empty(one):
        batches = tuple(batch for batch in batches if batch)
    for batch, sizes in itertools.product(batches, net.sizes):
        feeds = net.feeds(batch, seed=batch, sizes=sizes)
        try:
            wanted = runtime.run(before, feeds)
        except ModelError:
            # Tracing writes -1 for a size that is unknown where another one is 0: such a net takes no empty batch.
            assert not batch
            continue
        pairs = list(zip(wanted, runtime.run(after, feeds), strict=True))
        for expected, given in pairs:
            assert given.dtype == expected.dtype
            assert given.shape == expected.shape
            if expected.size:
                assert float(np.abs(given - expected).max()) <= 1e-5 * float(np.abs(expected).max()), net.name
        if batch:
            assert_same_classes(*pairs[0])


def assert_same_classes(expected: np.ndarray, given: np.ndarray) -> None:
    """Along axis 1, classes or not: the largest number is where it was, if no other one is as large."""
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2:].min(1) > 2e-5 * float(np.abs(expected).max())
    assert clear.any() or expected.shape[1] == 1
    assert (expected.argmax(1) == given.argmax(1))[clear].all()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("size", "name", "form"), EVERY)
def test_optimized_net_computes_the_same(size: str, name: str, form: str, plan: str) -> None:
    batches = (0, 1, 3, 17) if size == "small" else (1, 3)
    assert_same(original(size, name, form), optimized(size, name, form, plan), _net(size, name), batches)


@pytest.mark.parametrize(("size", "name", "form"), EVERY)
def test_no_mask_is_left(size: str, name: str, form: str) -> None:
    if not form.endswith("zeros"):
        assert masks_left(original(size, name, form)), "the masks are to be seen before"
    for plan in PLANS:
        assert masks_left(optimized(size, name, form, plan)) == [], plan


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("size", "name", "form"), EVERY)
def test_nothing_is_scattered_inside_chains(size: str, name: str, form: str, plan: str) -> None:
    if (name, plan) == ("shufflenet-unlike", "fastest"):
        pytest.xfail(SHUFFLED)
    # A class token in front of the patches has the form of a scatter and is the net's own.
    assert len(inside_chains(optimized(size, name, form, plan))) <= len(inside_chains(original(size, name, form)))


@pytest.mark.parametrize(("size", "name", "form"), EVERY)
def test_one_join_per_residual_add(size: str, name: str, form: str) -> None:
    """The default plan's promise; the smallest plan narrows trunks too, at the price of joins on both sides."""
    model, own = optimized(size, name, form, "fastest"), widenings(original(size, name, form))
    assert len(widenings(model)) <= _net(size, name).residuals + len(own)
    # Which Add the net's own ones (a shortcut that is padded) end in is not told here.
    assert own or max(joins(model).values(), default=0) <= 1, joins(model)


def test_joins_are_counted() -> None:
    """The counts above are not empty ones: the smallest plan scatters both sides of wide streams."""
    most = joins(smallest("small", "resnet18-wide", "masks")).values()
    assert sorted(most) == [2, 2]
    assert sum(joins(optimized("small", "resnet18-wide", "masks", "fastest")).values()) < sum(most)


@pytest.mark.parametrize(("size", "name", "form"), but(SHUFFLED, "shufflenet-unlike"))
def test_no_more_parameters_than_the_twin(size: str, name: str, form: str) -> None:
    before = stats(original(size, name, form)).parameters
    after, optimum = stats(smallest(size, name, form)).parameters, stats(twin(size, name)).parameters
    assert optimum < before
    assert after <= optimum


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("size", "name", "form"), EVERY)
def test_a_second_run_changes_nothing(size: str, name: str, form: str, plan: str) -> None:
    once = optimized(size, name, form, plan)
    again = graphopt.optimize(once, plan=plan, verify=False, measure=False)
    assert stats(again.model) == stats(once)
    assert [node.op_type for node in again.model.graph] == [node.op_type for node in once.graph]


@pytest.mark.parametrize(("size", "name", "form"), TWINS)
def test_twin_computes_the_same(size: str, name: str, form: str) -> None:
    """The yardstick itself is right."""
    assert_same(original(size, name, form), twin(size, name), _net(size, name), (1, 5))


def test_a_net_without_masks_keeps_its_channels() -> None:
    from tests.nets.exporting import plainly_exported
    from tests.nets.masking import randomise
    from tests.nets.resnet import ResNet

    module = randomise(ResNet((7, 10), 1, projection=True), 3)
    model = plainly_exported(module, SMALL["resnet18"])
    result = graphopt.optimize(model, plan="smallest", verify=False, measure=False)
    assert stats(result.model).macs == stats(model).macs
    assert stats(result.model).parameters == stats(model).parameters
    assert result.report.scatters.inserted == 0


@pytest.mark.long
@pytest.mark.parametrize("form", ["masks", "torchscript-zeros"])
@pytest.mark.parametrize("name", _HEAVY)
def test_large_transformer_is_its_twin(name: str, form: str) -> None:
    net = FULL[name]
    before = masked_model(net, form)
    after = graphopt.optimize(before, plan="smallest", verify=False).model
    assert stats(after).parameters <= stats(twin_model(net, traced=True)).parameters
    assert masks_left(after) == []
    assert_same(before, after, net, (1, 2))


@pytest.mark.long
@pytest.mark.parametrize("shape", [billions.SHAPE, decoder.Shape(37, 32, 8, 2, 22, 3)], ids=["large", "small"])
def test_decoder_beside_its_weights_is_narrowed_in_little_memory(shape: decoder.Shape, tmp_path: Path) -> None:
    try:
        found = billions.optimized(tmp_path, shape)
    finally:
        for file in tmp_path.iterdir():
            file.unlink()
    assert found["peak_bytes"] <= billions.allowed_bytes(shape)
    assert found["difference"] <= 1e-5
    # Single numbers (exponents, epsilons) are constants of the graph and no parameters of the twin: five a layer.
    assert found["parameters"] <= billions.twin_parameters(shape) + 5 * shape.layers


# Dead channels of these are zero, so narrowing before and after quantizing gives the same scales.
_FAST = {("vgg", "qoperator", False), ("mobilenet3", "qdq", True), ("superres", "qoperator", True)}
QUANTIZED = [
    pytest.param(*case, marks=[] if case in _FAST else pytest.mark.long)
    for case in itertools.product(("vgg", "mobilenet3", "superres"), quantized.FORMATS, (False, True))
]


@pytest.mark.parametrize(("name", "form", "per_channel"), QUANTIZED)
def test_quantized_net_is_its_twin(name: str, form: str, per_channel: bool) -> None:
    net = SMALL[name]
    before = quantized.quantized(net, form, per_channel=per_channel)
    optimum = quantized.quantized(net, form, narrow=True, per_channel=per_channel)
    after = graphopt.optimize(before, plan="smallest", verify=False).model
    assert quantized.numbers(optimum) < 0.5 * quantized.numbers(before)
    assert quantized.numbers(after) <= quantized.numbers(optimum)
    for batch in (0, 1, 3):
        feeds = net.feeds(batch, seed=batch)
        # As written, since onnxruntime fuses the two models differently: 8 bits agree to the last one.
        (expected,), (given,) = (
            runtime.run(runtime.session(model, optimize=False), feeds) for model in (before, after)
        )
        np.testing.assert_array_equal(given, expected)


@pytest.mark.long
@pytest.mark.parametrize("form", SMALL["resnet18"].forms)
@pytest.mark.parametrize("depth", [20, 56])
def test_every_cifar_test_image_keeps_its_class(depth: int, form: str) -> None:
    if not (trained(depth) and cifar.present()):
        pytest.skip("needs trained weights and images in ../shared/data beside the repository")
    name = f"resnet{depth}"
    before = runtime.session(original("full", name, form), optimize=False)
    after = [runtime.session(optimized("full", name, form, plan)) for plan in PLANS]
    seen = 0
    for images, _ in cifar.batches():
        (expected,) = runtime.run(before, {"x": images})
        for session in after:
            (given,) = runtime.run(session, {"x": images})
            assert float(np.abs(expected - given).max()) < 1e-4
            assert (expected.argmax(1) == given.argmax(1)).all()
        seen += len(images)
    assert seen == 10_000
