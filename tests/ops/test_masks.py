"""Masks in every form exports produce: the form must not matter, and what is no mask must survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.ops.net import Case, Net, dead, examine

ALIVE = np.array([1, 0, 1, 1, 0, 1, 0], np.float32)  # 4 of 7
DEAD = [1, 4, 6]
KEPT = 4 * 3 + 4 * 2 + 2  # 1x1 Conv 3 -> 4, 1x1 Conv 4 -> 2 with bias
FULL = 7 * 3 + 7 * 2 + 2

Form = Callable[[Net, str, tuple[int, ...]], str]
"""Masks a value of which axis 0 (weights) or 1 (activations) has 7 positions; the tuple is the mask's shape there."""


def _column(shape: tuple[int, ...]) -> np.ndarray:
    return ALIVE.reshape(shape)


def _constant_node(net: Net, array: np.ndarray) -> str:
    return net("Constant", value=numpy_helper.from_array(array))


def _function(net: Net, x: str, s: tuple[int, ...]) -> str:
    net.function("Masked", ["a", "b"], [helper.make_node("Mul", ["a", "b"], ["y"])])
    return net("Masked", x, _column(s), domain="local")


def _function_constant(net: Net, x: str, s: tuple[int, ...]) -> str:
    inner = helper.make_node("Constant", [], ["m"], value=numpy_helper.from_array(_column(s)))
    net.function("MaskedHere", ["a"], [inner, helper.make_node("Mul", ["a", "m"], ["y"])])
    return net("MaskedHere", x, domain="local")


def _nested_function(net: Net, x: str, s: tuple[int, ...]) -> str:
    net.function("Masked", ["a", "b"], [helper.make_node("Mul", ["a", "b"], ["y"])])
    call = helper.make_node("Masked", ["a", "b"], ["y"], domain="local")
    opset = [helper.make_opsetid("", net.opset), helper.make_opsetid("local", 1)]
    net._functions.append(helper.make_function("local", "Outer", ["a", "b"], ["y"], [call], opset))
    return net("Outer", x, _column(s), domain="local")


def _transposed(net: Net, x: str, s: tuple[int, ...]) -> str:
    axis = s.index(7)
    perm = list(range(len(s)))
    perm[axis], perm[-1] = len(s) - 1, axis
    last = ALIVE.reshape([1] * (len(s) - 1) + [7])
    return net("Mul", x, net("Transpose", last, perm=perm))


def _unsqueezed(net: Net, s: tuple[int, ...], mask: str) -> str:
    return net("Unsqueeze", mask, [i for i, d in enumerate(s) if d == 1])


