"""Every family: its net, its export, its recipe; and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402

from graphopt import runtime  # noqa: E402
from graphopt.errors import GraphoptError, UsageError  # noqa: E402
from graphopt.models.classifier import seeded  # noqa: E402
from graphopt.models.data import files  # noqa: E402
from graphopt.models.resnet_cifar.module import Block, ResNet  # noqa: E402
from graphopt.models.resnet_cifar.weights import load as load_weights  # noqa: E402
from graphopt.train import recipe  # noqa: E402
from graphopt.train.family import Family, family, names  # noqa: E402
from graphopt.train.settings import Settings  # noqa: E402
from graphopt.train.trainer import Trainer  # noqa: E402

CLASSIFIERS = ("mlp_digits", "mobilenet", "resnet_cifar", "resnet_digits", "vgg_small")

SMALL = {
    "mlp_digits": {"hidden": [13]},
    "mobilenet": {"width": 8, "expansion": 1, "size": 8},
    "resnet_cifar": {"width": 4, "depth": 8, "size": 8},
    "resnet_digits": {"width": 8},
    "vgg_small": {"width": 4, "size": 8},
}
"""Options of nets that learn in a second."""


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two nets of a shape have the same parameters."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_folder_with_a_family_is_found() -> None:
    assert set(CLASSIFIERS) <= set(names())
    assert "data" not in names()
    for name in names():
        assert family(name).name == name


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shapes_and_the_same_seed_gives_the_same_net(name: str) -> None:
    kind = family(name)
    before = torch.get_rng_state()
    net = kind.new(seed=3, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert same(net, kind.new(seed=3, **SMALL[name]))
    assert not same(net, kind.new(seed=4, **SMALL[name]))  # near miss
    (example,) = kind.example(net)
    assert len(example) == 2
    for batch in (0, 1, 3):
        assert net.eval()(example[:1].repeat(batch, *[1] * (example.ndim - 1))).shape == (batch, 10)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_export_computes_what_the_net_computes_at_any_batch(name: str) -> None:
    """Statistics of the norms are not those of a new net, or a norm that got lost would not be seen."""
    kind = family(name)
    net = unsettled(kind.new(seed=1, **SMALL[name]))
    model = kind.export(net)
    assert [one.name for one in model.graph.inputs] == [kind.input]
    assert [one.name for one in model.graph.outputs] == [kind.output]
    session = runtime.session(model)
    (example,) = kind.example(net)
    for batch in (1, 2, 5):
        x = torch.randn((batch, *example.shape[1:]), generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = net.eval()(x).numpy()
        (found,) = runtime.run(session, {kind.input: x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


def unsettled(net: nn.Module) -> nn.Module:
    """Give every norm random statistics, scales and shifts."""
    generator = torch.Generator().manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(generator=generator)
    return net


@pytest.mark.parametrize("width", [1, 7])
@pytest.mark.parametrize("name", ["mobilenet", "resnet_cifar", "resnet_digits", "vgg_small"])
def test_widths_of_one_and_of_a_prime_number(name: str, width: int) -> None:
    kind = family(name)
    net = kind.new(**{**SMALL[name], "width": width})
    (example,) = kind.example(net)
    assert net(example).shape == (2, 10)
    assert net(example).requires_grad


def test_an_mlp_without_hidden_layers_is_one_layer() -> None:
    net = family("mlp_digits").new(hidden=[])
    assert [tuple(one.shape) for one in net.parameters()] == [(10, 64), (10,)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As published: 0.27 million (He et al. 2016, table 6), 4.6 million; 266,610 for LeNet-300-100 has 784 inputs.
    [("resnet_cifar", 269_722), ("vgg_small", 4_660_106), ("mlp_digits", 266_610 - 720 * 300)],
)
def test_sizes_are_the_published_ones(name: str, parameters: int) -> None:
    assert sum(one.numel() for one in family(name).new().parameters()) == parameters


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "mobilenet"])
def test_a_short_training_on_the_digits_improves(name: str) -> None:
    kind = family(name)
    options = {"size": 8} if "size" in SMALL[name] else {}
    data = kind.data(train=640, **options)
    net = kind.new(seed=0, **SMALL[name])
    trainer = Trainer(net, data, kind.task, seed=0, device="cpu")
    before = trainer.evaluate()
    trainer.fit(Settings(epochs=4, batch=32, rate=0.01))
    assert before < 0.3 < 0.5 < trainer.evaluate()


def test_a_mobilenet_learns_a_few_images_by_heart() -> None:
    """It is too deep to learn more in a second."""
    kind = family("mobilenet")
    trainer = Trainer(kind.new(**SMALL["mobilenet"]), kind.data(train=32, size=8), kind.task, device="cpu")
    trainer.fit(Settings(epochs=20, batch=32, rate=0.01))
    assert trainer.history[-1]["loss"] < 0.5 * trainer.history[0]["loss"]


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_read_and_fits_its_family(name: str) -> None:
    found = recipe.load(name)
    assert found.family is family(name)
    small = dict(SMALL.get(name, {}))
    changes = [f"model.{key}={value}" for key, value in small.items()]
    with_less = recipe.load(name, changes)
    assert isinstance(with_less.new_net(), nn.Module)
    if name in CLASSIFIERS:
        digits = ["data.name=digits"] if "size" in small else []
        data = recipe.load(name, [*changes, *digits, "data.train=7", "data.test=2"]).load_data()
        assert (len(data.train), len(data.test)) == (7, 2)
        assert found.quantize is not None
    assert found.prune is not None


def test_a_recipe_with_a_wrong_option_says_so() -> None:
    with pytest.raises(UsageError, match="widht"):
        recipe.load("resnet_digits", ["model.widht=3"]).new_net()


# --- resnet_cifar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (1, 2), (7, 14), (3, 3)])
def test_shortcut_a_puts_the_channels_between_zeros(inputs: int, outputs: int) -> None:
    x = torch.randn(2, inputs, 5, 5)
    side = Block(inputs, outputs, 2, False).shortcut(x)
    low = (outputs - inputs) // 2
    assert side.shape == (2, outputs, 3, 3)
    assert torch.equal(side[:, low : low + inputs], x[:, :, ::2, ::2])
    assert not side[:, :low].any() and not side[:, low + inputs :].any()


def test_shortcut_b_is_a_convolution_and_the_identity_is_nothing() -> None:
    assert Block(4, 8, 2, True).projection is not None
    assert Block(4, 4, 1, True).projection is None
    x = torch.randn(1, 4, 3, 3)
    assert Block(4, 4, 1, False).shortcut(x) is x


def test_a_shortcut_that_there_is_not() -> None:
    assert any("projection" in name for name in family("resnet_cifar").new(depth=8, shortcut="B").state_dict())
    with pytest.raises(UsageError, match="'C'"):
        family("resnet_cifar").new(depth=8, shortcut="C")


@pytest.mark.parametrize("depth", [2, 19, 0])
def test_a_depth_that_there_is_not(depth: int) -> None:
    with pytest.raises(UsageError, match=str(depth)):
        family("resnet_cifar").new(depth=depth)


def test_a_size_that_cannot_be_halved_three_times() -> None:
    with pytest.raises(UsageError, match="12x12"):
        family("vgg_small").new(size=12)


def test_weights_are_read_by_path_and_those_of_another_net_are_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    kind = family("resnet_cifar")
    net = unsettled(kind.new(seed=5, **SMALL["resnet_cifar"]))
    path = tmp_path / "net.safetensors"
    given = {name: one for name, one in net.state_dict().items() if "num_batches" not in name}
    safetensors.save_file(given, path)
    read = kind.new(seed=6, weights=str(path), **SMALL["resnet_cifar"])
    assert all(torch.equal(read.state_dict()[name], one) for name, one in given.items())
    other = seeded(0, lambda: ResNet((4, 8, 16), 2))
    before = [one.clone() for one in other.parameters()]
    with pytest.raises(UsageError, match="another net"):  # more layers
        load_weights(other, path)
    with pytest.raises(UsageError, match="another net"):  # the same names, other widths
        kind.new(width=5, depth=8, weights=str(path))
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), before, strict=True))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GraphoptError, match="cannot read"):
        load_weights(net, path)


def test_weights_that_are_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_DATA", str(tmp_path))
    with pytest.raises(GraphoptError, match=r"no weights 'nowhere\.safetensors'"):
        family("resnet_cifar").new(weights="nowhere.safetensors")


@pytest.mark.skipif(files.present("cifar10_resnet20.safetensors") is None, reason="the published weights are not here")
def test_the_published_weights_load_by_name() -> None:
    kind = family("resnet_cifar")
    net = kind.new(weights="cifar10_resnet20.safetensors")
    assert not same(net, kind.new())
    assert not net.training


def test_a_family_is_complete() -> None:
    for name in CLASSIFIERS:
        kind = family(name)
        assert isinstance(kind, Family) and kind.task.name == "classification" and kind.output == "logits"
