"""Attention with a cache of keys and values, grouped queries of onnxruntime, attention with weights of its own.

``E`` is the width of the stream, ``H`` heads of queries of ``D`` positions, which ``S`` heads of keys and values serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import optimize
from graphopt.facts.rules import MICROSOFT
from graphopt.facts.stats import stats
from tests.ops.net import Case, Net, Operand, dead, examine
from tests.strategies import check, graphs

E, H, S, D, T, P = 5, 4, 2, 16, 3, 7
HEAD = E * D
"""Parameters that one head has in each of its products."""
EVERY = list(range(H))
BATCHES = (1, 5)
"""onnxruntime's attention does not take an empty batch."""


def rows(heads: list[int], size: int = D) -> list[int]:
    """Positions of whole heads."""
    return [head * size + place for head in heads for place in range(size)]


def others(alive: list[int], count: int = H) -> list[int]:
    """The heads that are not among these."""
    return [head for head in range(count) if head not in alive]


def source(net: Net, half: bool = False) -> str:
    """The input, in half precision or not."""
    x = net.input("x", "N", T, E)
    return net("Cast", x, to=onnx.TensorProto.FLOAT16) if half else x


def lengths(net: Net, total: int) -> list[Operand]:
    """How many keys each sample has, less one; and their largest number."""
    zero = net("Cast", net("ReduceSum", net("Mul", "x", 0.0), [1, 2], keepdims=0), to=6)
    return [net("Add", zero, np.int32(total - 1)), np.int32(total)]


