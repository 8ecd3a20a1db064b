"""What can be removed from the net: query heads one by one, and hidden units of the feed-forward parts."""

from __future__ import annotations

import numpy as np
from torch import nn

from graphopt.models.char_gpt.module import CharGPT
from graphopt.train.prune.groups import Group, Slice


def groups(net: nn.Module) -> list[Group]:
    """Return the groups of every layer: ``head`` (query heads), then ``hidden``.

    What removes one query head are zero columns of the output projection, which is therefore what is written. Zeros in
    its query would not do: softmax of equal scores is the mean of the values. Zeros in the value would remove all
    heads that share it. Hidden units die by zeros in ``up`` or in ``gate``: silu(0) = 0.

    Raises:
        TypeError: A net of another family.
    """
    if not isinstance(net, CharGPT):
        raise TypeError(f"{type(net).__name__} is not a CharGPT")
    found = []
    for i, layer in enumerate(net.parts()):
        attention, prefix = layer.attention, f"layers.{i}."
        if attention is not None:
            rows = np.arange(attention.heads * attention.size).reshape(attention.heads, attention.size)
            output = Slice(f"{prefix}attention.output.weight", 1, rows)
            query = Slice(f"{prefix}attention.query.weight", 0, rows)
            found.append(Group(output.parameter, "head", attention.heads, (output,), (query,)))
        hidden = layer.feed.down.in_features
        units = np.arange(hidden)[:, None]
        up, gate = (Slice(f"{prefix}feed.{name}.weight", 0, units) for name in ("up", "gate"))
        down = Slice(f"{prefix}feed.down.weight", 1, units)
        found.append(Group(up.parameter, "hidden", hidden, (up, gate), (down,)))
    return found
