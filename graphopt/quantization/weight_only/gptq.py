"""GPTQ for weights in blocks: integers and scales for what the layer computes, not for the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.gptq import gptq, loss
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.moments import SecondMoment
from graphopt.calibrate.watch import watch
from graphopt.context import Context
from graphopt.quantization.placement import Weight
from graphopt.quantization.weight_only.layout import from_rows, spread, to_rows
from graphopt.quantization.weight_only.solve import measured


def round_all(context: Context, *, damping: float, positions: int, memory: int, rounds: int) -> int:
    """Set ``state.codes`` and scales of the products of a placement that keeps activations in float.

    Args:
        context: Of a quantization with data.
        damping: Added to the diagonal of H, relative to its mean.
        positions: Rows of x taken of each sample; 0: all.
        memory: Megabytes of second moments at a time.
        rounds: How often scales are chosen anew.

    Returns:
        The number of weights that were rounded so; what is copied (Gather) or convolved is rounded to nearest.
    """
    state = context.quantization
    assert state is not None
    products = [weight for weight in state.placement.weights.values() if _inputs(weight)]
    done = 0
    for together in _portions(products, memory << 20):
        names = list(dict.fromkeys(str(x.name) for weight in together for x in _inputs(weight)))
        moments = dict.fromkeys(names, SecondMoment.zeros(0))
        for arrays in watch(context.model, names, state.batches()):
            for name in names:
                rows = _rows(arrays[name], positions)
                old = moments[name] if moments[name].matrix.size else SecondMoment.zeros(rows.shape[1])
                moments[name] = old + SecondMoment.of(rows)
        for weight in together:
            hessian = sum(moments[str(x.name)].matrix[0] for x in _inputs(weight))
            count = sum(moments[str(x.name)].count for x in _inputs(weight))
            if count:
                _round(context, weight, np.asarray(hessian) / count, damping, rounds)
                done += 1
    return done


@dataclass(frozen=True)
class Rounded:
    """Rows of a weight with integers and scales.

    Attributes:
        codes: ``[rows, K]``.
        scale: ``[rows, ceil(K / B)]``.
        loss: ``(w - w')^T H (w - w')`` of each row.
    """

    codes: np.ndarray
    scale: np.ndarray
    loss: np.ndarray

    def best(self, other: Rounded) -> Rounded:
        """Return the better of two for each row."""
        better = other.loss < self.loss
        pick = np.where(better[:, None], other.codes, self.codes), np.where(better[:, None], other.scale, self.scale)
        return Rounded(*pick, np.minimum(self.loss, other.loss))


def rounded(
    rows: np.ndarray,
    hessian: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    block: int,
    grid: Grid,
    *,
    damping: float = 0.01,
    rounds: int = 2,
    dtype: np.dtype | type = np.float32,
) -> Rounded:
    """Return integers by GPTQ and the best scales for them, in turn; of every row the best that was seen.

    Args:
        rows: ``[rows, K]``.
        hessian: ``[K, K]``, the mean of ``x x^T``.
        scale: ``[rows, ceil(K / block)]``.
        zero: Like the scale.
        block: So many inputs share a scale.
        grid: The type.
        damping: See ``calibrate.gptq``.
        rounds: So often scales are chosen anew.
        dtype: The type that scales are stored in.
    """
    w, size = rows.astype(np.float64), rows.shape[1]
    centre = spread(zero, block, size)
    found: Rounded | None = None
    for turn in range(rounds + 1):
        codes = gptq(w, hessian, scale, zero, grid, block=block, damping=damping)
        error = w - spread(scale, block, size) * (codes - centre)
        now = Rounded(codes.astype(np.int16), scale, loss(error, hessian))
        found = now if found is None else found.best(now)
        if turn < rounds:
            scale = rescaled(w, hessian, found.codes - centre, found.scale, block).astype(dtype).astype(np.float32)
    assert found is not None
    return found


def rescaled(w: np.ndarray, hessian: np.ndarray, c: np.ndarray, scale: np.ndarray, block: int) -> np.ndarray:
    """Return scales by block, each the best for integers ``c`` while those of the blocks before it are done.

    ``S_b += c_b^T (H e)_b / c_b^T H_bb c_b`` with ``e = w - S c``: the form falls with every block. A scale keeps its
    sign, and stays where its integers are all zero.
    """
    size = w.shape[1]
    scale = scale.astype(np.float64)
    c = c.astype(np.float64)
    pull = (w - spread(scale, block, size) * c) @ hessian  # (H e)^T
    for number, first in enumerate(range(0, size, block)):
        part = slice(first, min(first + block, size))
        own = c[:, part]
        power = np.einsum("rk,rk->r", own @ hessian[part, part], own)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.einsum("rk,rk->r", own, pull[:, part]) / power
        before = scale[:, number]
        after = before + step
        usable = np.isfinite(after) & (after * before > 0) & (power > 0)
        step = np.where(usable, step, 0)
        scale[:, number] = before + step
        pull -= (step[:, None] * own) @ hessian[part]
    return scale


def _round(context: Context, weight: Weight, hessian: np.ndarray, damping: float, rounds: int) -> None:
    state = context.quantization
    assert state is not None
    array = context.constants.array(weight.value)
    assert array is not None and weight.axis is not None
    rows = to_rows(array, weight.axis).astype(np.float32)
    parameters = state.parameters[weight.value]
    scale, zero = parameters.scale, parameters.zero_point
    found = rounded(
        rows,
        hessian,
        scale,
        zero,
        weight.block,
        weight.grid,
        damping=damping,
        rounds=rounds,
        dtype=array.dtype,
    )
    told = measured(rows, found.scale, zero, weight, "gptq", found.codes)
    state.parameters[weight.value] = replace(told, scale=found.scale.astype(np.float32))
    small = np.uint8 if not weight.grid.signed else np.int8
    state.codes[weight.value] = np.ascontiguousarray(from_rows(found.codes.astype(small), array.shape, weight.axis))
    context.constants.release(weight.value)


def _inputs(weight: Weight) -> list[ir.Value]:
    """Return what a weight is multiplied with, where it is in blocks."""
    if not weight.block:
        return []
    return [x for node, _ in weight.readers if node.op_type in ("MatMul", "Gemm") and (x := node.inputs[0]) is not None]


def _portions(products: list[Weight], limit: int) -> Iterator[list[Weight]]:
    """Yield weights whose second moments fit into memory together; at least one."""
    portion: list[Weight] = []
    used: dict[ir.Value, int] = {}
    for weight in products:
        assert weight.axis is not None and weight.value.shape is not None
        size = int(weight.value.shape[weight.axis])  # type: ignore[arg-type]
        need = dict.fromkeys(_inputs(weight), 8 * size * size)
        if portion and sum({**used, **need}.values()) > limit:
            yield portion
            portion, used = [], {}
        portion.append(weight)
        used.update(need)
    if portion:
        yield portion


def _rows(x: np.ndarray, positions: int) -> np.ndarray:
    """Return ``[n, K]`` of ``[..., K]``: all rows, or so many of each sample, evenly spread."""
    if x.ndim < 3 or not positions:
        return x.reshape(-1, x.shape[-1])
    flat = x.reshape(len(x), -1, x.shape[-1])
    if flat.shape[1] > positions:
        flat = flat[:, np.linspace(0, flat.shape[1] - 1, positions).astype(int)]
    return flat.reshape(-1, x.shape[-1])
