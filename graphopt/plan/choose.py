"""Small decisions about cost that more than one edit needs.

The figures are coarse on purpose: the cost model that is calibrated by measurement is work of its own. They only order
two ways of doing the same thing, never decide whether something is done correctly.
"""

from __future__ import annotations

COPY_COST = 32
"""Multiply-adds that take about as long as moving one element (a blocked convolution on AVX-512)."""


JOIN_COST = 64
"""Multiply-adds that take about as long as one element of a scatter at a join (Pad, Gather, Add, two reorders)."""

BLOCK = 16
"""Channels that a blocked convolution computes together: fewer cost as much."""


def holding_pays(branch: int, stream: int, multiply_adds: int) -> bool:
    """Tell whether a branch had better be computed at the stream's width than be scattered to it.

    Measured with onnxruntime 1.31 on AVX-512 (``python -m tests.bench.joins``): holding wins at 16 channels, the
    scatter from 32 on. ``multiply_adds`` is what one channel of the branch costs for one output element.
    """
    blocks = -(-stream // BLOCK) + branch // -BLOCK
    return blocks * BLOCK * multiply_adds <= JOIN_COST * stream


def gather_pays(kept: int, present: int, multiply_adds: int) -> bool:
    """Tell whether gathering ``kept`` of ``present`` channels is cheaper than multiplying the others by zero.

    ``multiply_adds`` is what one input element costs in the contraction (outputs times window).
    """
    return (present - kept) * multiply_adds > COPY_COST * kept
