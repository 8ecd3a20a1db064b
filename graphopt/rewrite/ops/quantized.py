"""Integer and fused contractions are narrowed like the plain ones."""

from __future__ import annotations

from graphopt.facts.constants import MICROSOFT
from graphopt.rewrite.ops.contraction import contraction
from graphopt.rewrite.ops.movement import concat
from graphopt.rewrite.rules import rewrites

for _name in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"):
    rewrites(_name)(contraction)
for _name in (
    "DynamicQuantizeMatMul", "FusedConv", "FusedGemm", "FusedMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearConv",
    "TransposeMatMul",
):  # fmt: skip
    rewrites(_name, domain=MICROSOFT)(contraction)
rewrites("QLinearConcat", domain=MICROSOFT)(concat)
