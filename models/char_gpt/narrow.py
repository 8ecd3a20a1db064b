"""A net whose dead key groups are gone, and with them their share of the cache.

``optimize`` keeps what goes in and out of a model: it may not touch the cache. Whoever is free to change the interface
takes dead groups out of the torch net before exporting it. Query heads that died alone stay: ``optimize`` removes them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from graphopt.models.char_gpt.module import Attention, CharGPT


def dead_groups(attention: Attention) -> Tensor:
    """Return which key groups nobody reads, bool ``[keys]``: all columns of the output for its query heads are zero."""
    columns = attention.output.weight.detach().unflatten(1, (attention.keys, attention.repeats * attention.size))
    return (columns == 0).all(2).all(0)


@torch.no_grad()
def without_dead_groups(net: CharGPT) -> CharGPT:
    """Return a copy that computes the same logits with fewer heads; the net itself is not changed.

    A layer that loses all of its groups has no attention any more, and no cache.
    """
    net = copy.deepcopy(net)
    for layer in net.parts():
        attention = layer.attention
        if attention is None:
            continue
        alive = ~dead_groups(attention)
        keys = int(alive.sum())
        if keys == attention.keys:
            continue
        if not keys:
            layer.attention = layer.norm1 = None
            continue
        shared = alive.repeat_interleave(attention.size)
        wide = alive.repeat_interleave(attention.repeats * attention.size)
        attention.query, attention.output = _rows(attention.query, wide), _columns(attention.output, wide)
        attention.key, attention.value = _rows(attention.key, shared), _rows(attention.value, shared)
        attention.heads, attention.keys = keys * attention.repeats, keys
    return net


def _rows(linear: nn.Linear, chosen: Tensor) -> nn.Linear:
    return _of(linear.weight[chosen])


def _columns(linear: nn.Linear, chosen: Tensor) -> nn.Linear:
    return _of(linear.weight[:, chosen])


def _of(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    made.weight.copy_(weight)
    return made
