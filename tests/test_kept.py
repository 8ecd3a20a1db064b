"""What is put away comes back as it was, from memory and from the file; verification keeps what is much on disk."""

from __future__ import annotations

import errno
import tempfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt import kept, verify
from graphopt.errors import ModelError
from graphopt.kept import Kept, size_of
from tests.ops.net import Net

THINGS: list[Any] = [
    np.arange(7, dtype=np.float32),
    np.zeros((0, 3), np.int64),
    np.array(1.5, ml_dtypes.bfloat16),
    np.array(["a", ""], object),
    ([np.ones(2), None, [np.ones(3), np.zeros(1)]], {"x": np.arange(11)}),
]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one is None and other is None


@pytest.mark.parametrize("room", [0, 30, 1 << 20])
def test_it_comes_back_as_often_and_in_whatever_order(room: int) -> None:
    place = Kept(room)
    back = [place.put(thing) for thing in THINGS]
    for order in (range(len(THINGS)), reversed(range(len(THINGS))), [2, 2, 0]):
        for at in order:
            assert same(THINGS[at], back[at]())
    assert (place._file is None) == (room > 100)


def test_what_a_size_counts() -> None:
    assert size_of(THINGS[-1]) == 8 * (2 + 3 + 1 + 11)
    assert size_of(None) == 0


def model() -> Any:
    net = Net()
    return net.model(net("MatMul", net.input("x", "N", 3), net.normal(3, 2)))


def test_verification_of_many_samples_is_the_same_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [{"x": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)} for n in (0, 1, 5, 2)]
    before = [verify(model(), model(), data=data), verify(model(), model(), samples=7)]
    monkeypatch.setattr(kept.Kept, "__init__", room(0))
    after = [verify(model(), model(), data=data), verify(model(), model(), samples=7)]
    assert before == after and all(report.passed for report in after)


def room(size: int) -> Any:
    real = kept.Kept.__init__
    return lambda self: real(self, size)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ModelError, match="No space left on device"):
        Kept(0).put(np.ones(3))
