"""The small vision transformer: its sizes, its file, and what pruning takes out of the file."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from graphopt import model as models
from graphopt import optimize, runtime
from graphopt.errors import UsageError
from graphopt.models.vit_tiny.family import FAMILY
from graphopt.models.vit_tiny.module import VitTiny, new
from graphopt.train import recipe
from graphopt.train.family import family, names
from graphopt.train.prune.groups import Group, Slice, groups
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer

WIDTH, HEADS, SIZE, HIDDEN = 37, 5, 6, 23
"""None divides another; the width is prime."""
SPARE = 24
"""Numbers that an exporter adds: scales, exponents, axes."""


def net(seed: int = 0, depth: int = 2) -> VitTiny:
    """A small one; nothing is 0 or 1, so that nothing in the wrong place goes unseen."""
    made = new(seed, patch=4, width=WIDTH, heads=HEADS, size=SIZE, hidden=HIDDEN, depth=depth)
    numbers = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        if parameter.dim() == 1:
            low, high = (0.5, 1.5) if "norm" in name and name.endswith("weight") else (-0.3, 0.3)
            torch.nn.init.uniform_(parameter, low, high, generator=numbers)
    return made.eval()


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def fill(model: VitTiny, group: Group, dead: Sequence[int], value: float = 0.0, *, reads: bool = False) -> None:
    for one in group.reads if reads else group.writes:
        where = torch.from_numpy(one.index[list(dead)].reshape(-1))
        model.get_parameter(one.parameter).index_fill_(one.axis, where, value)


@functools.cache
def found() -> list[Group]:
    """Heads and hidden units, as a search in the graph finds them."""
    return groups(net(), FAMILY.example(net()), stream=False)


@functools.cache
def exported() -> ir.Model:
    return FAMILY.export(net())


def file_of(model: VitTiny) -> ir.Model:
    """The file of a net that has lost weights only: those of the file are replaced, as exporting takes seconds."""
    file = models.clone(exported())
    for name, parameter in model.named_parameters():
        value = file.graph.initializers[name]
        assert value.shape == parameter.shape
        value.const_value = ir.tensor(parameter.detach().numpy().copy(), name=name)
    return file


def largest_difference(model: VitTiny, file: ir.Model) -> float:
    session, worst = runtime.session(file), 0.0
    for n in (0, 1, 2, 7):
        with torch.no_grad():
            wanted = model(images(n, n)).numpy()
        (logits,) = runtime.run(session, {FAMILY.input: images(n, n).numpy()})
        assert logits.shape == wanted.shape == (n, 10)
        worst = max(worst, float(np.abs(logits - wanted).max(initial=0)))
    return worst


def test_same_seed_same_net() -> None:
    state = torch.get_rng_state()
    one, same, other = (new(seed, width=16, heads=2, hidden=8, depth=1).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["places"], other["places"])


@pytest.mark.parametrize(
    "options", [{"patch": 3}, {"width": 65}, {"heads": 0}, {"depth": 0}, {"size": -2}, {"classes": 0}, {"image": 0}]
)
def test_sizes_that_do_not_fit(options: dict[str, int]) -> None:
    with pytest.raises(UsageError) as caught:
        new(**options)
    assert caught.value.help


@pytest.mark.parametrize(("image", "channels", "patch"), [(32, 3, 4), (8, 1, 8), (8, 1, 1), (7, 2, 7)])
def test_other_images(image: int, channels: int, patch: int) -> None:
    model = new(image=image, channels=channels, patch=patch, width=12, heads=3, hidden=5, depth=1, classes=7)
    assert model.places.shape[1] == 1 + (image // patch) ** 2
    assert model(torch.zeros(2, *model.shape)).shape == (2, 7)


def test_where_a_patch_is_counts() -> None:
    """The near miss, a net without places, does not see that its patches have changed theirs."""
    model, x = net(), images(2)
    turned = torch.cat([x[..., 4:], x[..., :4]], 3)
    with torch.no_grad():
        assert (model(x) - model(turned)).abs().max() > 1e-4
        model.places.zero_()
        torch.testing.assert_close(model(x), model(turned), rtol=0, atol=1e-5)


def test_every_weight_learns() -> None:
    model = net()
    CLASSIFICATION.loss(model(images(4)), torch.arange(4)).backward()
    for name, one in model.named_parameters():
        assert one.grad is not None and one.grad.abs().max() > 0, name


def test_the_file_is_the_net() -> None:
    assert "vit_tiny" in names() and family("vit_tiny") is FAMILY
    assert largest_difference(net(), exported()) < 5e-6


def test_data_by_name() -> None:
    data = FAMILY.data(train=20, test=10)
    assert data.prepare(data.test.inputs).shape == (10, 1, 8, 8)
    large = FAMILY.data(name="digits", train=2, test=2, size=32, channels=3)
    assert large.prepare(large.test.inputs).shape == (2, 3, 32, 32)
    with pytest.raises(UsageError, match="unknown data 'cifar100'") as caught:
        FAMILY.data(name="cifar100")
    assert caught.value.help is not None and "did you mean cifar10?" in caught.value.help


@pytest.mark.parametrize(
    ("dead", "hidden"),
    [
        ([1, 3], range(0, HIDDEN, 2)),
        ([0], []),
        ([], [HIDDEN - 1]),
        pytest.param(range(1, HEADS), range(1, HIDDEN), id="one-is-left"),
        pytest.param(range(HEADS), range(HIDDEN), id="all-dead"),
    ],
)
def test_dead_units_leave_the_file(dead: Sequence[int], hidden: Sequence[int]) -> None:
    model = net()
    for group in found():
        fill(model, group, dead if group.kind == "head" else hidden)
    result = optimize(file_of(model), measure=False)
    every = sum(one.numel() for one in model.parameters())
    gone = len(model.parts()) * (
        len(dead) * (3 * SIZE * (WIDTH + 1) + SIZE * WIDTH) + len(hidden) * (2 * WIDTH + 1)
    )  # the output's bias stays
    folded = 4 * len(model.parts()) * WIDTH + WIDTH  # norms whose reader is dead; biases and places that become one
    assert result.report.after.parameters <= every - gone + SPARE
    if len(dead) < HEADS:  # else nothing reads the patches, and places of which there is one are left
        assert result.report.after.parameters >= every - gone - folded
    before, after = result.report.before.macs, result.report.after.macs
    assert before is not None and after is not None and after < before
    assert largest_difference(model, result.model) < 5e-6


def test_units_are_found() -> None:
    """A head: rows of its values are written; its queries and keys, and the columns that read it, die with it."""
    assert [(one.kind, one.units) for one in found()] == [("head", HEADS), ("hidden", HIDDEN)] * 2
    heads, hidden = found()[2:]
    rows = np.arange(HEADS * SIZE).reshape(HEADS, SIZE)
    values, scores = rows + 2 * HEADS * SIZE, np.concatenate([rows, rows + HEADS * SIZE], 1)
    qkv = "layers.1.attention.qkv."
    assert places(heads.writes) == {(f"{qkv}weight", 0): values.tolist(), (f"{qkv}bias", 0): values.tolist()}
    assert places(heads.reads) == {
        (f"{qkv}weight", 0): scores.tolist(),
        (f"{qkv}bias", 0): scores.tolist(),
        ("layers.1.attention.output.weight", 1): rows.tolist(),
    }
    units = [[i] for i in range(HIDDEN)]
    assert places(hidden.writes) == {("layers.1.first.weight", 0): units, ("layers.1.first.bias", 0): units}
    assert places(hidden.reads) == {("layers.1.second.weight", 1): units}


def places(slices: Sequence[Slice]) -> dict[tuple[str, int], list[list[int]]]:
    return {(one.parameter, one.axis): np.sort(one.index, 1).tolist() for one in slices}


def test_zeros_in_what_is_written_remove_a_unit() -> None:
    """Whatever stands in what reads it; of another unit, it does count."""
    x = images(2)
    for group in found():
        model = net()
        fill(model, group, [1])
        with torch.no_grad():
            wanted = model(x)
            assert (net()(x) - wanted).abs().max() > 1e-4
            fill(model, group, [1], 7.0, reads=True)
            torch.testing.assert_close(model(x), wanted, rtol=0, atol=5e-6)
            fill(model, group, [0], 7.0, reads=True)
            assert (model(x) - wanted).abs().max() > 1e-2


def test_digits_are_learnt() -> None:
    model = new(patch=4, width=24, heads=3, hidden=24, depth=1)
    trainer = Trainer(model, FAMILY.data(), CLASSIFICATION)
    assert trainer.evaluate() < 0.3
    trainer.fit(Settings(epochs=6, batch=64, optimizer="adamw", rate=5e-3, clip=1.0))
    assert trainer.evaluate() > 0.85


def test_the_recipe_is_the_net_of_the_readme() -> None:
    made = recipe.load("vit_tiny")
    assert made.family is FAMILY and made.prune is not None and made.prune.structure == "units"
    assert sum(one.numel() for one in made.new_net().parameters()) == 136_138
