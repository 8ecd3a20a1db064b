"""Masks that can be seen: pruned weights as torch's own pruning leaves them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune


def attach(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Leave a mask of ``torch.nn.utils.prune`` on each of these parameters, and return the net.

    ``graphopt export`` shows such masks in the model, and ``optimize`` removes what they make superfluous. Afterwards
    the parameter is called ``weight_orig`` and there is a buffer ``weight_mask``; ``prune.remove`` undoes it.

    Args:
        net: Is changed in place; attach at the very end, since parameters are other ones afterwards.
        masks: By parameter name, True where it is zero (``Pruned.masks``).

    Raises:
        KeyError: No parameter has this name.
    """
    parameters = dict(net.named_parameters())
    for name, zero in masks.items():
        if not zero.any():
            continue
        path, _, last = name.rpartition(".")
        prune.custom_from_mask(net.get_submodule(path), last, (~zero).to(parameters[name]))
    return net