FORMS: dict[str, Form] = {
    "mul": lambda n, x, s: n("Mul", x, _column(s)),
    "mul, mask first": lambda n, x, s: n("Mul", _column(s), x),
    "int64, cast": lambda n, x, s: n("Mul", x, n("Cast", _column(s).astype(np.int64), to=1)),
    "int32, cast": lambda n, x, s: n("Mul", x, n("Cast", _column(s).astype(np.int32), to=1)),
    "uint8, cast": lambda n, x, s: n("Mul", x, n("Cast", _column(s).astype(np.uint8), to=1)),
    "bool, cast": lambda n, x, s: n("Mul", x, n("Cast", _column(s).astype(bool), to=1)),
    "where": lambda n, x, s: n("Where", _column(s).astype(bool), x, 0.0),
    "where, array of zeros": lambda n, x, s: n("Where", _column(s).astype(bool), x, np.zeros(s, np.float32)),
    "where, complement": lambda n, x, s: n("Where", ~_column(s).astype(bool), 0.0, x),
    "where not": lambda n, x, s: n("Where", n("Not", _column(s).astype(bool)), 0.0, x),
    "where not, cast": lambda n, x, s: n("Where", n("Not", n("Cast", _column(s), to=9)), 0.0, x),
    "one minus": lambda n, x, s: n("Mul", x, n("Sub", 1.0, 1 - _column(s))),
    "one minus cast not": lambda n, x, s: n(
        "Mul", x, n("Sub", 1.0, n("Cast", n("Not", _column(s).astype(bool)), to=1))
    ),
    "reshape": lambda n, x, s: n("Mul", x, n("Reshape", ALIVE, list(s))),
    "reshape with -1": lambda n, x, s: n("Mul", x, n("Reshape", ALIVE, [-1 if d == 7 else d for d in s])),
    "unsqueeze": lambda n, x, s: n("Mul", x, _unsqueezed(n, s, n.constant(ALIVE))),
    "bool, unsqueeze, cast": lambda n, x, s: n(
        "Mul", x, n("Cast", _unsqueezed(n, s, n.constant(ALIVE.astype(bool))), to=1)
    ),
    "expand": lambda n, x, s: n("Mul", x, n("Expand", _column(s), n("Shape", x))),
    "transpose": _transposed,
    "constant node": lambda n, x, s: n("Mul", x, _constant_node(n, _column(s))),
    "constant node, reshape": lambda n, x, s: n("Mul", x, n("Reshape", _constant_node(n, ALIVE), list(s))),
    "identity": lambda n, x, s: n("Mul", x, n("Identity", _column(s))),
    "constant of shape times": lambda n, x, s: n(
        "Mul",
        x,
        n("Mul", n("ConstantOfShape", list(s), value=numpy_helper.from_array(np.ones(1, np.float32))), _column(s)),
    ),
    "product of masks": lambda n, x, s: n(
        "Mul",
        x,
        n(
            "Mul",
            np.array([1, 0, 1, 1, 1, 1, 1], np.float32).reshape(s),
            np.array([1, 1, 1, 1, 0, 1, 0], np.float32).reshape(s),
        ),
    ),
    "two masks in a row": lambda n, x, s: n(
        "Mul",
        n("Mul", x, np.array([1, 0, 1, 1, 1, 1, 1], np.float32).reshape(s)),
        np.array([1, 1, 1, 1, 0, 1, 0], np.float32).reshape(s),
    ),
    "greater than": lambda n, x, s: n(
        "Mul", x, n("Cast", n("Greater", np.array([3, 0, 1, 2, 0, 1, 0], np.float32).reshape(s), 0.5), to=1)
    ),
    "concat of parts": lambda n, x, s: n("Mul", x, n("Reshape", n("Concat", ALIVE[:3], ALIVE[3:], axis=0), list(s))),
    "function": _function,
    "function with the mask inside": _function_constant,
    "function in a function": _nested_function,
    "divided by": lambda n, x, s: n("Mul", x, n("Div", 2 * _column(s), 2.0)),
}


def _on_weight(form: Form) -> onnx.ModelProto:
    net = Net()
    w = form(net, net.constant(net.normal(7, 3, 1, 1)), (7, 1, 1, 1))
    y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), w))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


def _on_weight_columns(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1)))
    w = form(net, net.constant(net.normal(2, 7, 1, 1)), (1, 7, 1, 1))
    return net.model(net("Conv", y, w, net.normal(2)))


def _on_activation(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1), net.normal(7))
    y = net("Relu", form(net, y, (1, 7, 1, 1)))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


def _on_activation_short(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1), net.normal(7)))
    y = form(net, y, (7, 1, 1))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


def _on_features(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Gemm", net.input("x", "N", 3), net.normal(7, 3), net.normal(7), transB=1)
    y = form(net, y, (1, 7))
    return net.model(net("Gemm", y, net.normal(2, 7), net.normal(2), transB=1))


def _before_batch_norm(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1))
    y = form(net, y, (1, 7, 1, 1))
    scale, mean, var = np.abs(net.normal(7)), net.normal(7), np.abs(net.normal(7))
    y = net("Relu", net("BatchNormalization", y, scale, net.normal(7), mean, var))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


def _after_batch_norm(form: Form) -> onnx.ModelProto:
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1))
    scale, mean, var = np.abs(net.normal(7)), net.normal(7), np.abs(net.normal(7))
    y = net("Relu", form(net, net("BatchNormalization", y, scale, net.normal(7), mean, var), (1, 7, 1, 1)))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


