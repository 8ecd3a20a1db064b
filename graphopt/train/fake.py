"""Numbers as a quantizer would leave them, with a gradient to learn by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fake_quantize(
    x: Tensor, scale: Tensor | float, zero_point: Tensor | int, low: int, high: int, axis: int | None = None
) -> Tensor:
    """Return ``S (clip(round(x / S) + Z, low, high) - Z)``, of the shape and type of ``x``.

    Rounding is to the nearest, halves to even; the division is not replaced by a product. So the levels are those of
    ONNX's QuantizeLinear and DequantizeLinear, bit by bit. The gradient goes straight through: 1 where
    ``round(x / S) + Z`` lies in ``[low, high]``, both included, 0 where it was clipped (Jacob et al. 2018). Scale and
    zero point get none.

    Args:
        x: Floating point.
        scale: S, positive: one number, or ``[n]`` along ``axis``.
        zero_point: Z, whole: one number, or ``[n]`` along ``axis``.
        low: Smallest level, as an integer type has it, for example -128.
        high: Largest level, for example 127.
        axis: Axis of ``x`` that scales and zero points go along, of size n; None: one for all.

    Raises:
        ValueError: Scale or zero point do not fit ``axis``; ``low`` is above ``high``.
    """
    if low > high:
        raise ValueError(f"the smallest level {low} is above the largest {high}")
    s, z = (_along(one, x, axis, name) for one, name in ((scale, "scale"), (zero_point, "zero point")))
    return _Straight.apply(x, s, z, low, high)  # type: ignore[no-any-return]


def _along(one: Tensor | float, x: Tensor, axis: int | None, name: str) -> Tensor:
    numbers = torch.as_tensor(one, device=x.device).detach().to(torch.promote_types(x.dtype, torch.float32))
    if numbers.numel() == 1:
        return numbers.reshape(())
    if axis is None or numbers.ndim != 1 or not -x.ndim <= axis < x.ndim or len(numbers) != x.shape[axis]:
        shape = list(numbers.shape)
        raise ValueError(f"a {name} of shape {shape} does not fit axis {axis} of {list(x.shape)}")
    shape = [1] * x.ndim
    shape[axis] = -1
    return numbers.reshape(shape)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        level = torch.round(x.to(scale.dtype) / scale) + zero_point
        ctx.save_for_backward((level >= low) & (level <= high))
        return ((level.clamp(low, high) - zero_point) * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, gradients[0], 0), None, None, None, None
