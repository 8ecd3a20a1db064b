"""onnxruntime's CUDA provider: it has no integer convolution and no integer product, so that QDQ is slower than float.

What it has is MatMulNBits: weights of 4 or 8 bits, numbers in float (weight-only).
"""

from __future__ import annotations

from graphopt.quantization.tables.rows import Table

_NO_KERNELS = (
    "onnxruntime's CUDA provider has no integer convolution or product: quantized activations are slower than float"
)

TABLE = Table(
    {},
    activations=("none",),
    weights=("int4", "int8", "uint4", "uint8"),
    reasons={
        **dict.fromkeys(("uint8", "uint16", "int16"), _NO_KERNELS),
        "int8": f"{_NO_KERNELS}; graphopt's operators read int8, where they are allowed (--operators)",
    },
)
