"""From the torch module to ONNX with its key-value cache."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from graphopt.models.char_gpt.letters import METADATA
from graphopt.models.char_gpt.module import CharGPT
from graphopt.torch_export import export

INPUT = "ids"
POSITIONS = "positions"
OUTPUT = "logits"


def cache_names(net: CharGPT, prefix: str) -> list[str]:
    """Return the names of a cache: ``past.0.key past.0.value past.1.key …``, by number of the layer."""
    layers = [i for i, layer in enumerate(net.parts()) if layer.attention is not None]
    return [f"{prefix}.{layer}.{part}" for layer in layers for part in ("key", "value")]


def to_onnx(net: nn.Module) -> ir.Model:
    """Return the net as ONNX, one graph that reads a prompt and continues it.

    Inputs: ``ids`` and ``positions``, int64 ``[batch, time]``; ``past.LAYER.key`` and ``.value``, float32
    ``[batch, keys, past, size]``, where ``past`` may be 0. Outputs: ``logits``, float32 ``[batch, time, tokens]``, and
    ``present.LAYER.key`` and ``.value``, ``[batch, keys, past + time, size]``. Batch, time and past are left open.
    The letters are in the metadata.

    Raises:
        TypeError: A net of another family.
        VerificationError: The file does not compute what the net computes.
    """
    if not isinstance(net, CharGPT):
        raise TypeError(f"{type(net).__name__} is not a CharGPT")
    inputs, outputs = cache_names(net, "past"), cache_names(net, "present")
    model = export(
        net,
        continued(net, batch=2, time=5, past=3),
        dynamic_shapes=({0: "batch", 1: "time"},) * 2 + ((({0: "batch", 2: "past"},) * len(inputs),) if inputs else ()),
        input_names=[INPUT, POSITIONS, *inputs],
        output_names=[OUTPUT, *outputs],
    )
    model.metadata_props[METADATA] = net.letters
    return model


def continued(net: CharGPT, batch: int, time: int, past: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs that continue a random past: ids, positions, the cache."""
    numbers = torch.Generator().manual_seed(seed)
    device = net.head.weight.device
    ids = torch.randint(len(net.letters), (batch, time), generator=numbers)
    positions = torch.arange(past, past + time).expand(batch, time).contiguous()
    cache = (torch.randn(one.shape, generator=numbers) for one in net.empty(batch, past))
    return tuple(one.to(device) for one in (ids, positions, *cache))


def feeds(net: nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return all inputs of the ONNX file for ids ``[batch, time]`` with nothing before them."""
    if not isinstance(net, CharGPT):
        raise TypeError(f"{type(net).__name__} is not a CharGPT")
    batch, time = ids.shape
    positions = np.broadcast_to(np.arange(time), ids.shape)
    found = {INPUT: np.asarray(ids, np.int64), POSITIONS: np.ascontiguousarray(positions)}
    empty = (np.zeros((batch, one.keys, 0, one.size), np.float32) for one in net.attentions() for _ in range(2))
    return {**found, **dict(zip(cache_names(net, "past"), empty, strict=True))}