PLACES: dict[str, tuple[Callable[[Form], onnx.ModelProto], int]] = {
    "weight rows": (_on_weight, KEPT),
    "weight columns": (_on_weight_columns, KEPT),
    "activation": (_on_activation, KEPT + 4),
    "activation, short mask": (_on_activation_short, KEPT + 4),
    "features": (_on_features, KEPT + 4),
    "before batch norm": (_before_batch_norm, KEPT + 16),
    "after batch norm": (_after_batch_norm, KEPT + 16),
}


def _pairs() -> Iterator[object]:
    """Every form in two places, three forms in every place; the rest of the table in the long run."""
    for form in FORMS:
        for place in PLACES:
            usual = place in ("weight rows", "activation") or form in ("mul", "where not", "function")
            yield pytest.param(form, place, marks=() if usual else pytest.mark.long)


@pytest.mark.parametrize(("form", "place"), list(_pairs()))
def test_every_form_is_a_mask_in_every_place(form: str, place: str) -> None:
    build, most = PLACES[place]
    gone = ("Where", "Mul", "Cast", "Not", "Unsqueeze", "Expand", "Transpose", "Masked", "MaskedHere", "Outer")
    examine(Case(form, lambda: build(FORMS[form]), most=most, gone=gone))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("alive", "rest"), [(0, 0), (1, 1), (7, 7)])
def test_none_one_and_all_alive(place: str, alive: int, rest: int) -> None:
    mask = np.arange(7) < alive

    def form(net: Net, x: str, shape: tuple[int, ...]) -> str:
        return net("Mul", x, mask.astype(np.float32).reshape(shape))

    build, most = PLACES[place]
    # All the rows of KEPT scale with the living channels, but for the last bias.
    most = 2 + (most - 2) // 4 * rest
    examine(Case("", lambda: build(form), most=most, gone=("Mul",)))


def _soft(net: Net, x: str, s: tuple[int, ...]) -> str:
    return net("Mul", x, (ALIVE * np.array([0.5, 1, 2, 1, 1, 3, 1], np.float32)).reshape(s))


@pytest.mark.parametrize("place", PLACES)
def test_a_soft_mask_scales_what_it_does_not_kill(place: str) -> None:
    build, most = PLACES[place]
    examine(Case("", lambda: build(_soft), most=most + 4))  # the four scales may stay


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["f", "b"])
def test_a_mask_that_is_an_input_stays(place: str, kind: str) -> None:
    def form(net: Net, x: str, s: tuple[int, ...]) -> str:
        mask = net.input("gate_m", *s, dtype=kind)
        return net("Mul", x, mask) if kind == "f" else net("Where", mask, x, 0.0)

    build, most = PLACES[place]
    full = 2 + (most - 2) // 4 * 7 - (0 if "norm" not in place else 28)  # batch norm may be folded
    examine(Case("", lambda: build(form), least=full, stays=("Mul",) if kind == "f" else ("Where",)))


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_that_is_the_default_of_an_input_stays(place: str) -> None:
    def form(net: Net, x: str, s: tuple[int, ...]) -> str:
        return net("Mul", x, net.default("gate_m", _column(s)))

    build, most = PLACES[place]
    full = 2 + (most - 2) // 4 * 7 - (0 if "norm" not in place else 28)
    examine(Case("", lambda: build(form), least=full, stays=("Mul",)))


