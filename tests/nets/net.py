"""What the catalogue says of a net: how to build, mask, un-mask, narrow by hand, feed and export it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from tests.nets.masking import remove_masks

FORMS = ("masks", "zeros", "torchscript", "torchscript-zeros")
"""Masks in place or plain zeros, exported by torch.export or by tracing."""


@dataclass(frozen=True)
class Net:
    """One net.

    Attributes:
        name: what tables call it.
        masked: builds the masked net in eval mode, the same at every call.
        twin: narrows a masked net by hand.
        shape: input shape without the batch, of a net with one input.
        residuals: number of residual Adds, the most joins that the fastest plan may leave.
        tokens: size of the vocabulary where that input holds ids, else 0.
        zeros: turns the masks of a masked net into plain zeros, in place.
        wide: at least 64 channels with half of them dead on both sides of most layers.
        draw: makes the inputs of a net with several: called with a generator, the batch, and other sizes by name.
        sizes: sets of those other sizes; the first is that of exports and benches.
        names: graph inputs.
        axes: dynamic axes of each input.
        outputs: graph outputs.
        forms: the forms of which there is one.
    """

    name: str
    masked: Callable[[], nn.Module]
    twin: Callable[..., nn.Module]
    shape: tuple[int, ...] = ()
    residuals: int = 0
    tokens: int = 0
    zeros: Callable[..., nn.Module] = remove_masks
    wide: bool = False
    draw: Callable[..., tuple[Tensor, ...]] | None = None
    sizes: tuple[Mapping[str, int], ...] = field(default=({},))
    names: tuple[str, ...] = ("x",)
    axes: tuple[Mapping[int, str], ...] = field(default=({0: "batch"},))
    outputs: tuple[str, ...] = ("y",)
    forms: tuple[str, ...] = FORMS[:3]

    def inputs(self, batch: int, seed: int = 0, sizes: Mapping[str, int] | None = None) -> tuple[Tensor, ...]:
        """Random inputs of the net; ids where it takes ids."""
        numbers = torch.Generator().manual_seed(seed)
        if self.draw is not None:
            return self.draw(numbers, batch, **(self.sizes[0] if sizes is None else sizes))
        if self.tokens:
            return (torch.randint(self.tokens, (batch, *self.shape), generator=numbers),)
        return (torch.randn((batch, *self.shape), generator=numbers),)

    def feeds(self, batch: int, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """The same for onnxruntime."""
        return dict(zip(self.names, (value.numpy() for value in self.inputs(batch, seed, sizes)), strict=True))

    def module(self, form: str) -> nn.Module:
        """The masked net with its masks in place, or with plain zeros."""
        model = self.masked()
        return self.zeros(model) if form.endswith("zeros") else model
