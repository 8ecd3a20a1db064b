"""What can be removed from the net: query heads one by one, hidden units, channels of the residual stream."""

from __future__ import annotations

import numpy as np
from torch import nn

from graphopt.models.char_gpt.module import CharGPT
from graphopt.train.prune.groups import Group, Slice


def groups(net: nn.Module) -> list[Group]:
    """Return the residual stream, then ``head`` (query heads) and ``hidden`` of every layer.

    A search in the graph (``graphopt.train.prune.groups``) finds the same but for heads: there all query heads that
    share their keys are one unit, which zeros in the value remove. What removes one query head alone are zero columns
    of the output projection, which is therefore what is written here. Zeros in its query would not do: softmax of
    equal scores is the mean of the values. Hidden units die by zeros in ``up`` or in ``gate``: silu(0) = 0.

    Raises:
        TypeError: A net of another family.
    """
    if not isinstance(net, CharGPT):
        raise TypeError(f"{type(net).__name__} is not a CharGPT")
    found = [_stream(net)]
    for i, layer in enumerate(net.parts()):
        attention, prefix = layer.attention, f"layers.{i}."
        if attention is not None:
            rows = np.arange(attention.heads * attention.size).reshape(attention.heads, attention.size)
            output = Slice(f"{prefix}attention.output.weight", 1, rows)
            query = Slice(f"{prefix}attention.query.weight", 0, rows)
            found.append(Group(output.parameter, "head", attention.heads, (output,), (query,)))
        hidden = layer.feed.down.in_features
        units = np.arange(hidden)[:, None]
        gate, up = (Slice(f"{prefix}feed.{name}.weight", 0, units) for name in ("gate", "up"))
        down = Slice(f"{prefix}feed.down.weight", 1, units)
        found.append(Group(gate.parameter, "hidden", hidden, (gate, up), (down,)))
    return found


def _stream(net: CharGPT) -> Group:
    """What every layer adds to, and what reads it behind a norm."""
    units = np.arange(net.embedding.embedding_dim)[:, None]
    writes, reads = [Slice("embedding.weight", 1, units)], []
    for i, layer in enumerate(net.parts()):
        prefix = f"layers.{i}."
        if layer.attention is not None:
            writes += [Slice(f"{prefix}norm1.weight", 0, units), Slice(f"{prefix}attention.output.weight", 0, units)]
            reads += [Slice(f"{prefix}attention.{name}.weight", 1, units) for name in ("query", "key", "value")]
        writes += [Slice(f"{prefix}norm2.weight", 0, units), Slice(f"{prefix}feed.down.weight", 0, units)]
        reads += [Slice(f"{prefix}feed.{name}.weight", 1, units) for name in ("gate", "up")]
    writes.append(Slice("norm.weight", 0, units))
    reads.append(Slice("head.weight", 1, units))
    return Group("embedding.weight", "stream", len(units), tuple(writes), tuple(reads))
