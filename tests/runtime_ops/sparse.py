"""Weights that are mostly zeros for the tests, and how far a sum may be from the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.runtime_ops import operators
from graphopt.runtime_ops.compact import dense
from tests.runtime_ops import running

ROUNDOFF = 2.0**-24


def weight(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> np.ndarray:
    """Normal numbers of which a share is zero."""
    return np.where(rng.random(shape) < zeros, 0, rng.normal(size=shape)).astype(np.float32)


def check(
    op: str,
    inputs: dict[str, np.ndarray],
    attributes: dict[str, Any],
    *,
    function: bool = True,
    threads: int = 1,
    symbolic: bool = False,
) -> np.ndarray:
    """Assert that kernel, function and reference agree within the bound of the definition; return the kernel's.

    The bound is n + 2 roundings of |bias| + |x| |weight|: n products added to the bias, in any order, with or without
    a rounding of the product (a fused multiply-add has none), and one more for what a second order would add. n counts
    the nonzeros of a row for the kernel, and all of a row for the dense function.
    """
    running.need_library()
    operator = operators()[op]
    every = {**operator.attributes, **attributes}
    rows = dense(inputs["values"], inputs["gaps"], every["shape"])
    over = (0,) if op == "SparseGemm" else tuple(range(1, rows.ndim))
    most = int(np.count_nonzero(rows, axis=over).max(initial=0))
    length = int(np.prod([rows.shape[axis] for axis in over]))
    wide = {name: array if name == "gaps" else array.astype(np.float64) for name, array in inputs.items()}
    exact = operator.reference(**wide, **every)[0]
    sizes = {name: array if name == "gaps" else np.abs(array) for name, array in wide.items()}
    size = operator.reference(**sizes, **{**every, "relu": 0})[0]
    model = running.ops_model(op, inputs, attributes, constants=["values", "gaps", "bias"], symbolic=symbolic)
    found: np.ndarray = running.run(model, inputs, threads=threads)[0]
    ways = [("kernel", found, most)]
    if function:
        ways.append(("function", running.run(model, inputs, library=False)[0], length))
    for way, array, terms in ways:
        assert array.shape == exact.shape and array.dtype == np.float32, way
        wrong = np.abs(array - exact) > (terms + 2) * ROUNDOFF * size
        assert not wrong.any(), f"{way}: {array[wrong][:3]} is not {exact[wrong][:3]}"
    return found
