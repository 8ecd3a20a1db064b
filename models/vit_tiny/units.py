"""What can be removed from the net: heads, and hidden units of the feed-forward parts."""

from __future__ import annotations

import numpy as np
from torch import nn

from graphopt.models.vit_tiny.module import VitTiny
from graphopt.train.prune.groups import Group, Slice


def groups(net: nn.Module) -> list[Group]:
    """Return the groups of every layer: ``head``, then ``hidden``.

    A head dies by zeros in its values (weights and biases); its queries, keys and the columns of the output that read
    it are dead with it. A hidden unit dies by zeros in its row and bias: gelu(0) = 0.

    Raises:
        TypeError: A net of another family.
    """
    if not isinstance(net, VitTiny):
        raise TypeError(f"{type(net).__name__} is not a VitTiny")
    found = []
    for i, layer in enumerate(net.parts()):
        heads, size, prefix = layer.attention.heads, layer.attention.size, f"layers.{i}."
        rows = np.arange(heads * size).reshape(heads, size)
        scores = np.concatenate([rows, rows + heads * size], 1)
        weight, bias = f"{prefix}attention.qkv.weight", f"{prefix}attention.qkv.bias"
        values = tuple(Slice(name, 0, rows + 2 * heads * size) for name in (weight, bias))
        read = Slice(f"{prefix}attention.output.weight", 1, rows)
        dead = (Slice(weight, 0, scores), Slice(bias, 0, scores))
        found.append(Group(weight, "head", heads, values, (read, *dead)))
        hidden = layer.first.out_features
        units = np.arange(hidden)[:, None]
        first = tuple(Slice(f"{prefix}first.{name}", 0, units) for name in ("weight", "bias"))
        second = Slice(f"{prefix}second.weight", 1, units)
        found.append(Group(f"{prefix}first.weight", "hidden", hidden, first, (second,)))
    return found
