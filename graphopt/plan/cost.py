"""What operators cost on a target, in nanoseconds: it orders ways of doing the same thing, and decides nothing else.

The figures of a target come from ``graphopt calibrate-target`` (measured on the user's machine) or from the shipped
defaults. The *form* of the model is onnxruntime's: on a CPU a convolution runs in a blocked layout of ``lanes``
channels, which fills both sides up to whole blocks, if its input channels are a multiple of ``multiple``; below one
block of inputs it reads the plain layout directly; otherwise it is an image-to-column product, which fills nothing up
but is slower (``demasking.md`` §6; ``docs/decisions/0014-the-plan.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Widths = np.ndarray | int


@dataclass(frozen=True, slots=True)
class CostModel:
    """The figures of one target. Times are nanoseconds on one thread.

    Attributes:
        lanes: channels that a convolution computes together.
        multiple: input channels that the blocked layout wants a multiple of.
        blocked_mac: one multiply-add of a convolution in the blocked layout.
        direct_mac: one of a convolution that reads fewer input channels than one block.
        column_mac: one of a convolution as an image-to-column product, its copies included.
        depthwise_mac: one of a convolution of every channel by itself, in the blocked layout.
        loose_mac: the same outside of it, where the channels are no multiple.
        product_mac: one of a matrix product of many rows.
        weight: reading one weight of a matrix product of few rows.
        element: copying one element (Gather, Pad, Slice, a conversion of layouts).
        run: starting to copy elements that lie side by side: along the last axis, every element.
        join: one element of a scatter at a join: Pad, Gather and an addition that could have been fused.
        node: starting one operator.
    """

    lanes: int = 16
    multiple: int = 4
    blocked_mac: float = 0.0176
    direct_mac: float = 0.027
    column_mac: float = 0.023
    depthwise_mac: float = 0.055
    loose_mac: float = 0.24
    product_mac: float = 0.02
    weight: float = 0.09
    element: float = 0.2
    run: float = 7.0
    join: float = 0.4
    node: float = 300.0

    def still(self) -> CostModel:
        """Return figures by which no gather and no scatter ever pays."""
        return replace(self, element=1e9, run=1e9, join=1e9)

    def _blocks(self, width: Widths) -> np.ndarray:
        return -(-np.asarray(width) // self.lanes) * self.lanes

    def convolution(self, inputs: Widths, outputs: Widths, window: int, pixels: int) -> np.ndarray:
        """Return what an ungrouped convolution costs: channels, taps of the window, output positions."""
        inputs, outputs = np.asarray(inputs, np.float64), np.asarray(outputs, np.float64)
        taps = float(window) * pixels
        direct = inputs * self._blocks(outputs) * taps * self.direct_mac
        blocked = self._blocks(inputs) * self._blocks(outputs) * taps * self.blocked_mac
        column = inputs * outputs * taps * self.column_mac
        cost = np.where(inputs < self.lanes, direct, np.where(inputs % self.multiple == 0, blocked, column))
        return cost + self.node

    def depthwise(self, channels: Widths, window: int, pixels: int) -> np.ndarray:
        """Return what a convolution of every channel by itself costs."""
        channels, taps = np.asarray(channels), float(window) * pixels
        blocked, loose = self._blocks(channels) * self.depthwise_mac, channels * self.loose_mac
        return np.where(channels % self.multiple == 0, blocked, loose) * taps + self.node

    def product(self, inputs: Widths, outputs: Widths, rows: int) -> np.ndarray:
        """Return what a matrix product with constant weights ``[inputs, outputs]`` costs."""
        inputs, outputs = np.asarray(inputs, np.float64), self._blocks(outputs).astype(np.float64)
        return inputs * outputs * max(rows * self.product_mac, self.weight) + self.node

    def gather(self, width: Widths, others: int, behind: int) -> np.ndarray:
        """Return what selecting ``width`` positions costs.

        There are ``others`` elements at each, of which ``behind`` lie side by side: those of the axes behind.
        """
        return np.asarray(width, np.float64) * others * (self.element + self.run / behind) + self.node

    def scatter(self, width: Widths, others: int, behind: int) -> np.ndarray:
        """Return what bringing a branch to a join of ``width`` positions costs; sizes as in ``gather``."""
        return np.asarray(width, np.float64) * others * (self.join + self.run / behind) + 2 * self.node