def test_a_mask_computed_from_the_data_stays() -> None:
    def form(net: Net, x: str, s: tuple[int, ...]) -> str:
        sign = net("Greater", net("GlobalAveragePool", x), 0.0)
        return net("Where", sign, x, 0.0)

    examine(Case("", lambda: _on_activation(form), least=FULL + 7, stays=("Where",)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("assume_finite", [True, False])
def test_a_weight_that_is_not_finite_under_its_mask_makes_the_output_nan(bad: float, assume_finite: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net.normal(7, 3, 1, 1)
        w[4, 1] = bad
        y = net("Conv", net.input("x", "N", 3, 4, 5), net("Mul", w, ALIVE.reshape(7, 1, 1, 1)))
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("", build, finite=False, assume_finite=assume_finite))


def test_where_does_not_let_nan_through() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(net.normal(7, 3, 1, 1), 0, DEAD, np.nan)
        masked = net("Where", ALIVE.astype(bool).reshape(7, 1, 1, 1), w, 0.0)
        y = net("Conv", net.input("x", "N", 3, 4, 5), masked)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("", build, most=KEPT))


def test_without_assume_finite_a_mask_on_an_activation_stays() -> None:
    # x may be infinite, and infinity times zero is not zero.
    examine(Case("", lambda: _on_activation(FORMS["mul"]), least=FULL + 7, stays=("Mul",), assume_finite=False))


def test_without_assume_finite_where_and_masked_weights_are_folded() -> None:
    examine(Case("", lambda: _on_activation(FORMS["where"]), most=KEPT + 4, assume_finite=False))


def test_without_assume_finite_a_bounded_activation_may_be_masked() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1), net.normal(7))
        y = net("Mul", net("Sigmoid", y), ALIVE.reshape(1, 7, 1, 1))
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    # Sigmoid of NaN is NaN: not provably finite. It must not be narrowed, unless the input is known to be a number.
    examine(Case("", build, assume_finite=False))


def test_one_mask_shared_by_several_layers() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        mask = net.constant(ALIVE)
        column = net("Reshape", mask, [7, 1, 1, 1])
        y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), net("Mul", net.normal(7, 3, 1, 1), column)))
        y = net("Relu", net("Conv", y, net("Mul", net.normal(7, 7, 1, 1), column)))
        y = net("Mul", y, net("Reshape", mask, [1, 7, 1, 1]))
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 4 + 4 * 2))


def test_a_weight_shared_under_two_masks() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 7)
        w = net.constant(net.normal(7, 7))
        y = net("Gemm", x, net("Mul", w, ALIVE.reshape(1, 7)))
        z = net("Gemm", x, net("Mul", w, (1 - ALIVE).reshape(1, 7)))
        return net.model(net("Gemm", net("Relu", y), net.normal(7, 2)), net("Gemm", net("Relu", z), net.normal(7, 3)))

    examine(Case("", build, most=7 * 4 + 4 * 2 + 7 * 3 + 3 * 3))


def test_a_shared_weight_that_is_masked_in_one_place_alone() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net.constant(net.normal(7, 7))
        y = net("Relu", net("Gemm", net.input("x", "N", 7), w))
        y = net("Relu", net("Gemm", y, net("Mul", w, ALIVE.reshape(1, 7))))
        return net.model(net("Gemm", y, w))

    # The whole weight is still needed; copies would be more parameters than the model had.
    examine(Case("", build, most=7 * 7 + 7))


def test_a_mask_over_heads() -> None:
    def build(alive: tuple[int, ...] = (1, 0, 1)) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 5, 6)
        parts = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            y = net("Add", net("MatMul", x, net.normal(6, 6)), net.normal(6))
            parts.append(net("Transpose", net("Reshape", y, [0, 5, 3, 2]), perm=perm))
        p = net("Softmax", net("Mul", net("MatMul", parts[0], parts[1]), 0.5), axis=-1)
        y = net("Mul", net("MatMul", p, parts[2]), np.array(alive, np.float32).reshape(1, 3, 1, 1))
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 5, 6])
        return net.model(net("Add", x, net("MatMul", y, net.normal(6, 6))))

    heads, scale = 2, 1
    examine(Case("", build, most=3 * (6 + 1) * heads * 2 + heads * 2 * 6 + scale))


@pytest.mark.parametrize("bias", ["alive", "masked"])
def test_a_dead_row_leaves_its_bias(bias: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        b = net.normal(7)
        value = net("Mul", b, ALIVE) if bias == "masked" else net.constant(b)
        y = net(
            "Conv", net.input("x", "N", 3, 4, 5), net("Mul", net.normal(7, 3, 1, 1), ALIVE.reshape(7, 1, 1, 1)), value
        )
        return net.model(net("Conv", net("Relu", y), net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("", build, most=KEPT + 4))
