"""Small decisions about cost that more than one edit needs.

The figures are coarse on purpose: the cost model that is calibrated by measurement is work of its own. They only order
two ways of doing the same thing, never decide whether something is done correctly.
"""

from __future__ import annotations

COPY_COST = 32
"""Multiply-adds that take about as long as moving one element (a blocked convolution on AVX-512)."""


def gather_pays(kept: int, present: int, multiply_adds: int) -> bool:
    """Tell whether gathering ``kept`` of ``present`` channels is cheaper than multiplying the others by zero.

    ``multiply_adds`` is what one input element costs in the contraction (outputs times window).
    """
    return (present - kept) * multiply_adds > COPY_COST * kept
