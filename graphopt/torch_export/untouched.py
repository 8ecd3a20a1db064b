"""A module prepared for export, and afterwards exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


@contextlib.contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, with copies of its buffers; on the way out every attribute is what it was.

    Covers what ``forward`` itself changes (attributes, buffers in place), what hooks change, and what
    :func:`visible_masks` changes. Parameters are not copied: nothing writes to them in eval mode.
    """
    saved = [(each, each.__class__, _shallow(each.__dict__)) for each in module.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    copies: dict[int, torch.Tensor] = {}
    try:
        # The fused attention of eval mode is one operator that neither exporter can express.
        torch.backends.mha.set_fastpath_enabled(False)
        module.eval()
        for each, _, _ in saved:
            for name, buffer in each._buffers.items():
                if buffer is not None:
                    each._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for each, cls, attributes in saved:
            object.__setattr__(each, "__class__", cls)
            each.__dict__.clear()
            for name, value in attributes.items():
                each.__dict__[name] = value.back() if isinstance(value, _Registry) else value


def visible_masks(module: nn.Module) -> None:
    """Make of every tensor that a pre-hook recomputes a property that computes it; use inside :func:`restored`.

    ``torch.nn.utils.prune`` keeps ``weight_orig`` and ``weight_mask`` and lets a hook, before each forward, store their
    product as the attribute ``weight``. An exporter that looks at the attribute finds a stale constant, and modules
    that read a child's weight without calling the child (``MultiheadAttention``: ``out_proj.weight``) never run its
    hook. As a property, as ``torch.nn.utils.parametrize`` does it, the product is computed where it is read and the
    mask stays a buffer. The weight norm and the spectral norm of hooks are the same case.
    """
    for each in module.modules():
        properties: dict[str, Any] = {}
        for key, hook in list(each._forward_pre_hooks.items()):
            found = _recomputed(hook)
            if found is None:
                continue
            name, compute = found
            del each._forward_pre_hooks[key]
            each._forward_pre_hooks_with_kwargs.pop(key, None)
            each.__dict__.pop(name, None)
            properties[name] = property(compute)
        if not properties:
            continue
        if isinstance(each, nn.RNNBase):
            # Recurrent layers read their weights from a list that is filled when an attribute is set.
            each.__dict__.pop("_flat_weights", None)
            properties["_flat_weights"] = property(_flat_weights, _ignore)
        cls = each.__class__
        visible = type(cls.__name__, (cls,), {**properties, "__module__": cls.__module__})
        object.__setattr__(each, "__class__", visible)


def _recomputed(hook: Any) -> tuple[str, Callable[[nn.Module], torch.Tensor]] | None:
    """The attribute that a pre-hook stores, and how to compute it; None for every other hook."""
    if isinstance(hook, prune.BasePruningMethod):
        return hook._tensor_name, hook.apply_mask
    if isinstance(hook, WeightNorm):
        return hook.name, hook.compute_weight
    if isinstance(hook, SpectralNorm):
        return hook.name, lambda module: hook.compute_weight(module, do_power_iteration=False)
    return None


def _flat_weights(module: nn.Module) -> list[torch.Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]  # type: ignore[attr-defined]


def _ignore(module: nn.Module, weights: Any) -> None:
    """The list is computed; what exporters store there while they swap parameters is the same tensors by name."""


class _Registry:
    """One registry of a module (parameters, buffers, children, hooks) and what was in it.

    The handle of a hook, among others, refers to the registry itself, so the object must come back and not a copy:
    it is emptied and filled again.
    """

    def __init__(self, registry: dict[Any, Any]) -> None:
        self.registry = registry
        self.entries = dict(registry)

    def back(self) -> dict[Any, Any]:
        self.registry.clear()
        self.registry.update(self.entries)
        return self.registry


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: _Registry(value) if isinstance(value, dict) else value for name, value in attributes.items()}
