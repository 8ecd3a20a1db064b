"""Attention: a dead head goes with its queries, keys and values, in every form that it is written in.

``E`` is the width of the stream, ``H`` heads of ``D`` positions; two of the four heads are dead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.facts.rules import MICROSOFT
from tests.ops.net import Case, Net, dead, examine

E, H, D = 5, 4, 3
T = 7
DEAD = (1, 2)
ROWS = [head * D + place for head in DEAD for place in range(D)]
HEAD = E * D
"""Parameters that one head has in each of the four products."""


def heads(positions: list[int]) -> list[int]:
    """Positions of whole heads."""
    return [head * D + place for head in positions for place in range(D)]


def project(net: Net, x: str, width: int, zero: list[int] | None = None) -> str:
    """A product (N, T, E) to (N, T, width), some of its columns zero."""
    return net("MatMul", x, dead(net.normal(E, width), 1, zero or []))


def split(net: Net, x: str, count: int = H) -> str:
    """Take (N, T, count*D) to (N, count, T, D)."""
    return net("Transpose", net("Reshape", x, [0, 0, count, D]), perm=[0, 2, 1, 3])


def join(net: Net, y: str, width: int = H * D) -> str:
    """And back."""
    return net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, width])


def attend(net: Net, q: str, k: str, v: str) -> str:
    """The primitive operators, keys transposed in one step."""
    scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), 0.5)
    return net("MatMul", net("Softmax", scores, axis=-1), v)


def finish(net: Net, y: str, zero: list[int] | None = None) -> onnx.ModelProto:
    """The product behind attention; ``zero``: rows of its weight, the columns of a head, that are zero."""
    return net.model(net("MatMul", y, dead(net.normal(H * D, E), 0, zero or [])))


def primitive(where: str, form: Callable[[Net, str, str, str], str], positions: list[int] = ROWS) -> onnx.ModelProto:
    """Attention whose heads are dead in the values, in the columns behind it, or by a mask."""
    net = Net()
    x = net.input("x", "N", T, E)
    q, k = split(net, project(net, x, H * D)), split(net, project(net, x, H * D))
    v = split(net, project(net, x, H * D, positions if where == "values" else []))
    y = form(net, q, k, v)
    if where == "mask":
        y = net("Mul", y, dead(np.ones((H, 1, 1), np.float32), 0, DEAD))
    return finish(net, join(net, y), positions if where == "columns" else [])


def transposed_as_torch_does(net: Net, q: str, k: str, v: str) -> str:
    """Keys transposed as three axes: batch and heads are one between."""
    k = net("Transpose", net("Reshape", k, [-1, T, D]), perm=[0, 2, 1])
    shape = net("Concat", net("Slice", net("Shape", q), [0], [2]), [D, T], axis=0)
    scores = net("Mul", net("MatMul", q, net("Reshape", k, shape)), 0.5)
    return net("MatMul", net("Softmax", scores, axis=-1), v)


def batched(net: Net, q: str, k: str, v: str) -> str:
    """All of it with batch and heads as one axis."""
    q, k, v = (net("Reshape", value, [-1, T, D]) for value in (q, k, v))
    scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])), 0.5)
    return net("Reshape", net("MatMul", net("Softmax", scores, axis=-1), v), [-1, H, T, D])


def rotary(net: Net, q: str, k: str, v: str) -> str:
    """Halves of a head are rotated: its positions are coupled in pairs."""
    angles = np.arange(T)[:, None] * np.array([1.0, 1.0, 1.0])
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def turned(x: str) -> str:
        low, high = net("Slice", x, [0], [1], [3]), net("Slice", x, [1], [D], [3])
        other = net("Concat", net("Neg", high), low, axis=3)
        return net("Add", net("Mul", x, cos), net("Mul", other, sin))

    return attend(net, turned(q), turned(k), v)


FORMS = {
    "primitive": attend,
    "keys as torch transposes them": transposed_as_torch_does,
    "batch and heads as one": batched,
    "rotary": rotary,
}


@pytest.mark.parametrize("where", ["values", "columns", "mask"])
@pytest.mark.parametrize("form", FORMS)
def test_dead_heads_of(form: str, where: str) -> None:
    extra = {"rotary": 4 * T * D}.get(form, 0) + 1
    examine(Case("", lambda: primitive(where, FORMS[form]), most=(H - len(DEAD)) * 4 * HEAD + extra))


@pytest.mark.parametrize("form", FORMS)
def test_a_head_with_one_live_position_stays(form: str) -> None:
    examine(Case("", lambda: primitive("values", FORMS[form], ROWS[:-1]), least=(H - 1) * 2 * HEAD))


def grouped(alive: list[int], repeat: str, shared: int = 2) -> onnx.ModelProto:
    """Query heads share heads of keys and values, which are repeated; some query heads are not read."""
    net = Net()
    x = net.input("x", "N", "S" if repeat == "sized" else T, E)
    together = H // shared

    def repeated(y: str) -> str:
        if repeat == "Gather":
            return net("Gather", y, np.repeat(np.arange(shared), together), axis=1)
        y = net("Unsqueeze", y, [2])
        y = net("Tile", y, [1, 1, together, 1, 1]) if repeat == "Tile" else net("Expand", y, [1, 1, together, 1, 1])
        if repeat == "sized":  # where both are zero, the second one is `together`: no Gather says that
            n, steps = (net("Gather", net("Shape", x), [axis], axis=0) for axis in (0, 1))
            return net("Reshape", y, net("Concat", n, [H], steps, [D], axis=0))
        return net("Reshape", y, [-1, H, T, D])

    k, v = (repeated(split(net, project(net, x, shared * D), shared)) for _ in range(2))
    y = attend(net, split(net, project(net, x, H * D)), k, v)
    return finish(net, join(net, y), heads([head for head in range(H) if head not in alive]))


@pytest.mark.parametrize("repeat", ["Expand", "Tile", "Gather", "sized"])
@pytest.mark.parametrize(
    ("alive", "shared", "kept"),
    [([0, 1], 2, 1), ([0, 2], 2, 2), ([0, 3], 2, 2), ([0, 2, 3], 2, 2), ([3], 2, 1), ([1, 2], 1, 1), ([1, 2], 4, 2)],
)
def test_shared_keys_die_with_their_queries(alive: list[int], shared: int, kept: int, repeat: str) -> None:
    most = 2 * len(alive) * HEAD + 2 * kept * HEAD + 1
    examine(Case("", lambda: grouped(alive, repeat, shared), most=most, least=most - 1))


def fused(how: str, zero: list[int], columns: list[int]) -> onnx.ModelProto:
    """One product makes queries, keys and values."""
    net = Net()
    x = net.input("x", "N", T, E)
    y = net("Add", project(net, x, 3 * H * D, zero), dead(net.normal(3 * H * D), 0, zero))
    if how == "split":
        parts = [split(net, part) for part in net.many("Split", y, outputs=3, num_outputs=3, axis=2)]
    else:
        y = net("Transpose", net("Reshape", y, [0, 0, 3, H, D]), perm=[2, 0, 3, 1, 4])
        parts = [net("Gather", y, np.array(i), axis=0) for i in range(3)]
    return finish(net, join(net, attend(net, *parts)), columns)


@pytest.mark.parametrize("how", ["split", "permuted"])
@pytest.mark.parametrize("where", ["values", "columns"])
def test_fused_projections(how: str, where: str) -> None:
    zero = [2 * H * D + row for row in ROWS] if where == "values" else []
    live = H - len(DEAD)
    most = live * 4 * HEAD + live * 3 * D + 1
    examine(Case("", lambda: fused(how, zero, ROWS if where == "columns" else []), most=most))


def test_fused_projections_with_a_bias_on_dead_values() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", T, E)
        y = net("Add", project(net, x, 3 * H * D, [2 * H * D + row for row in ROWS]), net.normal(3 * H * D))
        y = net("Transpose", net("Reshape", y, [0, 0, 3, H, D]), perm=[2, 0, 3, 1, 4])
        return finish(net, join(net, attend(net, *(net("Gather", y, np.array(i), axis=0) for i in range(3)))))

    examine(Case("", build, least=H * HEAD))


def scores(dead_queries: list[int], dead_keys: list[int]) -> onnx.ModelProto:
    """Positions of queries or of keys that are zero in every head."""
    net = Net()
    x = net.input("x", "N", T, E)
    every = [[head * D + place for head in range(H) for place in places] for places in (dead_queries, dead_keys)]
    q, k = (split(net, project(net, x, H * D, zero)) for zero in every)
    return finish(net, join(net, attend(net, q, k, split(net, project(net, x, H * D)))))


def test_positions_that_add_nothing_to_a_score() -> None:
    full = 2 * H * HEAD + 1
    examine(Case("of queries", lambda: scores([1], []), most=full + 2 * H * E * 2))
    examine(Case("of both", lambda: scores([1], [0]), most=full + 2 * H * E))
    examine(Case("of none", lambda: scores([], []), least=full - 1 + 2 * H * E * 3))


def operator(
    op: str, *, shared: int = H, zero: list[int] | None = None, columns: list[int] | None = None, four: bool = False,
    mask: str = "", opset: int = 23, queries: list[int] | None = None, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """An attention operator behind three products."""
    net = Net(20 if op == "MultiHeadAttention" else opset)
    x = net.input("x", "N", T, E)
    q = project(net, x, H * D, queries)
    k, v = project(net, x, shared * D), project(net, x, shared * D, zero)
    if four:
        q, k, v = split(net, q), split(net, k, shared), split(net, v, shared)
    operands: list[str | np.ndarray] = [q, k, v]
    if op == "MultiHeadAttention":
        bias = dead(net.normal(3 * H * D), 0, [2 * H * D + row for row in zero or []])
        operands += [bias] if mask == "bias" else ["", "", net.normal(1, H, T, T)] if mask else []
        y = net(op, *operands, domain=MICROSOFT, num_heads=H, **attributes)
    else:
        operands += [net.normal(H, T, T) if mask == "of heads" else net.normal(T, T)] if mask else []
        if not four:
            attributes |= {"q_num_heads": H, "kv_num_heads": shared}
        y = net(op, *operands, **attributes)
    return finish(net, join(net, y) if four else y, columns)


BATCHES = (1, 5)  # onnxruntime's attention divides by an empty batch


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("where", ["values", "columns"])
@pytest.mark.parametrize("mask", ["", "of all", "of heads"])
def test_attention_operator(four: bool, where: str, mask: str) -> None:
    live = H - len(DEAD)
    most = live * 4 * HEAD + {"": 0, "of all": T * T, "of heads": live * T * T}[mask]
    zero, columns = (ROWS, None) if where == "values" else (None, ROWS)
    examine(
        Case("", lambda: operator("Attention", four=four, zero=zero, columns=columns, mask=mask), most, batches=BATCHES)
    )


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("opset", [23, 24])
def test_attention_operator_with_shared_heads(four: bool, opset: int) -> None:
    def build(alive: list[int]) -> onnx.ModelProto:
        gone = heads([head for head in range(H) if head not in alive])
        return operator("Attention", shared=2, four=four, columns=gone, opset=opset, is_causal=1)

    whole = 4 * 2 * HEAD + 2 * 2 * HEAD
    examine(Case("both of one", lambda: build([2, 3]), most=whole // 2, batches=BATCHES))
    examine(Case("one of each", lambda: build([0, 3]), most=whole - 4 * HEAD, batches=BATCHES))
    examine(Case("one of one", lambda: build([0, 2, 3]), least=whole - HEAD, batches=BATCHES))


def test_attention_operator_keeps_its_scale() -> None:
    gone = [head * D + 1 for head in range(H)]
    full = 2 * H * HEAD + 2 * H * E * 2
    examine(Case("default", lambda: operator("Attention", four=True, queries=gone), most=full, batches=BATCHES))
    examine(
        Case("given", lambda: operator("Attention", four=True, queries=gone, scale=0.3), most=full, batches=BATCHES)
    )
    examine(Case("three axes", lambda: operator("Attention", queries=gone), least=full, batches=BATCHES))


@pytest.mark.parametrize("where", ["values", "columns"])
@pytest.mark.parametrize("mask", ["", "bias", "of heads"])
def test_multi_head_attention_of_onnxruntime(where: str, mask: str) -> None:
    live = H - len(DEAD)
    most = live * 4 * HEAD + {"": 0, "bias": 3 * live * D, "of heads": live * T * T}[mask]
    zero, columns = (ROWS, None) if where == "values" else (None, ROWS)
    examine(
        Case("", lambda: operator("MultiHeadAttention", zero=zero, columns=columns, mask=mask), most, batches=BATCHES)
    )


@pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
@pytest.mark.parametrize("order", ["", "causal", "mask"])
def test_a_query_keeps_its_place_in_a_sequence(op: str, order: str) -> None:
    """Rows in front of the queries that nobody reads: without them, others would see other keys."""

    def build() -> onnx.ModelProto:
        net = Net(23)
        x, z = net("Pad", net.input("x", "N", T - 2, E), [0, 2, 0, 0, 0, 0]), net.input("z", "N", T, E)
        parts: list[str | np.ndarray] = [project(net, each, H * D) for each in (x, z, z)]
        causal = int(order == "causal")
        if op == "Attention":
            parts += [net.normal(T, T)] if order == "mask" else []
            y = net(op, *parts, is_causal=causal, q_num_heads=H, kv_num_heads=H)
        else:
            parts += ["", "", net.normal(1, 1, T, T)] if order == "mask" else []
            y = net(op, *parts, domain=MICROSOFT, unidirectional=causal, num_heads=H)
        return net.model(net("Slice", y, [2], [T], [1]))

    examine(Case("", build, gone=() if order else ("Pad",), stays=("Pad",) if order else (), batches=BATCHES))


def gated(gate: str, zero_gate: bool, zero_up: bool) -> onnx.ModelProto:
    """Two products, one through a gate, multiplied: dead units on either side."""
    net = Net()
    x = net.input("x", "N", T, E)
    a, b = project(net, x, 6, [1, 4] if zero_gate else []), project(net, x, 6, [1, 4] if zero_up else [])
    a = net("Mul", a, net("Sigmoid", a)) if gate == "silu" else net(gate, a)
    return net.model(net("MatMul", net("Mul", a, b), net.normal(6, E)))


@pytest.mark.parametrize("gate", ["silu", "Relu", "Sigmoid"])
def test_gated_units(gate: str) -> None:
    examine(Case("dead behind the gate", lambda: gated(gate, False, True), most=4 * 3 * E))
    if gate == "Sigmoid":  # one half for zero: the other side lives on
        examine(Case("a gate that is open", lambda: gated(gate, True, False), least=6 * 2 * E))
    else:
        examine(Case("dead in front of the gate", lambda: gated(gate, True, False), most=4 * 3 * E))
