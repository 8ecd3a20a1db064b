"""Which operator reads a quantized weight, by target: one row an operator of the model, the first form that fits.

What each row says was tried in that runtime (``tests/quantization/test_weight_only_forms.py``) or, where there is none
on the machine, is what its documentation says; decision 0021 has the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.calibrate.grid import Grid

FLOAT, HALF, BFLOAT = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
POWERS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Form:
    """One way to store the weight of an operator.

    Attributes:
        operator: What reads it: ``MatMulNBits``, ``GatherBlockQuantized`` or ``DequantizeLinear``.
        bits: The widths that it can be stored in.
        floats: The types that it can be read as.
        blocks: How many inputs may share a scale; empty: one scale for each output channel, no blocks.
        zero_points: Whether it may have zero points.
        turned: Whether scales may be negative: the range -8 .. 7 can be turned round, to where the weights are.
        bias: Whether it adds a bias.
        accuracy_level: MatMulNBits's attribute by bits: 4 lets it round activations to 8 bits block by block.
        levels: More than so many levels are too many.
    """

    operator: str
    bits: tuple[int, ...]
    floats: tuple[ir.DataType, ...]
    blocks: tuple[int, ...] = POWERS
    zero_points: bool = True
    turned: bool = False
    bias: bool = False
    accuracy_level: int = 0

    def width(self, grid: Grid) -> int | None:
        """Return the bits that a number of the grid is stored in; None where none suffice."""
        # One zero point must be in the middle of what is stored, so that the grid's zero can be it.
        fits = [b for b in self.bits if grid.high - grid.low < 2**b and (not grid.signed or -grid.low <= 2 ** (b - 1))]
        return min(fits, default=None)


CPU_PRODUCT = Form("MatMulNBits", (2, 4, 8), (FLOAT, HALF), zero_points=True, turned=True, bias=True, accuracy_level=4)
"""Level 4 is the only one with kernels for 8 and 2 bits (the others: 20 times slower than float), and twice as fast for
4; its rounding is 20 dB below that of 4-bit weights."""

CUDA_PRODUCT = Form("MatMulNBits", (4, 8), (FLOAT, HALF, BFLOAT), turned=True)
"""Documented: 4 and 8 bits, blocks of 16 to 256. No bias: its kernels take one only since recently."""

STORED = Form("DequantizeLinear", (4, 8), (FLOAT, HALF, BFLOAT))
"""Not 2 bits: onnxruntime 1.31 replaces ``MatMul(x, DequantizeLinear(2 bits))`` by something wrong."""

STORED_CHANNELS = Form("DequantizeLinear", (8,), (FLOAT, HALF, BFLOAT), blocks=())
TABLE_ROWS = Form("GatherBlockQuantized", (2, 4, 8), (FLOAT, HALF), turned=True)
SYMMETRIC = Form("DequantizeLinear", (4,), (FLOAT, HALF, BFLOAT), blocks=(64, 128), zero_points=False)
"""TensorRT's weight-only: zero point 0, positive scales."""

TABLE: dict[str, dict[str, tuple[Form, ...]]] = {
    "cpu": {
        "MatMul": (CPU_PRODUCT,),
        "Gemm": (CPU_PRODUCT,),
        "Gather": (TABLE_ROWS,),
        "Conv": (STORED_CHANNELS, STORED),
    },
    "cuda": {
        "MatMul": (CUDA_PRODUCT,),
        "Gemm": (CUDA_PRODUCT,),
        "Gather": (Form("GatherBlockQuantized", (4, 8), (FLOAT, HALF, BFLOAT), turned=True),),
    },
    "tensorrt": {"MatMul": (SYMMETRIC,), "Gemm": (SYMMETRIC,)},
    "portable": {"MatMul": (STORED,), "Gemm": (STORED,), "Conv": (STORED_CHANNELS, STORED)},
}


@dataclass(frozen=True)
class Choice:
    """A form with what was chosen of it: the bits, and the block (0: a scale for each output channel)."""

    form: Form
    bits: int
    block: int


def choose(target: str, op_type: str, grid: Grid, dtype: ir.DataType, size: int, block: int) -> Choice | str:
    """Return how an operator's weight is stored, or why it is not.

    Args:
        target: A target of ``quantize``.
        op_type: The operator, of the standard domain.
        grid: The type asked for.
        dtype: The type of the weight.
        size: ``K``, the number of inputs of a sum.
        block: How many of them shall share a scale; fewer do where there are fewer.
    """
    reason = f"no form for {op_type} with {grid.name} weights in {target}"
    for form in TABLE[target].get(op_type, ()):
        bits = form.width(grid)
        if bits is None or (not form.zero_points and not grid.signed):
            continue
        if not form.blocks and grid.levels <= 16:
            continue  # one scale a channel is too coarse for so few levels
        if dtype not in form.floats:
            reason = f"{form.operator} does not read weights as {dtype.name.lower()} in {target}"
            continue
        if not form.blocks:
            return Choice(form, bits, 0)
        own = block
        while own // 2 >= max(size, 16):
            own //= 2
        if own in form.blocks:
            return Choice(form, bits, own)
        reason = f"{form.operator} takes blocks of {', '.join(map(str, form.blocks))} in {target}, not {own}"
    return reason
