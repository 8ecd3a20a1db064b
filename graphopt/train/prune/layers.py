"""Which weights are pruned, and what a layer is to linear algebra: rows of a matrix times patches of its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.calibrate.patches import Window, flat, patches

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def layers(net: nn.Module, exclude: Sequence[str] = ()) -> dict[str, list[Layer]]:
    """Return the weights that may be pruned: parameter name to the layers that use it, in the order of the net.

    Weights of linear layers and convolutions, transposed ones too, that are trained (``requires_grad``). One that is
    tied is there once, with all of its layers. ``exclude``: names or globs of parameters or of modules (``fc``,
    ``head.weight``, ``layer1.*``).
    """
    names = {id(parameter): name for name, parameter in net.named_parameters() if parameter.requires_grad}
    found: dict[str, list[Layer]] = {}
    for module in net.modules():
        if isinstance(module, Layer) and id(module.weight) in names:
            found.setdefault(names[id(module.weight)], []).append(module)
    return {name: some for name, some in found.items() if not excluded(name, exclude)}


def excluded(name: str, exclude: Sequence[str]) -> bool:
    """Whether a parameter or its module is named by a name or glob."""
    module = name.rpartition(".")[0]
    return any(fnmatchcase(name, glob) or fnmatchcase(module, glob) for glob in exclude)


def rows(layer: Layer, x: Tensor) -> Iterator[np.ndarray]:
    """Yield what the rows of a layer's weight are multiplied with: ``[groups, n, K]``, a few samples at a time.

    For convolutions the patches of the padded input (im2col); a transposed one is a convolution of its input with
    zeros between the numbers, its kernel turned round. Columns are in the order of ``matrix``.
    """
    x = x.detach()
    x = x.float() if x.dtype == torch.bfloat16 else x  # numpy has no such numbers
    if isinstance(layer, nn.Linear):
        yield from flat(x.cpu().numpy(), positions=0)
        return
    taps = len(layer.kernel_size)
    x = x if x.dim() == taps + 2 else x[None]  # torch takes a single sample without an axis for it
    if isinstance(layer, _TRANSPOSED):
        x, strides = _stuffed(layer, x), (1,) * taps
    else:
        # torch keeps what ``padding`` means, "same" included, in the form that ``pad`` takes.
        pads: list[int] = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, strides = functional.pad(x, pads, mode=mode), tuple(layer.stride)
    window = Window(tuple(layer.kernel_size), strides, tuple(layer.dilation), (0,) * 2 * taps, groups=layer.groups)
    yield from patches(x.cpu().numpy(), window, positions=0)


def _stuffed(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the input that a transposed convolution convolves with stride 1: spread out, then padded or cropped."""
    assert isinstance(layer, _TRANSPOSED)
    sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros((*x.shape[:2], *sizes))
    spread[(..., *(slice(None, None, stride) for stride in layer.stride))] = x
    pads: list[int] = []
    for axis in reversed(range(len(sizes))):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - int(layer.padding[axis])
        pads += [reach, reach + layer.output_padding[axis]]
    return functional.pad(spread, pads)


def matrix(layer: Layer, weight: Tensor) -> Tensor:
    """Return numbers of the weight's shape as ``[groups, rows, K]``: ``y = matrix x`` for each of ``rows``."""
    if isinstance(layer, nn.Linear):
        return weight[None]
    if not isinstance(layer, _TRANSPOSED):
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    inputs, outputs, *kernel = weight.shape
    turned = weight.flip(tuple(range(2, weight.dim())))
    grouped = turned.reshape(layer.groups, inputs // layer.groups, outputs, *kernel).transpose(1, 2)
    return grouped.reshape(layer.groups, outputs, -1)


def unmatrix(layer: Layer, numbers: Tensor) -> Tensor:
    """Return ``[groups, rows, K]`` in the shape of the weight: what ``matrix`` did, undone."""
    shape = layer.weight.shape
    if not isinstance(layer, _TRANSPOSED):
        return numbers.reshape(shape)
    inputs, outputs, *kernel = shape
    grouped = numbers.reshape(layer.groups, outputs, inputs // layer.groups, *kernel).transpose(1, 2)
    return grouped.reshape(shape).flip(tuple(range(2, len(shape))))


def outputs_axis(layer: Layer) -> int:
    """Return the axis of the weight that counts outputs; of a transposed convolution those of one group."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def as_tensor(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Return an array as a tensor of another's type and device."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like)
