"""Every case of ``gpu.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphopt import runtime_ops
from tests.bench.ops import gpu_moves, gpu_products
from tests.bench.ops.gpu_case import Case

FAMILIES: list[Callable[[], Iterator[Case]]] = [
    gpu_products.int8_gemms,
    gpu_products.int8_convs,
    gpu_products.binary_gemms,
    gpu_products.binary_convs,
    gpu_products.ternary_gemms,
    gpu_products.semi_structured,
    gpu_moves.moves,
    gpu_moves.histograms,
    gpu_moves.norms,
    gpu_moves.blocks,
]


def cases(small: bool) -> list[Case]:
    """Every case whose operator is there; only the small ones, or all."""
    known = runtime_ops.operators()
    found = [case for family in FAMILIES for case in family() if case.op in known]
    return [case for case in found if case.small or not small]
