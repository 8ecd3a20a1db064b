"""Biases on the steps that integer kernels take them to have: int32, with scale ``s_x s_w``."""

from __future__ import annotations

import numpy as np
import torch

from graphopt.quantization.biases import DIGITS, ROOM, TINIEST
from graphopt.train.quantize.layers import Layer, Quantizable


@torch.no_grad()
def settle(found: Quantizable) -> None:
    """Round the biases of all layers to their steps, in place; done twice it changes nothing more.

    A filter without weights may have any scale, and gets one that keeps its bias with all the digits of a float. A bias
    that has no room in 32 bits stays as it is, in float.
    """
    for layer in found.layers:
        steps, scale = steps_of(found, layer), _input(found, layer)
        if steps is None or scale is None:
            continue
        bias = layer.module.bias
        assert isinstance(bias, torch.nn.Parameter)
        weight = layer.quantizer(layer.latent)
        empty = (weight == 0).flatten(1).all(1)
        if bool(empty.any()) and bool(layer.quantizer.active.all()) and layer.per_filter:
            wanted = (bias.abs() / DIGITS).clamp(min=TINIEST) / scale
            layer.quantizer.scale.copy_(torch.where(empty, wanted, layer.quantizer.scale))
            steps = steps_of(found, layer)
            assert steps is not None
        numbers = bias.detach().cpu().numpy().astype(np.float64)
        whole = np.rint(numbers / steps.astype(np.float64))
        if (np.abs(whole) < ROOM).all():
            bias.copy_(torch.as_tensor(whole.astype(np.float32) * steps))


def steps_of(found: Quantizable, layer: Layer) -> np.ndarray | None:
    """Return ``[out]`` float32, ``s_x s_w``; None where there is no bias, or no one scale of what the layer reads."""
    scale = _input(found, layer)
    if layer.module.bias is None or scale is None:
        return None
    return np.float32(scale) * layer.quantizer.scale.cpu().numpy()


def _input(found: Quantizable, layer: Layer) -> float | None:
    if not layer.inputs or any(found.readers[name] is None for name in layer.inputs):
        return None
    scales = {float(found.values[name].scale) for name in layer.inputs}
    return scales.pop() if len(scales) == 1 else None
