"""Rotary embeddings: heads go through them, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import optimize
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.stats import stats
from tests.ops.net import Case, Net, dead, examine

E, H, D, T = 5, 4, 6, 7
DEAD = (1, 2)
ROWS = [head * D + place for head in DEAD for place in range(D)]
PAIR = [head * D + place for head in DEAD for place in range(D) if place not in (1, 1 + D // 2)]


def rotary(
    domain: str, four: bool, zero: list[int], columns: list[int], *, heads: int = H, kind: type = np.float32,
    bias: np.ndarray | None = None, caches: int = D // 2, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A product, rotated, and a product; `zero`: dead columns in front, `columns`: dead rows behind."""
    net = Net(23)
    width = heads * D
    x = net.input("x", "N", T, E)
    if kind is not np.float32:
        x = net("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    y = net("MatMul", x, dead(net.normal(E, width), 1, zero).astype(kind))
    if bias is not None:
        y = net("Add", y, bias.astype(kind))
    cache = [net.normal(T, caches).astype(kind) for _ in range(2)]
    where = np.arange(T)[None]
    positions = net("Add", net("Cast", net("ReduceSum", net("Mul", "x", 0.0), [2], keepdims=0), to=7), where)
    if not four and (not domain or "rotary_embedding_dim" in attributes):
        attributes["num_heads"] = heads
    if four:
        y = net("Transpose", net("Reshape", y, [0, 0, heads, D]), perm=[0, 2, 1, 3])
    operands = [y, positions, *cache] if domain else [y, *cache, positions]
    y = net("RotaryEmbedding", *operands, domain=domain, **attributes)
    if four:
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, width])
    y = net("MatMul", y, dead(net.normal(width, E), 0, columns).astype(kind))
    return net.model(net("Cast", y, to=1) if kind is not np.float32 else y)


FORMS = [("", False), ("", True), (MICROSOFT, False), (MICROSOFT, True)]
CACHES = 2 * T * (D // 2) + 1 + T
"""Parameters that stay: the cosines and sines, and what makes the positions."""


@pytest.mark.parametrize(("domain", "four"), FORMS)
@pytest.mark.parametrize("where", ["zero", "columns"])
def test_dead_heads_go(domain: str, four: bool, where: str) -> None:
    zero, columns = (ROWS, []) if where == "zero" else ([], ROWS)
    most = 2 * (H - len(DEAD)) * D * E + CACHES
    for interleaved in (0, 1):
        examine(Case("", lambda flag=interleaved: rotary(domain, four, zero, columns, interleaved=flag), most))


@pytest.mark.parametrize(("domain", "four"), FORMS)
@pytest.mark.parametrize("where", ["zero", "columns"])
def test_a_head_with_one_live_pair_stays(domain: str, four: bool, where: str) -> None:
    zero, columns = (PAIR, []) if where == "zero" else ([], PAIR)
    examine(Case("", lambda: rotary(domain, four, zero, columns), least=H * D * E))


@pytest.mark.parametrize(("domain", "four"), FORMS)
def test_a_constant_that_is_not_zero_is_turned(domain: str, four: bool) -> None:
    """What is a constant in front is another one for each token."""
    bias = np.ones(H * D, np.float32)
    examine(Case("", lambda: rotary(domain, four, ROWS, [], bias=bias), least=(H + H - len(DEAD)) * D * E))


@pytest.mark.parametrize(("domain", "four"), FORMS)
def test_part_of_a_head(domain: str, four: bool) -> None:
    """Only the first four of six positions are turned."""
    attributes: dict[str, Any] = {"rotary_embedding_dim": 4, "caches": 2}
    if domain and four:
        attributes["num_heads"] = H
    most = 2 * (H - len(DEAD)) * D * E + 2 * T * 2 + 1 + T
    examine(Case("", lambda: rotary(domain, four, ROWS, [], **attributes), most))
    rest = [row for row in ROWS if row % D < 4]  # what is turned is zero, the rest is not
    examine(Case("", lambda: rotary(domain, four, rest, [], **attributes), least=H * D * E))


@pytest.mark.parametrize(("domain", "four"), FORMS)
@pytest.mark.parametrize("heads", [1, 2, 7])
def test_numbers_of_heads(domain: str, four: bool, heads: int) -> None:
    gone = list(range(D, heads * D)) if heads > 1 else []
    examine(Case("", lambda: rotary(domain, four, gone, [], heads=heads), 2 * D * E + CACHES))
    examine(Case("all of them", lambda: rotary(domain, four, list(range(heads * D)), [], heads=heads), CACHES))


@pytest.mark.parametrize(("domain", "four"), FORMS)
def test_half_precision(domain: str, four: bool) -> None:
    most = 2 * (H - len(DEAD)) * D * E + CACHES
    examine(Case("", lambda: rotary(domain, four, ROWS, [], kind=np.float16), most))


@pytest.mark.parametrize(("domain", "four"), FORMS)
def test_a_second_run_changes_nothing(domain: str, four: bool) -> None:
    once = optimize(rotary(domain, four, ROWS, []), plan="smallest").model
    again = optimize(once, plan="smallest").model
    assert stats(once) == stats(again)


def test_custom_scale_and_packed_batches() -> None:
    most = 2 * (H - len(DEAD)) * D * E + CACHES
    attributes = {"scale": 2.0, "is_packed_batching": 1}
    examine(Case("", lambda: rotary(MICROSOFT, False, ROWS, [], **attributes), most))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("where", ["zero", "columns"])
def test_in_front_of_attention(four: bool, where: str) -> None:
    """Queries and keys are turned; heads die with their values, or because nobody reads them."""

    def build() -> onnx.ModelProto:
        net = Net(23)
        x = net.input("x", "N", T, E)
        cache = [net.constant(net.normal(T, D // 2)) for _ in range(2)]
        many: dict[str, Any] = {} if four else {"num_heads": H}
        both: dict[str, Any] = {} if four else {"q_num_heads": H, "kv_num_heads": H}
        positions = net("Add", net("Cast", net("ReduceSum", net("Mul", x, 0.0), [2], keepdims=0), to=7), np.arange(T))
        parts = []
        for kind in "qkv":
            gone = ROWS if (kind, where) == ("v", "zero") else []
            y = net("MatMul", x, dead(net.normal(E, H * D), 1, gone))
            if four:
                y = net("Transpose", net("Reshape", y, [0, 0, H, D]), perm=[0, 2, 1, 3])
            if kind != "v":
                y = net("RotaryEmbedding", y, *cache, positions, **many)
            parts.append(y)
        y = net("Attention", *parts, is_causal=1, **both)
        if four:
            y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, H * D])
        return net.model(net("MatMul", y, dead(net.normal(H * D, E), 0, ROWS if where == "columns" else [])))

    examine(Case("", build, 4 * (H - len(DEAD)) * D * E + CACHES, batches=(1, 5)))
