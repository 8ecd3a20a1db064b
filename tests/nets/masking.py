"""Random statistics and structured masks for the test nets: half of the filters, another half in every layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import prune

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def randomise(module: nn.Module, seed: int, centre: float = 0.0) -> nn.Module:
    """Fills weights, biases and batch-norm statistics with seeded numbers and switches to eval mode.

    Args:
        module: any net; changed in place and returned.
        seed: seed of the generator.
        centre: where the batch-norm shifts lie. 0 makes about half of the dead channels a nonzero constant after
            a ReLU; a clearly negative one, with :func:`settle` after masking, makes nearly all of them zero.
    """
    numbers = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, PRUNABLE):
            fan_in = part.weight[0].numel()
            if isinstance(part, nn.ConvTranspose2d):
                fan_in = part.weight.shape[0] * part.weight[0, 0].numel() // (part.stride[0] * part.stride[1])
            nn.init.normal_(part.weight, 0.0, (2.0 / fan_in) ** 0.5, generator=numbers)
            if part.bias is not None:
                nn.init.normal_(part.bias, 0.0, 0.2, generator=numbers)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=numbers)
            nn.init.normal_(part.bias, centre, 0.3 if centre == 0.0 else 0.1, generator=numbers)
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean, 0.0, 0.2, generator=numbers)
            nn.init.uniform_(part.running_var, 0.5, 1.5, generator=numbers)
        elif isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=numbers)
            nn.init.normal_(part.bias, 0.0, 0.3, generator=numbers)
    return module.eval()


def mask_filters(module: nn.Module, skip: Iterable[str] = (), kinds: tuple[type, ...] = PRUNABLE) -> nn.Module:
    """Masks half of the output filters of every layer by L1 norm, with ``torch.nn.utils.prune``, in place.

    Args:
        module: the net.
        skip: qualified names of the layers that stay as they are (the classifier).
        kinds: layer types that are masked.
    """
    left_out = set(skip)
    for name, part in module.named_modules():
        if isinstance(part, kinds) and name not in left_out:
            # The filters of a transposed convolution lie along its second weight axis.
            prune.ln_structured(part, "weight", amount=0.5, n=1, dim=1 if isinstance(part, nn.ConvTranspose2d) else 0)
    return module


def settle(module: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Takes the batch-norm statistics of a masked net from one batch, in place, as re-training with the masks would.

    The mean of a dead channel becomes its bias and its variance 0, so its constant is the batch-norm's own shift.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    usual = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    with torch.no_grad():
        module.train()(inputs)
    for part, momentum in zip(norms, usual, strict=True):
        part.momentum = momentum
    return module.eval()


def mask_rows(part: nn.Module, dead: torch.Tensor, names: Iterable[str] = ("weight", "bias")) -> None:
    """Masks positions of the first axis of weight and bias (where there is one), in place.

    Args:
        part: a layer or a norm.
        dead: bool, one for each row.
        names: which parameters.
    """
    for name in names:
        values = getattr(part, name)
        if values is not None:
            mask = (~dead).to(values.dtype).reshape(-1, *(1,) * (values.dim() - 1)).expand_as(values)
            prune.custom_from_mask(part, name, mask.clone())


def half(size: int, numbers: torch.Generator, share: float = 0.5) -> torch.Tensor:
    """A bool vector with this share of its positions true."""
    dead = torch.zeros(size, dtype=torch.bool)
    dead[torch.randperm(size, generator=numbers)[: int(size * share)]] = True
    return dead


def remove_masks(module: nn.Module) -> nn.Module:
    """Makes every ``torch.nn.utils.prune`` mask permanent, so that only zero weights are left, in place."""
    for part in module.modules():
        for name in [name.removesuffix("_mask") for name, _ in part.named_buffers(recurse=False) if "_mask" in name]:
            prune.remove(part, name)
    return module
