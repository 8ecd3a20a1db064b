"""The best scale of a small block, exactly: ``argmin over S of sum (w - S clip(round(w / S), -below, above))^2``.

While ``u = 1 / S`` grows from 0, the integer of ``w`` goes from ``k - 1`` to ``k`` at ``u = (k - 1/2) / |w|``. Between
two of these events the integers ``q`` are fixed, and the best scale for them is ``A / B`` with ``A = sum w q`` and
``B = sum q^2``; the error it leaves is ``sum w^2 - A^2 / B``. So the least error of all scales is found by sorting
the events and adding up what each changes: ``A`` by ``|w|``, ``B`` by ``2k - 1``. There are at most
``size * max(below, above)`` events; a search in the scale can only come near what this finds.
"""

from __future__ import annotations

import numpy as np

CHUNK = 1 << 19
"""Events that are sorted at a time: what they need stays near the processor."""


def best_scale(blocks: np.ndarray, below: int, above: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, error) of every block, float64 ``[n]``.

    Args:
        blocks: ``[n, B]`` finite weights.
        below: How far the integers go below the zero point.
        above: How far they go above it.

    Returns:
        ``error`` is what the scale leaves of ``sum w^2``. Where no scale leaves less than all (zeros, or nothing but
        numbers on a side without integers) the scale is 0.
    """
    steps = max(below, above)
    n, size = blocks.shape
    scale, error = np.zeros(n), np.square(blocks, dtype=np.float64).sum(axis=1)
    if not n or not steps or not size:
        return scale, error
    rows = max(1, CHUNK // (size * steps))
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        scale[part], gain = _sweep(blocks[part].astype(np.float64), below, above)
        error[part] = np.maximum(error[part] - gain, 0)
    return scale, error


def _sweep(w: np.ndarray, below: int, above: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, what it takes away of the sum)."""
    n, size = w.shape
    steps = max(below, above)
    k = np.arange(1, steps + 1)
    size_of = np.abs(w)
    # Scaled to 1, so that single precision is enough for the order of the events.
    largest = size_of.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = ((k - 0.5) / np.where(largest > 0, size_of / largest, 0)[..., None]).astype(np.float32)
    reachable = k <= np.where(w > 0, above, below)[..., None]
    at[~reachable] = np.inf
    # The event's number lies in the low half of the key, its place in the high one: positive floats order as integers.
    keys = (at.view(np.uint32).astype(np.uint64) << np.uint64(32)).reshape(n, -1)
    keys |= np.arange(size * steps, dtype=np.uint64)
    keys.sort(axis=1)
    event = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    happens = np.isfinite((keys >> np.uint64(32)).astype(np.uint32).view(np.float32))
    of, step = np.divmod(event, steps)
    a = np.take_along_axis(size_of, of, 1) * happens
    b = (2.0 * step + 1.0) * happens
    np.cumsum(a, axis=1, out=a)
    np.cumsum(b, axis=1, out=b)
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = np.where(b > 0, a * a / b, 0.0)
    best = gains.argmax(axis=1)
    rows = np.arange(n)
    gain = gains[rows, best]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(gain > 0, a[rows, best] / b[rows, best], 0.0)
    return scale, gain
