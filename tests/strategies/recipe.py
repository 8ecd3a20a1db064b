"""A recipe is the whole randomness of one model: a seed, a few header bytes and one short byte string per step.

Every decision spends one byte, and byte 0 always means the plainest choice, so a failing recipe is made small by
removing steps and zeroing bytes: hypothesis does so by itself, `shrink` does so for the hunting loop.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

T = TypeVar("T")

HEADER_BYTES = 16
STEP_BYTES = 48


class InapplicableError(Exception):
    """A step that cannot be applied to the value it was offered."""


class Choices:
    """Spends a byte string, one decision a byte; when it is used up every decision is the plainest one."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = data
        self._at = 0
        self.rng = np.random.default_rng([seed, zlib.crc32(data)])

    def _byte(self) -> int:
        value = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return value

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return (self._byte() * n) >> 8 if n <= 256 else (self._byte() << 8 | self._byte()) % n

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; the first is the plainest. Raises InapplicableError when there is none."""
        if not options:
            raise InapplicableError("nothing to choose from")
        return options[self.below(len(options))]

    def chance(self, percent: float) -> bool:
        """True in about that many cases of a hundred."""
        return self._byte() >= 256 * (1 - percent / 100)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)


@dataclass(frozen=True, repr=False)
class Recipe:
    """What `build` turns into a model."""

    seed: int
    header: bytes
    steps: tuple[bytes, ...]
    nodes: int = 0
    """Plain steps are added until there are so many nodes."""

    def __repr__(self) -> str:
        return f"Recipe.parse('{self.text()}')"

    def text(self) -> str:
        """What `parse` reads."""
        parts = ".".join(p.rstrip(b"\0").hex() for p in (self.header, *self.steps))
        return f"{self.seed}.{self.nodes}.{parts}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that printed itself so."""
        seed, nodes, header, *steps = text.split(".")
        data = tuple(bytes.fromhex(s).ljust(STEP_BYTES, b"\0") for s in steps)
        return cls(int(seed), bytes.fromhex(header).ljust(HEADER_BYTES, b"\0"), data, int(nodes))

    @classmethod
    def random(cls, seed: int, *, most: int = 32) -> Recipe:
        """The recipe of a seed, without hypothesis; a few steps or many."""
        rng = random.Random(seed)
        steps = tuple(rng.randbytes(STEP_BYTES) for _ in range(rng.randint(3, most)))
        return cls(rng.randrange(2**16), rng.randbytes(HEADER_BYTES), steps)


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    steps = recipe.steps
    size = max(1, len(steps) // 2)
    while size:
        for at in range(0, len(steps), size):
            yield replace(recipe, steps=steps[:at] + steps[at + size :])
        size //= 2
    for at, data in enumerate(steps):
        width = STEP_BYTES // 2
        while width >= 4:
            for start in range(0, STEP_BYTES, width):
                if any(data[start : start + width]):
                    cut = data[:start] + bytes(width) + data[start + width :]
                    yield replace(recipe, steps=(*steps[:at], cut, *steps[at + 1 :]))
            width //= 2
        for start in range(STEP_BYTES):
            if data[start]:
                yield replace(recipe, steps=(*steps[:at], data[:start] + b"\0" + data[start + 1 :], *steps[at + 1 :]))
    for start in range(HEADER_BYTES):
        if recipe.header[start]:
            yield replace(recipe, header=recipe.header[:start] + b"\0" + recipe.header[start + 1 :])


def shrink(recipe: Recipe, fails: Callable[[Recipe], bool], *, budget: int = 400) -> Recipe:
    """A smaller recipe for which `fails` is still true, after at most `budget` trials."""
    progress = True
    while progress and budget > 0:
        progress = False
        for candidate in _smaller(recipe):
            budget -= 1
            if budget < 0:
                break
            if fails(candidate):
                recipe, progress = candidate, True
                break
    return recipe
