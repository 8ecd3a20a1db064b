"""A DenseNet-like net: pre-activation bottlenecks, concatenation, transitions with average pools."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.cutting import Known, Unit, constants, cut, cut_linear, joined, narrow_norm


class Dense(nn.Module):
    """norm, ReLU, 1x1, norm, ReLU, 3x3; the result is appended to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """cat([x, new])."""
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


class Transition(nn.Module):
    """norm, ReLU, 1x1, average pool."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Half the pixels."""
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between, norm, ReLU, global pool, classifier."""

    def __init__(self, stem: int, growth: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem, 3, padding=1)
        parts: list[nn.Module] = []
        width = stem
        for index, count in enumerate(layers):
            for _ in range(count):
                parts.append(Dense(width, growth))
                width += growth
            if index + 1 < len(layers):
                parts.append(Transition(width, width // 2))
                width //= 2
        self.parts = nn.Sequential(*parts)
        self.norm, self.linear = nn.BatchNorm2d(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        x = torch.relu(self.norm(self.parts(self.conv(x))))
        return self.linear(x.mean((2, 3)))


def _behind(norm: nn.BatchNorm2d, given: Known) -> tuple[nn.BatchNorm2d, Known]:
    """A narrow batch-norm, and the channels behind it and a ReLU."""
    fill = torch.relu(norm(given.fill.reshape(1, -1, 1, 1))).detach().reshape(-1)
    small = narrow_norm(norm, given.keep)
    assert small is not None
    return small, Known(given.keep, fill)


def twin(model: DenseNet) -> nn.Module:
    """Streams are read by 1x1 convolutions, so their constants go into biases (here: running means)."""
    small = DenseNet.__new__(DenseNet)
    nn.Module.__init__(small)
    stem = Unit(model.conv)
    live, _ = constants(stem, Known.all(3))
    narrow, now = cut(stem, Known.all(3), live)
    small.conv = narrow.layer  # pyright: ignore[reportAttributeAccessIssue]
    parts: list[nn.Module] = []
    for part in model.parts:
        made = part.__class__.__new__(part.__class__)
        nn.Module.__init__(made)
        if isinstance(part, Dense) and isinstance(made, Dense):
            made.norm1, seen = _behind(part.norm1, now)
            first = Unit(part.conv1, part.norm2, nn.ReLU())
            live, const = constants(first, seen)
            narrow, between = cut(first, seen, live | (const != 0))
            made.conv1, made.norm2 = narrow.layer, narrow.norm  # pyright: ignore[reportAttributeAccessIssue]
            second = Unit(part.conv2)
            narrow, new = cut(second, between, constants(second, between)[0])
            made.conv2 = narrow.layer  # pyright: ignore[reportAttributeAccessIssue]
            now = joined(now, new)
        elif isinstance(part, Transition) and isinstance(made, Transition):
            made.norm, seen = _behind(part.norm, now)
            unit = Unit(part.conv)
            narrow, now = cut(unit, seen, constants(unit, seen)[0])
            made.conv = narrow.layer  # pyright: ignore[reportAttributeAccessIssue]
        parts.append(made)
    small.parts = nn.Sequential(*parts)
    small.norm, seen = _behind(model.norm, now)
    small.linear = cut_linear(model.linear, seen)
    return small.eval()
