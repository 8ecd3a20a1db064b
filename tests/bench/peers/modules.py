"""Micro graphs that come from torch modules, so that the tools that cut modules can take part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.nets.exporting import plainly_exported
from tests.nets.net import Net


@dataclass(frozen=True)
class ModuleRow:
    """One module: masked, in eval mode, the same at every call; and the shape of an input without the batch."""

    name: str
    module: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 6, 5)

    def build(self) -> onnx.ModelProto:
        """Its ONNX model, as torch exports it, with a dynamic batch."""
        from graphopt import model as models

        exported = plainly_exported(self.module(), Net(self.name, self.module, self.module, self.shape), traced=True)
        return onnx.load_from_string(models.serialize(exported))


def _masked(module: nn.Module, layers: dict[str, list[int]]) -> nn.Module:
    """Seeded weights, and masks over the given rows."""
    numbers = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.5, generator=numbers)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 1.5, generator=numbers)
    for name, rows in layers.items():
        layer = module.get_submodule(name)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        mask = torch.ones_like(weight)
        mask[rows] = 0
        prune.custom_from_mask(layer, "weight", mask)
    return module.eval()


GONE = [1, 4, 6]


def _chain(middle: Callable[[], nn.Module], *, bias: bool = False, k: int = 3) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        first = nn.Conv2d(3, 7, k, padding=k // 2, bias=bias)
        return _masked(nn.Sequential(first, middle(), nn.Conv2d(7, 2, k, padding=k // 2)), {"0": GONE})

    return build


def _norm() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(7), nn.ReLU())


def _depthwise() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(7, 7, 3, padding=1, groups=7), nn.ReLU())


def _mlp() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 13), nn.ReLU(), nn.Linear(13, 11), nn.Tanh(), nn.Linear(11, 3))
    return _masked(net, {"0": [0, 2, 3, 7, 12], "2": [1, 5, 6]})


class _Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 7, 3, padding=1, bias=False), nn.Linear(7 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(nn.functional.max_pool2d(torch.relu(self.conv(x)), 2), 1))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.one = nn.Conv2d(7, 5, 3, padding=1, bias=False)
        self.two = nn.Conv2d(5, 7, 3, padding=1, bias=False)
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.two(torch.relu(self.one(x)))))


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.right = nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Conv2d(11, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(torch.cat([self.left(x), self.right(x)], 1)))


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(7, 3, 1), nn.Conv2d(3, 7, 1)
        self.head = nn.Conv2d(7, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(y * gate)


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(5), nn.Linear(5, 11), nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def _residual(second: list[int]) -> Callable[[], nn.Module]:
    return lambda: _masked(_Residual(), {"stem": GONE, "one": [0, 3], "two": second})


MODULES: tuple[ModuleRow, ...] = (
    ModuleRow("torch: Conv2d-ReLU", _chain(nn.ReLU)),
    ModuleRow("torch: Conv2d with bias-ReLU", _chain(nn.ReLU, bias=True)),
    ModuleRow("torch: trap: Sigmoid", _chain(nn.Sigmoid)),
    ModuleRow("torch: trap: Sigmoid, 1x1", _chain(nn.Sigmoid, k=1)),
    ModuleRow("torch: BatchNorm2d", _chain(_norm)),
    ModuleRow("torch: BatchNorm2d, 1x1", _chain(_norm, k=1)),
    ModuleRow("torch: depthwise", _chain(_depthwise)),
    ModuleRow("torch: Linear", _mlp, (5,)),
    ModuleRow("torch: flatten", lambda: _masked(_Flat(), {"conv": GONE})),
    ModuleRow("torch: residual, equal masks", _residual(GONE)),
    ModuleRow("torch: residual, unequal masks", _residual([1, 2])),
    ModuleRow("torch: concat", lambda: _masked(_Branches(), {"left": GONE, "right": [2]})),
    ModuleRow("torch: squeeze and excite", lambda: _masked(_Gate(), {"conv": GONE})),
    ModuleRow("torch: feed-forward", lambda: _masked(_FeedForward(), {"up": [0, 3, 4, 8]}), (4, 5)),
)
