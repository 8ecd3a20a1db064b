"""A ConvNeXt-like net with batch-norm: 7x7 depthwise, 1x1 up, GELU, 1x1 down, layer scale, residual."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from tests.nets.cutting import Known, Spread, Unit, constants, cut, cut_linear, places, select


class Mixer(nn.Module):
    """x + scale * down(gelu(up(norm(filter(x)))))."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.filter, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.BatchNorm2d(width)
        self.up, self.down = nn.Conv2d(width, factor * width, 1), nn.Conv2d(factor * width, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        y = nn.functional.gelu(self.up(self.norm(self.filter(x))))
        return x + self.scale * self.down(y)


class ConvNext(nn.Module):
    """Patch stem, stages of mixers, strided 2x2 convolutions between, global pool, classifier."""

    def __init__(self, widths: tuple[int, ...], depth: int, factor: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, widths[0], 2, 2), nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(nn.Sequential(*(Mixer(width, factor) for _ in range(depth))) for width in widths)
        pairs = itertools.pairwise(widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairs)
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        x = self.stages[0](self.norm(self.stem(x)))
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            x = stage(down(x))
        return self.linear(x.mean((2, 3)))


class NarrowMixer(nn.Module):
    """A narrowed mixer: the depthwise layer sees the channels whose filter is alive."""

    take: Tensor | None

    def __init__(self, take: Tensor | None, filters: Unit, up: Unit, down: Unit, scale: Tensor, join: Spread) -> None:
        super().__init__()
        self.register_buffer("take", take)
        self.filters, self.up, self.down, self.join = filters, up, down, join
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Stream in, stream out."""
        y = self.down(self.up(self.filters(select(x, self.take))))
        return x + self.join(self.scale * y)


class NarrowConvNext(nn.Module):
    """The twin."""

    def __init__(self, parts: list[nn.Module], linear: nn.Linear) -> None:
        super().__init__()
        self.parts, self.linear = nn.Sequential(*parts), linear

    def forward(self, x: Tensor) -> Tensor:
        """As the original."""
        return self.linear(self.parts(x).mean((2, 3)))


def twin(model: ConvNext) -> nn.Module:
    """A stage's stream carries what varies anywhere in it, and constants that a living 7x7 filter makes borders of."""
    nan = float("nan")
    writer, now = Unit(model.stem, model.norm), Known.all(3)
    made: list[nn.Module] = []
    for index, stage in enumerate(model.stages):
        assert isinstance(stage, nn.Sequential)
        if index:
            writer = Unit(model.downs[index - 1])
        mixers = [part for part in stage if isinstance(part, Mixer)]
        live, const = constants(writer, now)
        stream = torch.where(live, nan, const)
        needed = live.clone()
        for mixer in mixers:
            filter_lives = (mixer.filter.weight != 0).flatten(1).any(1)
            needed |= filter_lives & (stream != 0)
            down_live = (mixer.down.weight != 0).flatten(1).any(1)
            # What a dead row of the last convolution adds is its bias, scaled.
            assert mixer.down.bias is not None
            stream = stream + torch.where(down_live, nan, mixer.scale.detach().reshape(-1) * mixer.down.bias.detach())
            needed |= stream.isnan()
        small, now = cut(writer, now, needed)
        made.append(small)
        for mixer in mixers:
            filters = Unit(mixer.filter, mixer.norm)
            filter_lives = (mixer.filter.weight != 0).flatten(1).any(1)
            carried = ~now.dropped()
            seen = (filter_lives & carried).nonzero().flatten()
            inner = Known(seen, torch.zeros(now.size))
            small_filters, inner = cut(filters, inner, filter_lives & carried)
            up = Unit(mixer.up, act=nn.GELU())
            small_up, inner = cut(up, inner, constants(up, inner)[0])
            down = Unit(mixer.down)
            small_down, branch = cut(down, inner, constants(down, inner)[0])
            scale = mixer.scale.detach()
            branch = Known(branch.keep, branch.fill * scale.reshape(-1))
            made.append(
                NarrowMixer(
                    places(seen, now.keep),
                    small_filters,
                    small_up,
                    small_down,
                    scale[branch.keep],
                    Spread(branch, now.keep),
                )
            )
            now = Known(now.keep, now.fill + branch.fill)
    return NarrowConvNext(made, cut_linear(model.linear, now)).eval()
