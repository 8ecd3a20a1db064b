"""From a family to packed bits: trained on the digits, exported, lowered, resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from graphopt import runtime
from graphopt.errors import UsageError
from graphopt.runtime_ops import library
from graphopt.runtime_ops.binary_gemm import bits
from graphopt.train.binary import (
    Agreement,
    Binarized,
    BinarizeSettings,
    Sign,
    agreement,
    binarize,
    binary_net,
    lowered,
    require,
    to_onnx,
)
from graphopt.train.data import Data
from graphopt.train.family import Family, family
from graphopt.train.settings import Settings

MLP = {"hidden": [67, 70, 33]}
QUICK = BinarizeSettings(train=Settings(epochs=3, rate=5e-3))


@pytest.fixture(scope="module")
def mlp() -> tuple[Family, Data, Binarized]:
    kind = family("mlp_digits")
    data = kind.data()
    return kind, data, binarize(kind, MLP, data, QUICK)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_it_learns(mlp: tuple[Family, Data, Binarized]) -> None:
    kind, data, found = mlp
    untrained, layers = binary_net(kind, MLP, QUICK)
    assert found.layers == layers == ["layers.1", "layers.2"]
    assert found.figure > 0.9 > kind.task.evaluate(untrained, data)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    signs = [one for one in found.net.modules() if isinstance(one, Sign)]
    assert len(signs) == 4 and all(one.error is None and one.share > 0.98 for one in signs)


def test_onnx_and_bits_answer_as_torch_does(mlp: tuple[Family, Data, Binarized]) -> None:
    """The same answers on every test image, in standard operators and in packed bits."""
    kind, data, found = mlp
    packed = lowered(found.model)
    assert operators(packed) == ["Gemm", "BinaryGemmSign", "BinaryGemm", "Clip", "Gemm"]
    for model in (found.model, packed):
        agreed = agreement(found.net, model, kind, data)
        assert agreed == Agreement(359, 359, 359, (found.figure, found.figure))
        require(agreed)


def test_without_the_library_it_is_the_same(
    mlp: tuple[Family, Data, Binarized], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, data, found = mlp
    packed = lowered(found.model)
    x = {kind.input: data.test.inputs.numpy()}
    (with_library,) = runtime.run(runtime.session(packed), x)
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", "")
    assert library() is None
    (as_functions,) = runtime.run(runtime.session(packed), x)
    assert np.allclose(with_library, as_functions, rtol=1e-5, atol=1e-5)


def test_the_stored_bits_are_the_signs_of_the_weights(mlp: tuple[Family, Data, Binarized]) -> None:
    """Flipped where the batch-norm behind has a negative factor; one bit a weight and not more."""
    _, _, found = mlp
    packed = lowered(found.model)
    state = found.net.state_dict()
    for index, kind in ((1, "BinaryGemmSign"), (2, "BinaryGemm")):
        (node,) = [node for node in packed.graph if node.op_type == kind]
        stored = node.inputs[1]
        assert stored is not None and stored.const_value is not None
        weight = state[f"layers.{index}.weight"].numpy()
        turned = state[f"norms.{index}.weight"].numpy() < 0
        expected = np.where(weight > 0, 1, -1) * np.where(turned, -1, 1)[:, None]
        assert np.array_equal(bits.unpack(stored.const_value.numpy(), weight.shape[1]), expected)
        assert stored.const_value.nbytes == len(weight) * -(-weight.shape[1] // 8)


def test_a_negative_factor_turns_a_threshold_round() -> None:
    """Half of the norms' factors below 0, and thresholds that sums do meet."""
    kind = family("mlp_digits")
    data = kind.data()
    net, _ = binary_net(kind, MLP, replace(QUICK, error=False))
    generator = torch.Generator().manual_seed(1)
    for name, one in net.named_parameters():
        if name.startswith("norms"):
            with torch.no_grad():
                one.copy_(torch.randn(one.shape, generator=generator))
    net.eval()
    model = to_onnx(net, kind)
    packed = lowered(model)
    assert operators(packed)[1:3] == ["BinaryGemmSign", "BinaryGemm"]
    (torch_says,) = [net(data.test.inputs).detach().numpy()]
    for one in (model, packed):
        (found,) = runtime.run(runtime.session(one), {kind.input: data.test.inputs.numpy()})
        assert np.allclose(found, torch_says, rtol=1e-4, atol=1e-4)
    for size in (0, 1, 17):
        (found,) = runtime.run(runtime.session(packed), {kind.input: data.test.inputs[:size].numpy()})
        assert np.allclose(found, torch_says[:size], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        ("resnet_digits", {"width": 9}, {}, {"BinaryConv": 6, "Conv": 2}),
        ("vgg_small", {"width": 8, "size": 8}, {"size": 8}, {"BinaryConvSign": 4, "BinaryConv": 1, "Conv": 1}),
        (
            "resnet_cifar",
            {"depth": 8, "width": 5, "size": 8, "shortcuts": "block"},
            {"size": 8},
            {"BinaryConvSign": 3, "BinaryConv": 3, "Conv": 1},
        ),
    ],
)
def test_convolutional_families(
    name: str, options: dict[str, int], size: dict[str, int], expected: dict[str, int]
) -> None:
    """As published: every convolution but the first is binary, a sum that its sign alone reads is a comparison."""
    kind = family(name)
    data = kind.data(train=32, test=37, **size)
    found = binarize(kind, options, data, BinarizeSettings(train=Settings(epochs=1, batch=32)))
    packed = lowered(found.model)
    seen = operators(packed)
    assert {one: seen.count(one) for one in ("BinaryConvSign", "BinaryConv", "Conv") if one in seen} == expected
    for model in (found.model, packed):
        agreed = agreement(found.net, model, kind, data)
        require(agreed)
        assert agreed.samples == agreed.same == 37
    weights = [found.net.state_dict()[f"{one}.weight"] for one in found.layers]
    stored = [node.inputs[1].const_value for node in packed.graph if node.op_type.startswith("Binary")]  # type: ignore[union-attr]
    assert sum(one.nbytes for one in stored if one is not None) == sum(
        len(one) * one[0, 0].numel() * -(-one.shape[1] // 8) for one in weights
    )


def test_it_goes_on_where_it_stopped(mlp: tuple[Family, Data, Binarized], tmp_path: Path) -> None:
    """Stopped in the midst of the third epoch and started again: the same bits as of one that was not."""
    kind, data, whole = mlp

    def stop(label: str, done: int, total: int) -> None:
        if done > 2 * total // 3 + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        binarize(kind, MLP, data, QUICK, folder=tmp_path, progress=stop)
    assert (tmp_path / "checkpoint.pt").is_file()
    seen: list[int] = []
    again = binarize(kind, MLP, data, QUICK, folder=tmp_path, progress=lambda label, done, total: seen.append(done))
    assert len(seen) == 23
    state = again.net.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in whole.net.state_dict().items())
    assert again.figure == whole.figure and again.history == whole.history
    finished = binarize(kind, MLP, data, QUICK, folder=tmp_path, progress=stop)  # nothing is left to train
    assert finished.figure == whole.figure


def test_a_float_net_to_start_from(mlp: tuple[Family, Data, Binarized]) -> None:
    kind, _, _ = mlp
    start = kind.new(seed=5, **MLP)
    net, _ = binary_net(kind, MLP, QUICK, seed=1, start=start)
    other, _ = binary_net(kind, MLP, QUICK, seed=1)
    for name, one in start.state_dict().items():
        assert torch.equal(net.state_dict()[name], one) and not torch.equal(other.state_dict()[name], one)


def test_nets_without_a_layer_in_the_middle_and_nets_of_several_inputs_are_refused() -> None:
    kind = family("mlp_digits")
    with pytest.raises(UsageError, match="no layer"):
        binary_net(kind, {"hidden": [5]}, QUICK)
    pair = replace(kind, example=lambda net: (torch.zeros(2, 64), torch.zeros(2, 64)))
    with pytest.raises(UsageError, match="2 inputs"):
        to_onnx(kind.new(**MLP), pair)
    told: list[int] = []
    with pytest.raises(UsageError, match="2 inputs"):  # before it is trained
        binarize(pair, MLP, kind.data(), QUICK, progress=lambda label, done, total: told.append(done))
    assert not told


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums in the same order, however many processors there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
