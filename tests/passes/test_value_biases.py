"""Biases of dead value heads go behind attention: the heads go as if they had none; near misses keep them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from graphopt import model as models
from graphopt import optimize
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.facts.stats import stats
from graphopt.model_shapes import infer_shapes
from graphopt.passes.shrink.value_biases import ValueBiases
from graphopt.torch_export import export
from graphopt.verify import Reference
from tests.ops.net import Net, dead
from tests.passes import attention_nets as nets

T, H, D = 5, 3, 4
E = H * D
DEAD = [1]
ROWS = [head * D + place for head in DEAD for place in range(D)]


# --- torch's exporters ------------------------------------------------------------------------------------------------

TWINS = {
    "one head": (partial(nets.Written, 1, 1), [0], 1),
    "two heads": (partial(nets.Written, 2, 2), [1], 1),
    "three heads of one layer": (partial(nets.Written, 3, 3, joint=True), [0, 2], 3),
    "five heads": (partial(nets.Written, 5, 5), [1, 3], 3),
    "grouped queries": (partial(nets.Written, 4, 2), [1], 3),
    "grouped queries of one layer": (partial(nets.Written, 6, 3, joint=True), [0], 1),
    "MultiheadAttention": (partial(nets.OfTorch, 3, False), [1], 3),
    "MultiheadAttention with weights": (partial(nets.OfTorch, 5, True), [0, 4], 1),
}
LONG = {"two heads", "grouped queries of one layer", "one head"}


def exported(net: nets.Written | nets.OfTorch, batch: int, exporter: Literal["dynamo", "torchscript"]) -> ir.Model:
    """The net for batches of one size and of any length (dynamo), or the other way round."""
    width = net.a.embed_dim if isinstance(net, nets.OfTorch) else net.o.out_features
    axes = {1: "time"} if exporter == "dynamo" else {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, (torch.randn(batch, T, width),), dynamic_shapes=(axes,), exporter=exporter, verify=False)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in TWINS]
)
def test_as_small_as_without_a_bias(name: str, exporter: Literal["dynamo", "torchscript"]) -> None:
    make, heads, batch = TWINS[name]
    model = exported(nets.dead(make(), heads), batch, exporter)
    twin = exported(nets.dead(make(), heads, biased=False), batch, exporter)
    result = optimize(model, plan="smallest", measure=False)
    without = optimize(twin, plan="smallest", measure=False)
    assert result.report.verify is not None and result.report.verify.passed
    assert stats(result.model).parameters == stats(without.model).parameters < stats(model).parameters
    assert not any(row.code == "value-bias-stays" for row in result.report.warnings)
    assert not ValueBiases().run(Context(models.load(result.model), Constants()))


# --- written by hand --------------------------------------------------------------------------------------------------


class Attention(Net):
    """What differs from row to row is a method, or an argument of it."""

    def heads(self, x: str, count: int = H) -> str:
        """[N, T, count*D] to [N, count, T, D]."""
        return self("Transpose", self("Reshape", x, [0, 0, count, D]), perm=[0, 2, 1, 3])

    def values(self, x: str, rows: list[int] = ROWS) -> str:
        """Values with a bias; of some rows only the bias is not zero."""
        return self("Add", self("MatMul", x, dead(self.normal(E, E), 1, rows)), self.normal(E))

    def scores(self, x: str) -> str:
        """[N, H, T, T]."""
        q, k = (self.heads(self("MatMul", x, self.normal(E, E))) for _ in range(2))
        return self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2]))

    def out(self, result: str, weight: str | np.ndarray | None = None) -> str:
        """The output projection, with a bias."""
        joined = self("Reshape", self("Transpose", result, perm=[0, 2, 1, 3]), [0, 0, E])
        return self("Add", self("MatMul", joined, self.normal(E, E) if weight is None else weight), self.normal(E))


def plain(rows: list[int] = ROWS, size: int | str = T, opset: int = 18, axis: int = -1) -> onnx.ModelProto:
    net = Attention(opset=opset)
    x = net.input("x", "N", size, E)
    scores = net("Softmax", net.scores(x), axis=axis)
    return net.model(net.out(net("MatMul", scores, net.heads(net.values(x, rows)))))


def normalised(how: Callable[[Attention, str], str]) -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    return net.model(net.out(net("MatMul", how(net, net.scores(x)), net.heads(net.values(x)))))


def masked(net: Attention, scores: str) -> str:
    return net("Mul", net("Softmax", scores, axis=-1), np.tril(np.ones((T, T), np.float32)))


def turned(net: Attention, scores: str) -> str:
    return net("Transpose", net("Softmax", scores, axis=-1), perm=[0, 1, 3, 2])


def rearranged(net: Attention, scores: str) -> str:
    flat = net("Reshape", net("Softmax", net("Reshape", scores, [0, H, T * T]), axis=-1), [0, H, T, T])
    return flat


def over_zeros(net: Attention, scores: str) -> str:
    normal = net("Softmax", scores, axis=-1)
    return net("Where", net("IsNaN", normal), np.float32(0), normal)


def shown() -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    values = net.values(x)
    y = net.out(net("MatMul", net("Softmax", net.scores(x)), net.heads(values)))
    return net.model(y, values)


def cached() -> onnx.ModelProto:
    """The heads of the values are shown to the caller."""
    net = Attention()
    x = net.input("x", "N", T, E)
    values = net.heads(net.values(x))
    return net.model(net.out(net("MatMul", net("Softmax", net.scores(x)), values)), values)


def read_again() -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    values = net.values(x)
    y = net.out(net("MatMul", net("Softmax", net.scores(x)), net.heads(values)))
    return net.model(net("Add", y, net("Sigmoid", values)))


def cut_again(first: int) -> onnx.ModelProto:
    """Some of the values, from a place on, are read by something else as well."""
    net = Attention()
    x = net.input("x", "N", T, E)
    values = net.values(x)
    y = net.out(net("MatMul", net("Softmax", net.scores(x)), net.heads(values)))
    return net.model(y, net("Sigmoid", net("Slice", values, [first], [first + D], [2])))


def computed_output() -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    result = net("MatMul", net("Softmax", net.scores(x)), net.heads(net.values(x)))
    return net.model(net.out(result, net.input("w", E, E)))


def relu_behind() -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    result = net("MatMul", net("Softmax", net.scores(x)), net.heads(net.values(x)))
    return net.model(net.out(net("Relu", result)))


def quantized() -> onnx.ModelProto:
    net = Attention()
    x = net.input("x", "N", T, E)
    q = net("QuantizeLinear", net.values(x), np.float32(0.05), np.int8(0))
    values = net("DequantizeLinear", q, np.float32(0.05), np.int8(0))
    return net.model(net.out(net("MatMul", net("Softmax", net.scores(x)), net.heads(values))))


def crossed(size: int | str) -> onnx.ModelProto:
    """Keys and values of another sequence."""
    net = Attention()
    x, other = net.input("x", "N", T, E), net.input("other", "N", size, E)
    q, k = (net.heads(net("MatMul", each, net.normal(E, E))) for each in (x, other))
    scores = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])))
    return net.model(net.out(net("MatMul", scores, net.heads(net.values(other)))))


def after(proto: onnx.ModelProto) -> tuple[bool, Context]:
    """Run the pass alone, prove the result equal and the pass finished."""
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants())
    changed = ValueBiases().run(context)
    assert not ValueBiases().run(context), "twice"
    if changed:
        assert Reference(proto).compare(context.model).passed
    return changed, context


NEAR = {
    "an output": (shown, "is an output, too"),
    "a cache": (cached, "is an output, too"),
    "read again": (read_again, "Sigmoid reads"),
    "cut again": (lambda: cut_again(D), "Slice reads"),
    "another axis": (lambda: plain(axis=2), "softmax is over another axis"),
    "an old softmax": (lambda: plain(opset=12, axis=2), "softmax is over another axis"),
    "turned": (lambda: normalised(turned), "rearranged between softmax and product"),
    "over all scores": (lambda: normalised(rearranged), "rearranged between softmax and product"),
    "sigmoid": (lambda: normalised(lambda net, s: net("Sigmoid", s)), "come from Sigmoid"),
    "relu": (lambda: normalised(lambda net, s: net("Relu", s)), "come from Relu"),
    "masked behind": (lambda: normalised(masked), "come from Mul"),
    "rows of zeros": (lambda: normalised(over_zeros), "come from Where"),
    "computed weight": (computed_output, "weight of the output projection is not constant"),
    "relu behind": (relu_behind, "Relu reads"),
    "quantized": (quantized, "the values are quantized"),
    "perhaps no values": (lambda: crossed("M"), "there may be no values"),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_keep_the_bias_and_say_why(name: str) -> None:
    build, reason = NEAR[name]
    changed, context = after(build())
    assert not changed
    assert [reason in row.message for row in context.warnings] == [True], context.warnings


@pytest.mark.parametrize(
    "proto",
    [
        plain(),
        plain(size="T"),
        plain(size=1),
        plain(opset=12, axis=3),
        plain(rows=list(range(E))),
        plain(rows=[head * D + 2 for head in range(H)]),
        crossed(7),
        crossed(1),
        cut_again(0),
        normalised(lambda net, s: net("Identity", net("Softmax", s))),
    ],
    ids=[
        "self", "any length", "one position", "old softmax", "all heads", "one place of all heads", "of another",
        "of one position", "others are read", "identity",
    ],
)  # fmt: skip
def test_moves(proto: onnx.ModelProto) -> None:
    changed, context = after(proto)
    assert changed and not context.warnings


def test_no_positions_at_all() -> None:
    """Without positions there are no results either; else the bias would be in one and not in the other."""
    proto = plain(size="T")
    changed, context = after(proto)
    assert changed
    for size in (0, 1, 7):
        assert Reference(proto, shapes={"x": [2, size, E]}).compare(context.model).passed


@pytest.mark.parametrize("rows", [[], [D], [D, D + 1, D + 2], [0, D + 1, 2 * D + 2]])
def test_heads_that_are_not_dead_keep_their_bias(rows: list[int]) -> None:
    changed, context = after(plain(rows))
    assert not changed and not context.warnings


def test_only_the_bias_of_dead_heads_moves() -> None:
    proto = plain()
    before = {len(t.dims): onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if list(t.dims) == [E]}
    assert before
    _, context = after(proto)
    rows = [v.const_value.numpy() for v in context.model.graph.initializers.values() if v.const_value is not None]
    of_values = [row for row in rows if row.shape == (E,) and not row[ROWS].any()]
    assert len(of_values) == 1 and of_values[0][[i for i in range(E) if i not in ROWS]].all()


def test_without_finite_activations_nothing_moves() -> None:
    model = models.load(plain())
    infer_shapes(model)
    assert not ValueBiases().run(Context(model, Constants(), assume_finite=False))
