"""The nets by name: how to build, mask, un-mask, narrow by hand and export each of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.nets import (
    convnext,
    densenet,
    groupnorm,
    mobilenet,
    mobilenet3,
    plain,
    resnet,
    sequences,
    shufflenet,
    superres,
    unet,
)
from tests.nets.masking import mask_filters, randomise, settle
from tests.nets.net import Net

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def trained(depth: int) -> bool:
    """True when the published weights of this ResNet are there."""
    return (DATA / f"cifar10_resnet{depth}.safetensors").exists()


def _cifar(depth: int) -> nn.Module:
    model = resnet.ResNet((16, 32, 64), (depth - 2) // 6, projection=False)
    randomise(model, depth)
    if trained(depth):
        resnet.load_cifar(model, DATA / f"cifar10_resnet{depth}.safetensors")
    return mask_filters(model, skip=["linear"]).eval()


def _settled(model: nn.Module, centre: float) -> nn.Module:
    """Random statistics stay as they are; nets with shifted norms get those of a masked, re-trained net."""
    if centre == 0.0:
        return model
    return settle(model, torch.randn((8, 3, 32, 32), generator=torch.Generator().manual_seed(0)))


def _resnet18(widths: tuple[int, ...], depth: int, centre: float, seed: int) -> nn.Module:
    model = randomise(resnet.ResNet(widths, depth, projection=True), seed, centre)
    return _settled(mask_filters(model, skip=["linear"]), centre)


def _agreeing(widths: tuple[int, ...], depth: int, centre: float, seed: int) -> nn.Module:
    """Every writer of a stream has the same mask, so the stream narrows as a whole."""
    model = resnet.ResNet(widths, depth, projection=True)
    randomise(model, seed, centre)
    numbers = torch.Generator().manual_seed(seed)
    streams = []
    for width in widths:
        mask = torch.ones(width)
        mask[torch.randperm(width, generator=numbers)[: width // 2]] = 0.0
        streams.append(mask)

    def mask_like(conv: nn.Module, mask: Tensor) -> None:
        weight = conv.weight
        assert isinstance(weight, Tensor)
        torch.nn.utils.prune.custom_from_mask(conv, "weight", mask.reshape(-1, 1, 1, 1).expand_as(weight).clone())

    mask_like(model.conv1, streams[0])
    for index, mask in enumerate(streams):
        for block in model.stage(index):
            mask_like(block.conv2, mask)
            if block.projection is not None:
                mask_like(block.projection[0], mask)
    inner = [f"layer{i + 1}.{j}.conv1" for i in range(len(widths)) for j in range(depth)]
    others = [name for name, _ in model.named_modules() if name not in inner]
    return _settled(mask_filters(model, skip=others), centre)


def _vgg(widths: tuple[int, ...], centre: float, seed: int) -> nn.Module:
    return _settled(mask_filters(randomise(plain.Vgg(widths), seed, centre), skip=["linear"]), centre)


def _mlp(sizes: tuple[int, ...], seed: int) -> nn.Module:
    model = plain.Mlp(sizes)
    return mask_filters(randomise(model, seed), skip=[f"layers.{len(sizes) - 2}"])


def _mobilenet(stem: int, plan: tuple[tuple[int, int, int], ...], factor: int, head: int, seed: int) -> nn.Module:
    return mask_filters(randomise(mobilenet.MobileNet(stem, plan, factor, head), seed), skip=["linear"])


def _unet(width: int, seed: int) -> nn.Module:
    return mask_filters(randomise(unet.UNet(width), seed), skip=["out"])


def _densenet(stem: int, growth: int, layers: tuple[int, ...], seed: int) -> nn.Module:
    return mask_filters(randomise(densenet.DenseNet(stem, growth, layers), seed), skip=["linear"])


def _convnext(widths: tuple[int, ...], depth: int, seed: int) -> nn.Module:
    return mask_filters(randomise(convnext.ConvNext(widths, depth), seed), skip=["linear"])


def _shufflenets(widths: tuple[int, ...], depth: int, groups: int, shape: tuple[int, ...]) -> Iterator[Net]:
    for name, alike in (("shufflenet", True), ("shufflenet-unlike", False)):
        build = partial(shufflenet.masked, widths, depth, groups, 41, alike=alike)
        yield Net(name, build, shufflenet.twin, shape, depth * len(widths))


_VGG = (64, 64, 128, 128, 256, 256)
_MOBILE = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 3, 2))

FULL = {
    net.name: net
    for net in (
        Net("resnet20", lambda: _cifar(20), resnet.twin, (3, 32, 32), 9),
        Net("resnet56", lambda: _cifar(56), resnet.twin, (3, 32, 32), 27),
        Net("resnet18", lambda: _resnet18((64, 128, 256, 512), 2, -0.7, 18), resnet.twin, (3, 32, 32), 8),
        Net("resnet18-agree", lambda: _agreeing((64, 128, 256), 2, -0.7, 19), resnet.twin, (3, 32, 32), 6, wide=True),
        Net("vgg", lambda: _vgg(_VGG, -0.7, 16), plain.twin_vgg, (3, 32, 32), wide=True),
        Net("vgg-alive", lambda: _vgg(_VGG, 0.0, 17), plain.twin_vgg, (3, 32, 32)),
        Net("mobilenet", lambda: _mobilenet(32, _MOBILE, 6, 256, 2), mobilenet.twin, (3, 64, 64), 5),
        Net("unet", lambda: _unet(32, 3), unet.twin, (3, 64, 64)),
        Net("densenet", lambda: _densenet(32, 16, (4, 4, 4), 4), densenet.twin, (3, 32, 32)),
        Net("convnext", lambda: _convnext((64, 128), 3, 5), convnext.twin, (3, 32, 32), 6),
        Net("mlp", lambda: _mlp((784, 1024, 1024, 512, 10), 8), plain.twin_mlp, (784,)),
        Net("mobilenet3", lambda: mobilenet3.masked(32, _MOBILE, 6, 256, 40), mobilenet3.twin, (3, 64, 64), 5),
        *_shufflenets((64, 128, 256), 3, 4, (3, 64, 64)),
        Net("superres", lambda: superres.masked(64, 42), superres.twin, (3, 32, 32)),
        Net("groupnorm", lambda: groupnorm.masked((64, 128, 256), 2, 8, 43), groupnorm.twin, (3, 32, 32), 6, wide=True),
        *sequences.full(),
    )
}

SMALL = {
    net.name: net
    for net in (
        Net("resnet18", lambda: _resnet18((8, 12), 2, 0.0, 18), resnet.twin, (3, 8, 8), 4),
        # So wide that the fastest plan scatters at its joins; narrower streams are computed as wide as they are.
        Net("resnet18-wide", lambda: _resnet18((40, 96), 1, 0.0, 20), resnet.twin, (3, 8, 8), 2),
        Net("resnet18-agree", lambda: _agreeing((8, 14), 1, 0.0, 19), resnet.twin, (3, 8, 8), 2),
        Net("vgg", lambda: _vgg((8, 10, 14), -0.7, 16), plain.twin_vgg, (3, 8, 8)),
        Net("vgg-alive", lambda: _vgg((7, 10, 13, 16), 0.0, 17), plain.twin_vgg, (3, 8, 8)),
        Net("mobilenet", lambda: _mobilenet(8, ((8, 1, 1), (12, 3, 2)), 3, 20, 2), mobilenet.twin, (3, 8, 8), 3),
        Net("unet", lambda: _unet(8, 3), unet.twin, (3, 8, 8)),
        Net("densenet", lambda: _densenet(8, 4, (2, 2), 4), densenet.twin, (3, 8, 8)),
        Net("convnext", lambda: _convnext((8, 12), 2, 5), convnext.twin, (3, 16, 16), 4),
        Net("mlp", lambda: _mlp((13, 32, 17, 10), 8), plain.twin_mlp, (13,)),
        Net(
            "mobilenet3",
            partial(mobilenet3.masked, 8, ((8, 1, 1), (12, 3, 2)), 3, 20, 40),
            mobilenet3.twin,
            (3, 8, 8),
            3,
        ),
        *_shufflenets((18, 36), 1, 3, (3, 8, 8)),
        Net("superres", lambda: superres.masked(10, 42), superres.twin, (3, 5, 7)),
        Net("groupnorm", lambda: groupnorm.masked((12, 24), 1, 3, 43), groupnorm.twin, (3, 8, 8), 2),
        *sequences.small(),
    )
}
