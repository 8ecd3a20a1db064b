"""Narrowing by hand: what a careful engineer does with a masked torch net, written without graphopt.

Two facts carry all of it. A filter whose weights are zero produces a constant, ``act(bn(bias))``. A constant input
channel adds the same number to every output pixel when no zero padding reaches it, so it moves into the bias; in front
of a zero-padded convolution only the constant 0 can be dropped, any other one is *held*: it stays a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Known:
    """The channels of a value: the original positions that the narrow tensor carries, and the constants of the rest."""

    keep: Tensor
    fill: Tensor

    @staticmethod
    def all(size: int) -> Known:
        """Nothing was cut from an axis of this size."""
        return Known(torch.arange(size), torch.zeros(size))

    @property
    def size(self) -> int:
        """Number of channels of the original value."""
        return self.fill.numel()

    def dropped(self) -> Tensor:
        """Mask over the original channels: true where the narrow tensor does not carry the channel."""
        gone = torch.ones(self.size, dtype=torch.bool)
        gone[self.keep] = False
        return gone

    def then(self, function: Activation) -> Known:
        """The same channels behind an elementwise function."""
        return Known(self.keep, function(self.fill))


def joined(*parts: Known) -> Known:
    """The channels of a concatenation along the channel axis."""
    keep, fill, start = [], [], 0
    for part in parts:
        keep.append(part.keep + start)
        fill.append(part.fill)
        start += part.size
    return Known(torch.cat(keep), torch.cat(fill))


class Unit(nn.Module):
    """Convolution (or linear layer), batch-norm or nothing, activation or nothing."""

    def __init__(self, layer: nn.Module, norm: nn.BatchNorm2d | None = None, act: nn.Module | None = None) -> None:
        """Wraps layers; nothing is copied."""
        super().__init__()
        self.layer = layer
        self.norm = norm if norm is not None else nn.Identity()
        self.act = act if act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the three in order."""
        return self.act(self.norm(self.layer(x)))

    def tail(self, values: Tensor) -> Tensor:
        """Batch-norm and activation of one number per channel."""
        return self.act(self.norm(values.reshape(1, -1, 1, 1))).reshape(-1)


def matrix(layer: nn.Module) -> Tensor:
    """The weight with outputs first and inputs second, whatever the layer; the mask is applied."""
    weight = layer.weight.detach()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert isinstance(weight, Tensor)
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight


def padded(layer: nn.Module) -> bool:
    """True where a constant input gives no constant output: a zero padding, or the taps of a transposed layer."""
    if isinstance(layer, nn.Conv2d):
        return any(size != 0 for size in layer.padding)
    return isinstance(layer, nn.ConvTranspose2d)


