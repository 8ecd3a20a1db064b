"""How much noise quantization adds behind a value, as a function of the factors its channels are multiplied by.

A channel c of a value is multiplied by ``s_c``, the columns that read it are divided by it. With a step of ``D``, the
noise of a quantizer is ``D^2 / 12``, so that a product with weight W, read as ``y_o = sum_c W_oc x_c``, gets

``sum_o g_o (D_o^2 / 12) sum_c s_c^2 E[x_c^2]``           from its own weight, ``D_o ~ max_c |W_oc| / s_c``,
``(D_x^2 / 12) sum_c (sum_o g_o W_oc^2) / s_c^2``           from its input, ``D_x ~ max_c s_c |x_c|``,
``(D_w^2 / 12) E|x_before|^2 sum_c (sum_o g_o W_oc^2) / s_c^2``  from the weight before, ``D_w ~ max_c s_c |W_c|``

where one step serves all of that weight. ``g_o`` says how much output o counts. All are posynomials and their maxima,
so the noise is convex in ``log s``: what looks good on a line between two points is.

Sources: the noise of a uniform quantizer, Bennett 1948; factors from the ranges of weights, Nagel et al. 2019 §4.1;
from those of activations and weights, ``s_c = max|W_c|^(1-a) / max|x_c|^a`` in the notation here, Xiao et al. 2022,
"SmoothQuant", §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FIXED = -1
"""The number of a channel that is not multiplied."""


@dataclass(frozen=True)
class Reader:
    """A product that reads the channels.

    Attributes:
        index: ``[g, i]`` number of each column's factor, or ``FIXED``.
        peak: ``[g, o, i]`` largest absolute weight over the kernel.
        bulk: ``[g, o, i]`` sum over the kernel of the fourth powers, where there are so few levels that clipping pays;
            else None.
        columns: ``[g, i]`` sum over outputs and kernel of ``g_o W^2``.
        gain: ``[g, o]`` how much each output counts.
        power: ``[g, i]`` ``E[x^2]``.
        kernel: Weights between an input and an output.
        levels: Steps from zero to the largest weight; 0: the weight is not quantized.
        per_channel: Each output has a step of its own.
    """

    index: np.ndarray
    peak: np.ndarray
    bulk: np.ndarray | None
    columns: np.ndarray
    gain: np.ndarray
    power: np.ndarray
    kernel: int
    levels: float
    per_channel: bool

    @property
    def signal(self) -> float:
        """Return the power of the output, weighted."""
        return float((self.columns * self.power).sum())


@dataclass(frozen=True)
class Writer:
    """A product with one step for all of its weight, that writes the channels.

    Attributes:
        index: ``[rows]`` number of each output's factor, or ``FIXED``.
        peak: ``[rows]`` largest absolute weight.
        power: Sum over inputs and kernel of ``E[x^2]``.
        levels: Steps from zero to the largest weight.
    """

    index: np.ndarray
    peak: np.ndarray
    power: float
    levels: float


@dataclass(frozen=True)
class Tap:
    """A value that is quantized with one step.

    Attributes:
        index: ``[n]`` number of each channel's factor, or ``FIXED``.
        low: ``[n]`` its smallest number, at most 0.
        high: ``[n]`` its largest number, at least 0.
        levels: Steps from the smallest to the largest.
    """

    index: np.ndarray
    low: np.ndarray
    high: np.ndarray
    levels: float


@dataclass(frozen=True)
class Balance:
    """All that a set of factors touches."""

    channels: int
    writers: Sequence[Writer]
    readers: Sequence[Reader]
    taps: Sequence[Tap]
    row: np.ndarray = field(init=False)
    """``[channels]`` largest weight that is multiplied, relative to the largest of its constant; 0: there is none."""
    column: np.ndarray = field(init=False)
    """``[channels]`` largest weight that is divided, relative likewise."""
    reach: np.ndarray = field(init=False)
    """``[channels]`` largest absolute activation, relative likewise."""
    worth: np.ndarray = field(init=False)
    """``[channels + 1]`` noise over signal behind the channel for a noise of one in it; the last for ``FIXED``."""

    def __post_init__(self) -> None:
        row, column, reach, worth = (np.zeros(self.channels + 1) for _ in range(4))
        for writer in self.writers:
            np.maximum.at(row, writer.index, _relative(writer.peak))
        for tap in self.taps:
            np.maximum.at(reach, tap.index, _relative(np.maximum(tap.high, -tap.low)))
        for reader in self.readers:
            np.maximum.at(column, reader.index, _relative(reader.peak.max(1, initial=0)))
            if (signal := reader.signal) > 0:
                np.add.at(worth, reader.index, reader.columns / signal)
        for name, found in (("row", row[:-1]), ("column", column[:-1]), ("reach", reach[:-1]), ("worth", worth)):
            object.__setattr__(self, name, found)

    def noise(self, exponents: np.ndarray) -> float:
        """Return noise over signal, summed over the readers, for ``s = 2**exponents`` (``[channels]``)."""
        s = np.append(np.exp2(exponents), 1.0)
        worth = self.worth / s**2
        total = 0.0
        for writer in self.writers:
            step = float((writer.peak * s[writer.index]).max(initial=0)) / writer.levels
            # Noise of one row of weights is seen in one channel only.
            total += step**2 / 12 * writer.power * float(worth[np.unique(writer.index)].sum())
        for tap in self.taps:
            span = float((tap.high * s[tap.index]).max(initial=0) - (tap.low * s[tap.index]).min(initial=0))
            total += (span / tap.levels) ** 2 / 12 * float(worth[np.unique(tap.index)].sum())
        for reader in self.readers:
            if reader.levels and (signal := reader.signal) > 0:
                total += _reader(reader, s[reader.index]) / signal
        return total


def _relative(found: np.ndarray) -> np.ndarray:
    largest = found.max(initial=0)
    return found / largest if largest > 0 else found


CLIPPED = 2.0**1.06
"""At 4 bits, the step with the least squared error reaches about so many times the root of the root of ``E[w^4]``."""


def _reader(reader: Reader, s: np.ndarray) -> float:
    """Return ``sum_o g_o (D_o^2 / 12) sum_i s_i^2 E[x_i^2]``."""
    with np.errstate(over="ignore"):  # a factor that is out of the question
        ranges = (reader.peak / s[:, None].astype(np.float32)).max(2, initial=0).astype(np.float64)
    if not reader.per_channel:
        ranges = np.full_like(ranges, ranges.max(initial=0))
    if reader.bulk is not None:
        fourth = np.einsum("goi,gi->go", reader.bulk, s**-4.0) / (reader.kernel * s.shape[1])
        fourth = fourth if reader.per_channel else np.full_like(fourth, fourth.mean())
        ranges = np.minimum(ranges, CLIPPED * fourth**0.25)
    energy = reader.kernel * (s**2 * reader.power).sum(1)
    return float(((reader.gain * (ranges / reader.levels) ** 2).sum(1) * energy).sum()) / 12


def _logs(found: np.ndarray) -> np.ndarray:
    """Return log2 relative to the median; 0 where there is nothing to go by."""
    known = found > 0
    result = np.zeros(found.size)
    result[known] = np.log2(found[known])
    result[known] -= np.median(result[known]) if known.any() else 0.0
    return result


def equalizing(balance: Balance) -> list[np.ndarray]:
    """Return ``log2 s`` that make the ranges of rows and columns equal, all the way and parts of it.

    ``s = sqrt(column / row)``; nothing where no row has to share its step with others.
    """
    if not balance.row.any():
        return []
    full = 0.5 * (_logs(balance.column) - _logs(balance.row))
    full[(balance.row == 0) | (balance.column == 0)] = 0.0
    return [part * full for part in (1.0, 0.75, 0.5, 0.25)]


def smoothing(balance: Balance, strengths: Sequence[float]) -> list[np.ndarray]:
    """Return ``log2 s = (1 - alpha) log2 column - alpha log2 reach`` for each alpha."""
    column, reach = _logs(balance.column), _logs(balance.reach)
    idle = (balance.column == 0) | (balance.reach == 0)
    return [np.where(idle, 0.0, (1 - alpha) * column - alpha * reach) for alpha in strengths]


def best(
    balance: Balance, candidates: Sequence[np.ndarray], *, whole: bool, decibels: float, search: bool = False
) -> np.ndarray | None:
    """Return the exponents with the least noise, or None where none gains ``decibels`` over doing nothing.

    Args:
        balance: What they touch.
        candidates: Where to look.
        whole: Round exponents, so that factors are powers of two and change no result of float arithmetic.
        decibels: What is too little to touch anything.
        search: Go on from the best candidate along the ranges of rows, columns and activations. The noise is convex.
    """
    finish = np.rint if whole else (lambda one: one)
    start = balance.noise(np.zeros(balance.channels))
    found = min(candidates, key=lambda one: balance.noise(finish(one)), default=None)
    if found is None:
        return None
    noise = balance.noise(finish(found))
    directions = [_logs(one) for one in (balance.row, balance.column, balance.reach)] if search else []
    step = 0.5
    while directions and step > 0.1:
        trials = [found + sign * step * one for one in directions if one.any() for sign in (1, -1)]
        trial = min(trials, key=lambda one: balance.noise(finish(one)), default=found)
        if (after := balance.noise(finish(trial))) < noise:
            found, noise = trial, after
        else:
            step /= 2
    return finish(found) if noise < start * 10 ** (-decibels / 10) else None
