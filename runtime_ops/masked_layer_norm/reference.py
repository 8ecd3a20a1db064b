"""``MaskedLayerNorm`` in numpy."""

from __future__ import annotations

import numpy as np


def masked_layer_norm(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    missing: int = 0,
    fill: float = 0.0,
    spread: float = 0.0,
    epsilon: float = 1e-5,
) -> tuple[np.ndarray]:
    """Return the LayerNorm over the last axis that ``x`` had with ``missing`` more constant positions, without these.

    With ``K`` numbers in a row and ``N = K + missing``: ``m = (sum x + missing fill) / N`` and
    ``v = (sum (x - m)² + missing (fill - m)²) / N + spread``. Computed in float64.

    Args:
        x: ``[..., K]``, float32, float16 or bfloat16.
        scale: ``[K]`` or ``[1]``, of the same type.
        bias: ``[K]`` or ``[1]``, of the same type.
        missing: How many positions were left out.
        fill: Their mean.
        spread: Their squared distances from ``fill``, summed and divided by ``N``.
        epsilon: What is added to the variance.
    """
    wide = x.astype(np.float64)
    total = x.shape[-1] + missing
    if total == 0:
        return (x.copy(),)
    fill, spread, epsilon = (float(np.float32(number)) for number in (fill, spread, epsilon))
    mean = (wide.sum(-1, keepdims=True) + missing * fill) / total
    squares = ((wide - mean) ** 2).sum(-1, keepdims=True) + missing * (fill - mean) ** 2
    normal = (wide - mean) / np.sqrt(squares / total + spread + epsilon)
    return ((normal * scale.astype(np.float64) + bias.astype(np.float64)).astype(x.dtype),)