def depthwise(layer: nn.Module) -> bool:
    """True for one filter per channel."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def shift(layer: nn.Module, given: Known) -> Tensor:
    """What the constant input channels and the bias add to every output, of shape (outputs,)."""
    weight = matrix(layer)
    bias = layer.bias
    total = bias.detach().clone() if isinstance(bias, Tensor) else torch.zeros(weight.shape[0])
    gone = given.dropped() & (given.fill != 0)
    if depthwise(layer):
        assert not (padded(layer) and bool((gone & (weight.flatten(1) != 0).any(1)).any())), "held channels needed"
        return total + torch.where(gone, weight.flatten(1).sum(1) * given.fill, 0.0)
    if bool(gone.any()):
        assert not padded(layer), "a nonzero constant in front of a zero padding has to be held"
        per_input = weight.sum(dim=tuple(range(2, weight.dim()))) if weight.dim() > 2 else weight
        total = total + per_input[:, gone] @ given.fill[gone]
    return total


def constants(unit: Unit, given: Known) -> tuple[Tensor, Tensor]:
    """Which outputs are live, and the constant that the others hold.

    Returns:
        Two tensors of shape (outputs,): bool, and the constant (meaningless where live).
    """
    weight = matrix(unit.layer)
    if depthwise(unit.layer):
        live = (weight.flatten(1) != 0).any(1) & ~given.dropped()
    else:
        live = (weight[:, given.keep].flatten(1) != 0).any(1)
    return live, unit.tail(shift(unit.layer, given)).detach()


def narrow_norm(norm: nn.Module, keep: Tensor, moved: Tensor | None = None) -> nn.BatchNorm2d | None:
    """The rows of a batch-norm; ``moved`` is a constant that its input lost and that goes into the running mean."""
    if not isinstance(norm, nn.BatchNorm2d):
        return None
    small = nn.BatchNorm2d(keep.numel(), eps=norm.eps)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(small, name).copy_(getattr(norm, name)[keep])
        if moved is not None:
            assert small.running_mean is not None
            small.running_mean -= moved[keep]
    return small.eval()


def cut(unit: Unit, given: Known, rows: Tensor) -> tuple[Unit, Known]:
    """The unit with only the given inputs and the asked rows.

    Args:
        unit: a masked unit.
        given: channels of its input.
        rows: bool of shape (outputs,); a dead row that is asked for is held: zero weights, the right constant.

    Returns:
        The narrow unit, and the channels of its output.
    """
    layer, keep = unit.layer, rows.nonzero().flatten()
    _, const = constants(unit, given)
    weight, total = matrix(layer), shift(layer, given)
    has_norm = isinstance(unit.norm, nn.BatchNorm2d)
    small: nn.Module
    if depthwise(layer):
        assert isinstance(layer, nn.Conv2d) and torch.equal(keep, given.keep), "a depthwise layer keeps its channels"
        with_bias = layer.bias is not None or not has_norm
        small = nn.Conv2d(
            keep.numel(),
            keep.numel(),
            layer.kernel_size,
            layer.stride,
            layer.padding,
            groups=keep.numel(),
            bias=with_bias,
        )  # pyright: ignore[reportArgumentType]
        chosen = weight[keep]
    else:
        chosen = weight[keep][:, given.keep]
        inputs, outputs = given.keep.numel(), keep.numel()
        with_bias = not has_norm and (layer.bias is not None or bool((total[keep] != 0).any()))
        if isinstance(layer, nn.Conv2d):
            small = nn.Conv2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding, bias=with_bias)  # pyright: ignore[reportArgumentType]
        elif isinstance(layer, nn.ConvTranspose2d):
            small = nn.ConvTranspose2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding, bias=with_bias)  # pyright: ignore[reportArgumentType]
            chosen = chosen.transpose(0, 1)
        else:
            small = nn.Linear(inputs, outputs, bias=with_bias)
    with torch.no_grad():
        small.weight.copy_(chosen)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if with_bias:
            small.bias.copy_(total[keep])  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    # With a batch-norm behind it a bias costs parameters and a running mean does not.
    norm = narrow_norm(unit.norm, keep, None if with_bias else total)
    return Unit(small, norm, unit.act), Known(keep, const)


def cut_linear(layer: nn.Linear, given: Known) -> nn.Linear:
    """The columns of a linear layer, all rows, constants in the bias."""
    unit, _ = cut(Unit(layer), given, torch.ones(layer.out_features, dtype=torch.bool))
    assert isinstance(unit.layer, nn.Linear)
    return unit.layer


class Spread(nn.Module):
    """Puts the channels of a narrow branch at their places in a wider stream, constants elsewhere.

    The cheapest standard form we measured: one channel of zeros padded behind, one gather with an index map.
    """

    index: Tensor

    def __init__(self, branch: Known, stream: Tensor) -> None:
        """Prepares the index map.

        Args:
            branch: channels of the branch.
            stream: original positions that the stream carries, sorted; contains those of the branch.
        """
        super().__init__()
        place = torch.full((branch.size,), branch.keep.numel(), dtype=torch.long)
        place[branch.keep] = torch.arange(branch.keep.numel())
        offset = torch.where(branch.dropped(), branch.fill, 0.0)[stream]
        self.register_buffer("index", place[stream])
        self.whole = torch.equal(branch.keep, stream)
        self.offset = nn.Parameter(offset.reshape(-1, 1, 1)) if bool((offset != 0).any()) else None

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, branch channels, h, w) to (batch, stream channels, h, w)."""
        if self.whole:
            return x
        x = functional.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.index)
        return x if self.offset is None else x + self.offset


def select(x: Tensor, index: Tensor | None) -> Tensor:
    """Channels of a value; None means all of them."""
    return x if index is None else x.index_select(1, index)


def places(wanted: Tensor, have: Tensor) -> Tensor | None:
    """Where the wanted original positions lie in a tensor that carries ``have``; None when it carries just those."""
    if torch.equal(wanted, have):
        return None
    found = torch.searchsorted(have, wanted)
    assert torch.equal(have[found], wanted)
    return found