def grouped(
    alive: list[int], *, shared: int = S, heads: int = H, packed: bool = False, rotary: bool = False,
    zero: list[int] | None = None, dead_keys: list[int] | None = None, bias: str = "", sink: bool = False,
    cache: str = "", half: bool = False, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """``GroupQueryAttention`` between products, of which only the rows of the heads ``alive`` are not zero behind."""
    net = Net(23)
    kind = np.float16 if half else np.float32
    x, width = source(net, half), heads * D
    weights = [
        net.normal(E, width),
        dead(net.normal(E, shared * D), 1, rows(dead_keys or [])),
        dead(net.normal(E, shared * D), 1, rows(zero or [])),
    ]
    if packed:
        projected = [net("MatMul", x, np.concatenate(weights, axis=1).astype(kind)), "", ""]
    else:
        projected = [net("MatMul", x, weight.astype(kind)) for weight in weights]
    past: list[str] = ["", ""]
    if cache == "past":  # a cache as large as what is written to it; one token after the other
        past = [net.input(name, "N", shared, P, D) for name in ("past_key", "past_value")]
        projected = [net("Slice", each, [0], [1], [1]) if each else "" for each in projected]
    operands = [*projected, *past, *lengths(net, P + 1 if cache == "past" else T)]
    if rotary or bias or sink:
        operands += [net.normal(P + 1, D // 2).astype(kind) for _ in range(2)] if rotary else ["", ""]
    if bias or sink:
        rows_of = {"": "", "of heads": heads, "of all": 1}[bias]
        queries, keys = (1, P + 1) if cache == "past" else (T, T)
        operands += ["", net.normal(1, rows_of, queries, keys).astype(kind) if bias else ""]  # type: ignore[arg-type]
        operands += [net.normal(heads).astype(kind)] if sink else []
    attributes |= {"num_heads": heads, "kv_num_heads": shared, "do_rotary": int(rotary)}
    outputs = net.many("GroupQueryAttention", *operands, outputs=3 if cache else 1, domain=MICROSOFT, **attributes)
    last = dead(net.normal(width, E), 0, rows(others(alive, heads))).astype(kind)
    results = [net("MatMul", outputs[0], last), *outputs[1:]]
    return net.model(*(net("Cast", each, to=1) if half else each for each in results))


def left(queries: int, shared: int) -> int:
    """Parameters of so many heads of queries (and of the result), and of keys and values."""
    return 2 * HEAD * (queries + shared)


SPARE = 3
"""Parameters that make the lengths."""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(
    ("alive", "queries", "kept"),
    [([0, 1], 2, 1), ([0, 2], 2, 2), ([0, 3], 2, 2), ([1, 2], 2, 2), ([3], 1, 1), ([0, 1, 2], 4, 2), (EVERY, 4, 2)],
)
def test_grouped_queries(alive: list[int], queries: int, kept: int, packed: bool, rotary: bool) -> None:
    most = left(queries, kept) + SPARE + rotary * (P + 1) * D
    least = left(queries, kept) - (queries - len(alive)) * HEAD
    examine(Case("", lambda: grouped(alive, packed=packed, rotary=rotary), most, least, batches=BATCHES))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("alive", [[0, 1, 4], [1, 2], [0, 5], [6]])
def test_of_seven_heads(alive: list[int], packed: bool) -> None:
    """One head of keys and values serves all; each head has its own."""
    one = left(len(alive), 1) + SPARE
    examine(Case("one", lambda: grouped(alive, heads=7, shared=1, packed=packed), one, batches=BATCHES))
    own = left(len(alive), len(alive)) + SPARE
    examine(Case("own", lambda: grouped(alive, heads=7, shared=7, packed=packed), own, batches=BATCHES))


def test_more_from_some_than_from_others() -> None:
    """Three heads are served each: one serves one that is read, one serves two, one none."""
    alive = [0, 4, 5]
    examine(Case("", lambda: grouped(alive, heads=9, shared=3), left(4, 2) + SPARE, batches=BATCHES))


@pytest.mark.parametrize("packed", [False, True])
def test_values_that_are_zero(packed: bool) -> None:
    examine(Case("", lambda: grouped(EVERY, packed=packed, zero=[1]), left(2, 1) + SPARE, batches=BATCHES))
    least = left(4, 2) - HEAD  # keys that are zero make a mean of the values
    examine(Case("keys", lambda: grouped(EVERY, packed=packed, dead_keys=[1]), least=least, batches=BATCHES))


@pytest.mark.parametrize("bias", ["of heads", "of all", ""])
@pytest.mark.parametrize("sink", [False, True])
def test_what_comes_for_each_head(bias: str, sink: bool) -> None:
    extra = {"": 0, "of all": T * T, "of heads": 2 * T * T}[bias] + 2 * sink
    most = left(2, 2) + SPARE + extra
    examine(Case("", lambda: grouped([0, 3], bias=bias, sink=sink), most, batches=BATCHES))


@pytest.mark.parametrize(
    "attributes", [{"local_window_size": 2}, {"softcap": 3.0, "scale": 0.3}, {"smooth_softmax": 1}, {"causal": 0}]
)
def test_attributes_that_change_nothing_for_a_head(attributes: dict[str, Any]) -> None:
    examine(Case("", lambda: grouped([0, 3], **attributes), left(2, 2) + SPARE, batches=BATCHES))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cache", ["past", "present"])
@pytest.mark.parametrize(("alive", "queries"), [([0, 3], 2), ([0, 1], 4), ([2], 2), ([0, 1, 2], 4)])
def test_a_cache_keeps_its_heads(alive: list[int], queries: int, cache: str, packed: bool) -> None:
    most = left(queries, S) + SPARE + (3 if cache == "past" else 0)
    least = left(queries, S) - (queries - len(alive)) * HEAD
    build = lambda: grouped(alive, cache=cache, packed=packed)  # noqa: E731
    examine(Case("", build, most, least, batches=BATCHES))


@pytest.mark.parametrize("cache", ["past", "present"])
def test_a_cache_is_written_whatever_it_holds(cache: str) -> None:
    """Values that are zero now follow values that are not; zeros are written all the same."""
    least = left(H, S) - HEAD if cache == "past" else HEAD * 2 * (S - 1)
    examine(Case("", lambda: grouped(EVERY, zero=[1], cache=cache), least=least, batches=BATCHES))


def cached(
    alive: list[int], *, shared: int = S, four: bool = False, past: bool = True, mask: str = "", opset: int = 23,
    half: bool = False, zero: list[int] | None = None, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """The standard operator with past and present."""
    net = Net(opset)
    kind = np.float16 if half else np.float32
    x = source(net, half)

    def split(y: str, count: int) -> str:
        return net("Transpose", net("Reshape", y, [0, 0, count, D]), perm=[0, 2, 1, 3])

    counts = (H, shared, shared)
    weights = [net.normal(E, count * D) for count in counts]
    weights[2] = dead(weights[2], 1, rows(zero or []))
    parts = [net("MatMul", x, weight.astype(kind)) for weight in weights]
    if four:
        parts = [split(part, count) for part, count in zip(parts, counts, strict=True)]
    else:
        attributes |= {"q_num_heads": H, "kv_num_heads": shared}
    before = [net.input(name, "N", shared, P, D) for name in ("past_key", "past_value")] if past else []
    if half:
        before = [net("Cast", each, to=onnx.TensorProto.FLOAT16) for each in before]
    keys = T + P * past
    added = net.normal(*{"": (), "of heads": (1, H, T, keys), "of all": (T, keys)}[mask]).astype(kind) if mask else ""
    y, *present = net.many("Attention", *parts, added, *before, outputs=3, **attributes)
    if four:
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, H * D])
    y = net("MatMul", y, dead(net.normal(H * D, E), 0, rows(others(alive))).astype(kind))
    if half:
        y, *present = (net("Cast", each, to=1) for each in (y, *present))
    return net.model(y, *present)


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize(("alive", "queries"), [([0, 3], 2), ([0, 1], 4), ([2], 2), ([0, 1, 2], 4), (EVERY, 4)])
def test_the_standard_operator(alive: list[int], queries: int, past: bool, four: bool) -> None:
    most = left(queries, S)
    least = most - (queries - len(alive)) * HEAD
    build = lambda: cached(alive, past=past, four=four, opset=23 + past, is_causal=1)  # noqa: E731
    examine(Case("", build, most, least, batches=BATCHES))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("mask", ["of all", "of heads"])
@pytest.mark.parametrize("past", [False, True])
def test_the_standard_operator_with_a_mask(mask: str, past: bool, four: bool) -> None:
    keys = T + P * past
    most = left(2, S) + (2 if mask == "of heads" else 1) * T * keys
    examine(Case("", lambda: cached([0, 3], mask=mask, four=four, past=past), most, batches=BATCHES))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("shared", [1, 4])
def test_one_head_for_all_and_one_for_each(shared: int, four: bool) -> None:
    most = left(2 if shared == 1 else 4, shared)
    examine(Case("", lambda: cached([0, 3], shared=shared, four=four), most, most - 2 * HEAD, batches=BATCHES))


@pytest.mark.parametrize("past", [False, True])
def test_values_of_the_standard_operator_that_are_zero(past: bool) -> None:
    least = left(H, S) - HEAD if past else 0
    examine(Case("", lambda: cached(EVERY, zero=[1], past=past), least=least, batches=BATCHES))


def projecting(
    *, zero: list[int] | None = None, columns: list[int] | None = None, sizes: tuple[int, int, int] = (3, 3, 3),
    heads: int = H, mask: str = "", stream: list[int] | None = None, shift: float = 0.0, named: bool = False,
    half: bool = False, biased: list[int] | None = None, through: bool = False, present: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """onnxruntime's ``Attention`` between products; ``zero``: dead positions of values, ``stream``: of its input,
    ``through``: values are made of those alone."""
    net = Net(20)
    kind = np.float16 if half else np.float32
    x = net.input("x", "N", T, E)
    first = dead(net.normal(E, 7), 1, stream or [])
    x = net("Add", net("MatMul", x, first), dead(net.normal(7), 0, stream or [], shift))
    if half:
        x = net("Cast", x, to=onnx.TensorProto.FLOAT16)
    widths = [size * heads for size in sizes]
    gone = [widths[0] + widths[1] + row for row in zero or []]
    weight = dead(net.normal(7, sum(widths)), 1, gone)
    if through:
        weight[[row for row in range(7) if row not in (stream or [])], widths[0] + widths[1] :] = 0
    bias = dead(net.normal(sum(widths)), 0, gone if biased is None else biased)
    operands: list[Any] = [x, weight.astype(kind), bias.astype(kind)]
    if mask in ("of heads", "of all"):
        operands += ["", "", net.normal(1, heads if mask == "of heads" else 1, T, T).astype(kind)]
    elif mask == "lengths":
        operands += [net("Cast", net("Add", net("Mul", net("ReduceSum", "x", [1, 2], keepdims=0), 0.0), 2.0), to=6)]
    elif mask == "tokens":
        operands += [net("Cast", net("Greater", net("ReduceSum", "x", [2], keepdims=0), -1.0), to=6)]
    if named or len(set(sizes)) > 1:
        attributes["qkv_hidden_sizes"] = widths
    outputs = net.many(
        "Attention", *operands, outputs=2 if present else 1, domain=MICROSOFT, num_heads=heads, **attributes
    )
    y = net("MatMul", outputs[0], dead(net.normal(widths[2], E), 0, columns or []).astype(kind))
    return net.model(net("Cast", y, to=1) if half else y, *outputs[1:])


def projected(heads: int, sizes: tuple[int, int, int] = (3, 3, 3), stream: int = 7) -> int:
    """Parameters of so many heads and of the product in front."""
    return heads * (sum(sizes) * (stream + 1) + sizes[2] * E) + stream * (E + 1)


@pytest.mark.parametrize("where", ["zero", "columns"])
@pytest.mark.parametrize("sizes", [(3, 3, 3), (3, 3, 5), (2, 2, 1)])
@pytest.mark.parametrize("named", [False, True])
def test_weights_of_its_own(where: str, sizes: tuple[int, int, int], named: bool) -> None:
    gone = rows([1, 2], sizes[2])
    options: dict[str, Any] = {where: gone, "sizes": sizes, "named": named}
    examine(Case("", lambda: projecting(**options), projected(2, sizes), projected(2, sizes)))
    if sizes[2] > 1:
        options[where] = gone[:-1]
        examine(Case("one position lives", lambda: projecting(**options), least=3 * 3 * sum(sizes)))


@pytest.mark.parametrize("heads", [1, 7])
def test_numbers_of_heads(heads: int) -> None:
    gone = rows(list(range(1, heads)), 3)
    examine(Case("", lambda: projecting(zero=gone, heads=heads), projected(1)))


@pytest.mark.parametrize("mask", ["of heads", "of all", "lengths", "tokens"])
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_masks(mask: str, unidirectional: int) -> None:
    extra = {"of heads": 2 * T * T, "of all": T * T}.get(mask, 4)
    build = lambda: projecting(columns=rows([1, 2], 3), mask=mask, unidirectional=unidirectional)  # noqa: E731
    examine(Case("", build, projected(2) + extra))


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_a_narrow_input(shift: float) -> None:
    """What is constant in the input goes into the bias."""
    build = lambda: projecting(columns=rows([1, 2], 3), stream=[0, 4], shift=shift)  # noqa: E731
    examine(Case("", build, projected(2, stream=5)))
    silent = [2 * 3 * H + row for row in range(3 * H)]
    build = lambda: projecting(biased=silent, stream=[0, 4], shift=shift, through=True)  # noqa: E731
    examine(Case("values of constants", build, None if shift else 5, H * 3 * 2 if shift else 0))


def test_a_bias_of_dead_values() -> None:
    examine(Case("", lambda: projecting(zero=rows([1, 2], 3), biased=[]), least=H * 3 * 7))


def test_its_cache_is_left_alone() -> None:
    least = H * (3 * 3 * 8)
    examine(Case("", lambda: projecting(columns=rows([1, 2], 3), present=True), least=least))


@pytest.mark.parametrize(
    ("build", "most"),
    [
        (lambda half: grouped([0, 3], half=half), left(2, 2) + SPARE),
        (lambda half: grouped([0, 1], half=half, rotary=True), left(2, 1) + SPARE + (P + 1) * D),
        (lambda half: grouped([0, 3], half=half, packed=True, cache="present"), left(2, 2) + SPARE),
        (lambda half: cached([0, 3], half=half), left(2, S)),
        (lambda half: projecting(columns=rows([1, 2], 3), half=half), projected(2)),
    ],
)
def test_half_precision(build: Callable[[bool], onnx.ModelProto], most: int) -> None:
    """The narrowed model is as near to what floats give as the original is."""
    model = build(True)
    feeds = graphs.feeds(model, 5)
    narrow = check.optimized(model, "optimize", plan="smallest")
    exact, before, after = (
        [np.asarray(array) for array in check.session(each).run(None, feeds)]
        for each in (build(False), model, models.serialize(narrow.model))
    )
    assert narrow.report.after.parameters <= most
    for a, b, c in zip(exact, before, after, strict=True):
        assert np.abs(c - a).max() <= 1.5 * np.abs(b - a).max()


@pytest.mark.parametrize(
    "model",
    [
        lambda: grouped([0, 3]),
        lambda: grouped([0, 1], packed=True),
        lambda: grouped([0, 3], cache="past", packed=True),
        lambda: grouped(EVERY, zero=[1], cache="present"),
        lambda: cached([0, 3], four=True),
        lambda: projecting(columns=rows([1, 2], 3), sizes=(3, 3, 5), stream=[0], shift=1.5),
    ],
)
@pytest.mark.parametrize("plan", ["smallest", "fastest"])
def test_a_second_run_changes_nothing(model: Any, plan: Any) -> None:
    once = optimize(model(), plan=plan, measure=False).model
    assert stats(optimize(once, plan=plan, measure=False).model) == stats(once)
