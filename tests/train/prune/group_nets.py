"""Small nets of the usual architectures, without masks, of prime and odd widths where the architecture allows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.train.prune.groups import Found, find
from tests.nets import convnext, decoder, densenet, groupnorm, mobilenet3, resnet, shufflenet, superres, unet, vit
from tests.nets.masking import randomise


@dataclass(frozen=True)
class Case:
    """A net and its inputs (two samples); ``groups``: (name, kind, units) that have to be found, in order."""

    net: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], tuple[Tensor, ...]]
    groups: tuple[tuple[str, str, int], ...]


class Plain(nn.Module):
    """Convolutions in a row, the mean over the pixels, a linear layer."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise((3, *widths))))
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to [n, 10]."""
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.linear(x.mean((2, 3)))


class Residual(nn.Module):
    """Shortcuts of all three kinds: the identity; a strided slice with channels of zeros; a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.identity = resnet.Block(5, 5, 1, projection=False)
        self.padded = resnet.Block(5, 11, 2, projection=False)
        self.projected = resnet.Block(11, 7, 1, projection=True)
        self.linear = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to [n, 2]."""
        x = torch.relu(self.bn(self.conv(x)))
        return self.linear(self.projected(self.padded(self.identity(x))).mean((2, 3)))


class Flat(nn.Module):
    """Convolutions, flattened in front of a linear layer; one layer has a single filter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 1, 1)
        self.conv3, self.bn = nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.linear1, self.linear2 = nn.Linear(5 * 4 * 3, 11), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, 8, 6] to [n, 2]."""
        x = functional.max_pool2d(torch.relu(self.conv2(torch.relu(self.conv1(x)))), 2)
        return self.linear2(torch.relu(self.linear1(torch.relu(self.bn(self.conv3(x))).flatten(1))))


class Fused(nn.Module):
    """Gate and value of a SwiGLU from one product, tied tables, causal attention with keys shared by two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(13, 12), nn.LayerNorm(12)
        self.query, self.key, self.value = nn.Linear(12, 16), nn.Linear(12, 8), nn.Linear(12, 8)
        self.output = nn.Linear(16, 12, bias=False)
        self.both, self.down = nn.Linear(12, 14), nn.Linear(7, 12)

    def split(self, x: Tensor) -> Tensor:
        """[n, t, heads * 4] to [n, heads, t, 4]."""
        return x.view(x.shape[0], x.shape[1], -1, 4).transpose(1, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [n, t] to [n, t, 13]."""
        x = self.table(ids)
        q, k, v = (self.split(part(x)) for part in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.output(y.transpose(1, 2).flatten(2))
        gate, up = self.both(self.norm(x)).chunk(2, -1)
        return functional.linear(x + self.down(functional.silu(gate) * up), self.table.weight)


class Encoder(nn.Module):
    """What torch itself brings: ``nn.TransformerEncoderLayer`` around ``nn.MultiheadAttention``."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.inputs = nn.Linear(5, 12)
        self.layer = nn.TransformerEncoderLayer(12, 3, 7, 0.1, "gelu", batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, 5] to [n, 2]."""
        return self.head(self.layer(self.inputs(x)).mean(1))


def _seeded(build: Callable[[], nn.Module], seed: int = 7) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = randomise(build(), seed)
            for parameter in net.parameters():
                if parameter.dim() > 2 and not parameter.any():
                    nn.init.normal_(parameter)  # a class token, positions
        return net

    return made


def _decoder() -> nn.Module:
    net = decoder.Decoder(decoder.Shape(tokens=11, width=8, heads=4, keys=2, hidden=7, layers=1))
    for layer in net.layers:
        layer.attention.head_mask = layer.feed.hidden_mask = None  # type: ignore[union-attr]
    return net


def _vit() -> nn.Module:
    net = vit.Vit(8, 4, 12, 3, 7, 1)
    for layer in net.layers:
        layer.head_mask = layer.hidden_mask = None  # type: ignore[union-attr]
    return net


def _images(channels: int, height: int, width: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda numbers: (torch.randn(2, channels, height, width, generator=numbers),)


def _ids(tokens: int, time: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda numbers: (torch.randint(tokens, (2, time), generator=numbers),)


LONG = frozenset({"groupnorm", "convnext", "superres", "unet"})
"""Those that ``make test`` leaves to ``make test-long``: an export takes a second or more."""

CASES = {
    "residual": Case(  # channels behind the padded shortcut are those before it, or zeros beside them
        _seeded(Residual),
        _images(3, 6, 6),
        (
            ("conv.weight", "stream", 5),
            ("identity.conv1.weight", "filter", 5),
            ("padded.conv1.weight", "filter", 11),
            ("padded.conv2.weight", "stream", 6),
            ("projected.conv1.weight", "filter", 7),
            ("projected.conv2.weight", "stream", 7),
        ),
    ),
    "flatten": Case(
        _seeded(Flat),
        _images(3, 8, 6),
        (
            ("conv1.weight", "filter", 7),
            ("conv2.weight", "filter", 1),
            ("conv3.weight", "filter", 5),
            ("linear1.weight", "hidden", 11),
        ),
    ),
    "mobilenet3": Case(  # depthwise filters; the gates of squeeze-and-excite are 0.5 where their unit is zero
        _seeded(lambda: mobilenet3.MobileNet3(5, ((5, 1, 1), (7, 1, 2)), 4, 13)),
        _images(3, 8, 8),
        (
            ("conv.weight", "stream", 5),
            ("blocks.0.expand.weight", "filter", 20),
            ("blocks.0.squeeze.weight", "filter", 5),
            ("blocks.1.expand.weight", "filter", 20),
            ("blocks.1.squeeze.weight", "filter", 5),
            ("blocks.1.project.weight", "filter", 7),
            ("head.weight", "filter", 13),
        ),
    ),
    "densenet": Case(
        _seeded(lambda: densenet.DenseNet(5, 3, (2, 1))),
        _images(3, 6, 6),
        (
            ("conv.weight", "filter", 5),
            ("parts.0.conv1.weight", "filter", 12),
            ("parts.0.conv2.weight", "filter", 3),
            ("parts.1.conv1.weight", "filter", 12),
            ("parts.1.conv2.weight", "filter", 3),
            ("parts.2.conv.weight", "filter", 5),
            ("parts.3.conv1.weight", "filter", 12),
            ("parts.3.conv2.weight", "filter", 3),
        ),
    ),
    "shufflenet": Case(
        _seeded(lambda: shufflenet.ShuffleNet((18,), 1, 3)),
        _images(3, 8, 8),
        (("downs.0.weight", "stream", 6), ("stages.0.0.first.weight", "filter", 2)),
    ),
    "groupnorm": Case(
        _seeded(lambda: groupnorm.GroupNet((6,), 1, 3)),
        _images(3, 6, 6),
        (("conv.weight", "stream", 2), ("blocks.0.conv1.weight", "filter", 2)),
    ),
    "convnext": Case(
        _seeded(lambda: convnext.ConvNext((5, 7), 1)),
        _images(3, 16, 16),
        (
            ("stem.weight", "stream", 5),
            ("stages.0.0.up.weight", "filter", 20),
            ("stages.1.0.scale", "stream", 7),
            ("stages.1.0.up.weight", "filter", 28),
        ),
    ),
    "superres": Case(
        _seeded(lambda: superres.SuperResolution(7)),
        _images(3, 5, 5),
        (
            ("first.weight", "filter", 7),
            ("second.weight", "filter", 7),
            ("up.weight", "filter", 7),
            ("third.weight", "filter", 7),
        ),
    ),
    "unet": Case(  # what is concatenated comes from both sides
        _seeded(lambda: unet.UNet(3)),
        _images(3, 8, 8),
        tuple(
            (f"{name}.weight", "filter", width)
            for name, width in (
                *((f"enc1.{i}.0", 3) for i in range(2)),
                *((f"enc2.{i}.0", 6) for i in range(2)),
                *((f"middle.{i}.0", 12) for i in range(2)),
                ("up2", 6),
                *((f"dec2.{i}.0", 6) for i in range(2)),
                *((f"dec1.{i}.0", 3) for i in range(2)),
            )
        ),
    ),
    "vit": Case(
        _seeded(_vit),
        _images(3, 8, 8),
        (
            ("token", "stream", 12),
            ("layers.0.inputs.weight", "head", 3),
            ("layers.0.first.weight", "hidden", 7),
        ),
    ),
    "encoder": Case(
        _seeded(lambda: Encoder(norm_first=False)),
        lambda numbers: (torch.randn(2, 4, 5, generator=numbers),),
        (
            ("inputs.weight", "stream", 12),
            ("layer.self_attn.in_proj_weight", "head", 3),
            ("layer.linear1.weight", "hidden", 7),
        ),
    ),
    "fused": Case(  # no cache: groups of two heads with their key and value
        _seeded(Fused),
        _ids(13, 5),
        (
            ("table.weight", "stream", 12),
            ("value.weight", "head", 2),
            ("both.weight", "hidden", 7),
        ),
    ),
    "decoder": Case(  # keys and values go out: single query heads
        _seeded(_decoder),
        lambda numbers: decoder.draw(numbers, 2, 5, 3, decoder.Shape(11, 8, 4, 2, 7, 1)),
        (
            ("embedding.weight", "stream", 8),
            ("layers.0.attention.output.weight", "head", 4),
            ("layers.0.feed.gate.weight", "hidden", 7),
        ),
    ),
}


@cache
def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Found]:
    """The net of a case, its inputs, and what is found; each is exported once a process."""
    net, inputs = CASES[name].net(), CASES[name].inputs(torch.Generator().manual_seed(1))
    return net, inputs, find(net, inputs)
