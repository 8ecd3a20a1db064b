"""Einsum: letters that pass positions on, letters that are summed over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt.facts.ops.einsum import parse
from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
ALIVE = 4
BATCHES = (1, 5)
"""onnxruntime refuses Einsum at an empty batch."""


def same(net: Net, y: str) -> str:
    """Zeros stay zeros."""
    return net("Relu", y)


def halves(net: Net, y: str) -> str:
    """Zeros become halves."""
    return net("Sigmoid", y)


def rows(net: Net, name: str = "x", time: int = 3, unread: bool = False) -> str:
    """(N, time, 7), four of them alive (or all)."""
    weight = net.normal(2, 7)
    return net("MatMul", net.input(name, "N", time, 2), weight if unread else dead(weight, 1, DEAD))


def read(net: Net, equation: str, *operands: str | np.ndarray) -> str:
    return net("Einsum", *operands, equation=equation)


def product(equation: str, *shape: int, fill: Callable[[Net, str], str] = same) -> Callable[[], onnx.ModelProto]:
    """Rows times a constant."""

    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(read(net, equation, fill(net, rows(net)), net.normal(*shape)))

    return build


SUMMED = {
    "ntk,ko->nto": ((7, 5), 5),
    "ntk, ok -> not": ((5, 7), 5),
    "ntk,ko": ((7, 5), 5),
    "...k,ko->...o": ((7, 5), 5),
    "n...k,ko...->no...": ((7, 5, 3), 15),
    "ntk,tko->no": ((3, 7, 5), 15),
    "ntk,tko->nto": ((3, 7, 5), 15),
    "ntk,khd->nhtd": ((7, 2, 5), 10),
    "ntk,k->nt": ((7,), 1),
    "ntk,k->n": ((7,), 1),
    "NtK,Ko->oNt": ((7, 5), 5),
}


@pytest.mark.parametrize("equation", SUMMED)
def test_a_summed_letter(equation: str) -> None:
    shape, each = SUMMED[equation]
    most = 2 * ALIVE + ALIVE * each
    examine(Case("zeros", product(equation, *shape), most=most, batches=BATCHES))
    summed = "n" if equation == "ntk,k->n" else ""
    added = each if not summed else 0
    if not summed:
        examine(Case("halves", product(equation, *shape, fill=halves), most=most + added, batches=BATCHES))
    else:  # three times a half each: the sum over t is that of a letter which the constant lacks
        examine(Case("halves", product(equation, *shape, fill=halves), least=2 * 7 + 7, batches=BATCHES))


def test_letters_that_pass() -> None:
    examine(Case("per channel", product("ntk,k->ntk", 7), batches=BATCHES))

    def scaled(fill: Callable[[Net, str], str]) -> onnx.ModelProto:
        net = Net()
        y = read(net, "ntk,k->nkt", fill(net, rows(net)), net.normal(7))
        return net.model(read(net, "nkt,ko->no", y, net.normal(7, 5)))

    examine(Case("scaled", lambda: scaled(same), most=2 * ALIVE + ALIVE + ALIVE * 5, batches=BATCHES))
    # A half times a scale is no half any more, and three of them are summed.
    examine(Case("scaled halves", lambda: scaled(halves), least=2 * ALIVE + 7 * 6, batches=BATCHES))


def test_rows_of_the_constant() -> None:
    def build(inner: list[int], outer: list[int], fill: Callable[[Net, str], str] = same) -> onnx.ModelProto:
        net = Net()
        w = dead(dead(net.normal(7, 5), 0, inner), 1, outer)
        y = read(net, "ntk,ko->nto", net("Tanh", rows(net, unread=True)), w)
        return net.model(read(net, "nto,op->ntp", fill(net, y), net.normal(5, 2)))

    examine(Case("outputs", lambda: build([], [0, 3]), most=2 * 7 + 7 * 3 + 3 * 2, batches=BATCHES))
    examine(Case("halves", lambda: build([], [0, 3], halves), most=2 * 7 + 7 * 3 + 3 * 2 + 2, batches=BATCHES))
    examine(Case("inputs", lambda: build([2, 3], []), most=2 * 5 + 5 * 5 + 5 * 2, batches=BATCHES))
    examine(Case("both", lambda: build([2, 3], [4]), most=2 * 5 + 5 * 4 + 4 * 2, batches=BATCHES))


def test_what_nobody_reads_behind() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = read(net, "ntk,kho->ntho", net("Tanh", rows(net, unread=True)), net.normal(7, 3, 5))
        w = dead(net.normal(3, 5, 2), 0, [1])
        return net.model(read(net, "ntho,hop->ntp", net("Tanh", y), w))

    examine(Case("a head", build, most=2 * 7 + 7 * 2 * 5 + 2 * 5 * 2, batches=BATCHES))


def attention(equation: str, first: list[int], second: list[int]) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3, 2)
        q = net("MatMul", x, dead(net.normal(2, 7), 1, first))
        k = net("MatMul", x, dead(net.normal(2, 7), 1, second))
        return net.model(read(net, equation, q, k))

    return build


def test_two_live_operands() -> None:
    # Zeros of either side leave on both.
    examine(Case("", attention("ntd,nsd->nts", DEAD, DEAD), most=2 * 4 * 2, batches=BATCHES))
    examine(Case("either", attention("ntd,nsd->nts", [1], [4, 6]), most=2 * 4 * 2, batches=BATCHES))
    examine(Case("ellipsis", attention("...td,...sd->...ts", [1], [4, 6]), most=2 * 4 * 2, batches=BATCHES))
    # A letter of the output is zero where one of them is.
    examine(Case("elementwise", attention("ntd,ntd->nt", [1], [4, 6]), most=2 * 4 * 2, batches=BATCHES))


def test_three_operands() -> None:
    def build(middle: np.ndarray | None) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3, 2)
        q = net("MatMul", x, dead(net.normal(2, 7), 1, [1]))
        k = net("MatMul", x, dead(net.normal(2, 7), 1, [4]))
        w = net.normal(7) if middle is None else middle
        return net.model(read(net, "ntd,d,nsd->nts", q, w, k))

    examine(Case("", lambda: build(None), most=2 * 5 * 2 + 5, batches=BATCHES))
    middle = dead(Net().normal(7), 0, [4, 6])
    examine(Case("zeros of the constant", lambda: build(middle), most=2 * 4 * 2 + 4, batches=BATCHES))


def test_halves_of_two_live_operands_meet() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3, 2)
        q = net("Sigmoid", net("MatMul", x, dead(net.normal(2, 7), 1, DEAD)))
        k = net("MatMul", x, net.normal(2, 7))
        return net.model(read(net, "ntd,nsd->nts", q, k))

    examine(Case("", build, least=2 * ALIVE + 2 * 7, batches=BATCHES))


def test_a_diagonal_is_left_alone() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = read(net, "nts,ntk->nsk", rows(net, time=7), rows(net, "y", time=7))
        return net.model(read(net, "nkk->nk", y), read(net, "nii->n", y))

    examine(Case("", build, least=2 * 4 + 2 * 4, stays=("Einsum",), batches=BATCHES))


def test_equations() -> None:
    found = parse("...ik, ...kj", [4, 3], 4)
    assert found is not None
    assert found.operands == (("...2", "...1", "i", "k"), ("...1", "k", "j"))
    assert found.output == ("...2", "...1", "i", "j")
    assert found.summed() == ["k"]
    assert parse("ii->i", [2], 1) is None  # a diagonal
    assert parse("ij->i", [3], 1) is None  # another rank
    assert parse("i,j->ij", [1], 2) is None  # another number of operands


def test_an_outer_product() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = read(net, "ntk,o->ntko", same(net, rows(net)), dead(net.normal(5), 0, [2]))
        return net.model(read(net, "ntko,kop->ntp", y, net.normal(7, 5, 2)))

    examine(Case("", build, most=2 * ALIVE + 4 + ALIVE * 4 * 2, batches=BATCHES))
