"""Einsum with a constant, with another value, with itself."""

from __future__ import annotations

import numpy as np

from tests.strategies.builder import Builder, Dim, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.contractions import SIZES
from tests.strategies.steps.registry import batch_first, step
from tests.strategies.weights import grown, weight


@step(lambda x: x.dtype == "f" and 2 <= x.rank <= 4 and batch_first(x), weight=3)
def einsum(b: Builder, c: Choices, x: Value) -> None:
    """Some letters of the value are summed over, the rest of them in any order, with new letters of the constant."""
    b.not_at_zero("Einsum is refused")
    letters = "nabc"[: x.rank]
    sizes: dict[str, Dim] = dict(zip(letters, x.shape, strict=True))
    inner = c.pick(list(letters[1:]))
    out = c.pick(SIZES)
    sizes["o"] = out
    fan = sizes[inner]
    assert isinstance(fan, int)
    shared = [letter for letter in letters[1:] if letter != inner and c.chance(20)]
    term = [inner, *shared, "o"]
    term = [term[i] for i in c.rng.permutation(len(term))]
    shape = [s for letter in term if isinstance(s := sizes[letter], int)]
    w = weight(b, c, shape, out_axis=term.index("o"), in_axis=term.index(inner), fan_in=fan)
    kept = [letter for letter in letters if letter != inner]
    for letter in kept[1:]:
        if c.chance(15) and len(kept) > 2:
            kept.remove(letter)
            size = sizes[letter]
            fan *= size if isinstance(size, int) else 1
            break
    kept.append("o")
    if c.chance(50):
        kept = [kept[0], *(kept[1:][i] for i in c.rng.permutation(len(kept) - 1))]
    amp, _ = grown(x, fan)
    equation = f"{letters},{''.join(term)}->{''.join(kept)}"
    y = b.op("Einsum", [x, w], tuple(sizes[letter] for letter in kept), amp=amp * np.sqrt(fan), equation=equation)
    b.push(y)


@step(lambda x: x.dtype == "f" and x.rank == 3 and batch_first(x), weight=2)
def einsum_of_two(b: Builder, c: Choices, x: Value) -> None:
    """Scores, elementwise products, outer products of two values."""
    b.not_at_zero("Einsum is refused")
    n, t, k = x.shape
    assert isinstance(t, int) and isinstance(k, int)
    other = b.another(c, lambda v: v.dtype == "f" and v.rank == 3 and v.shape[0] == n and v.shape[2] == k)
    s = other.shape[1]
    assert isinstance(s, int)
    way = c.pick(["ntk,nsk->nts", "...tk,...sk->...ts", "ntk,nsk->nk", "ntk,nsk", "ntk,nsk->ntsk", "ntk,k,nsk->nts"])
    shapes: dict[str, tuple[Dim, ...]] = {"nk": (n, k), "ntsk": (n, t, s, k)}
    operands: list[Value | str] = [x, other]
    if way == "ntk,nsk":
        if n == 1:
            raise InapplicableError("which letters are left is a matter of their number")
        shape: tuple[Dim, ...] = (s, t)  # alphabetical order: s, t
    else:
        shape = shapes.get(way.partition("->")[2], (n, t, s))
    if way.count(",") == 2:
        operands.insert(1, b.const(c.rng.standard_normal(k).astype(np.float32)))
    amp = min(x.amp * other.amp, 50.0) * k
    b.push(b.op("Einsum", operands, shape, amp=amp, equation=way))
