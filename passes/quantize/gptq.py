"""Weights rounded so that the outputs of their layers, rather than the weights, are near to what they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.calibrate.gptq import gptq, loss, rescaled, round_to
from graphopt.calibrate.moments import SecondMoment
from graphopt.calibrate.solve import Parameters
from graphopt.calibrate.watch import watch
from graphopt.context import Context
from graphopt.quantization.data import first
from graphopt.quantization.layers import Layer, layers
from graphopt.quantization.qdq import in_type
from graphopt.quantization.state import State
from graphopt.quantization.weight_only import gptq as blocks

_PLENTY = 10
"""Rows of data for each input from which on the data is trusted more, the more of it there is."""


@dataclass(frozen=True)
class Gptq:
    """Round weights so that the error of each layer's output is small, not that of the weights.

    1. The second moments ``H = E[x x^T]`` of the layer's input come from the calibration data, as the quantized layer
       will see it: in steps of its own type.
    2. Each row of a Conv, Gemm or MatMul weight gets integers with a small ``(w - w')^T H (w - w')``: one weight makes
       good for the error of others (GPTQ, Frantar et al. 2022, then single weights are moved while that helps). No row
       ends above rounding to nearest.
    3. The scale of a row becomes the best one for its integers, and the integers the best ones for that scale, in turn.

    *Options* ``damping``: added to the diagonal of H, relative to its mean; more trusts the data less (it falls where
    there are more than ten rows of data for each input). ``rescale``: how often scales are chosen anew; 0: never.
    ``samples``: after so many samples no more batches are read; 0: all are. ``positions``: rows of x that are taken of
    each sample (patches of an image, tokens of a text); 0: all. ``memory``: megabytes of second moments at a time; more
    layers than fit are done in more passes over the data. ``centred``: the mean error of each output is left to
    ``bias-correction``.

    4. Weights in blocks, with activations in float: the same, with a scale for each block.

    *Never* a weight of another type of operator, with more inputs than ``memory`` holds the moments of, or
    without data: these are rounded to nearest.

    *Needs* calibration data and scales; comes before ``bias-correction``.

    ``w -> S (q - O)`` with ``q`` no longer ``round(w / S) + O``
    """

    damping: float = 0.01
    rescale: int = 1
    samples: int = 256
    positions: int = 256
    memory: int = 512
    centred: bool = False

    name: ClassVar[str] = "gptq"
    stage: ClassVar[str] = "repair"

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ValueError(f"damping cannot be {self.damping}; 0 or more")
        for what, least in (("rescale", 0), ("samples", 0), ("positions", 0), ("memory", 1)):
            if getattr(self, what) < least:
                raise ValueError(f"{what} cannot be {getattr(self, what)}; at least {least}")

    def run(self, context: Context) -> bool:
        """Set ``state.codes`` (and scales) of the weights of the placement."""
        state = context.quantization
        if state is None:
            return False
        if state.request.weight_only:
            number = blocks.round_all(
                context, damping=self.damping, positions=self.positions, memory=self.memory, rounds=self.rescale
            )
            return context.record({"weights rounded by gptq": number})
        found, refused = layers(context)
        for reason in refused:
            context.warn("gptq", reason)
        done = seen = 0
        for together in self._portions(context, found):
            moments = self._moments(context, state, together)
            for layer in together:
                state.step(f"{self.name}: layers", seen := seen + 1, len(found))
                done += self._round(state, layer, moments[layer.value])
        return context.record({"weights rounded by gptq": done})

    def _portions(self, context: Context, found: list[Layer]) -> Iterator[list[Layer]]:
        """Yield layers whose moments fit into memory together."""
        limit = self.memory << 20
        portion: list[Layer] = []
        used = 0
        for layer in found:
            groups, _, k = layer.shape
            need = 8 * groups * k * k
            if need > limit:
                message = f"{k} inputs: {need >> 20} MB of second moments; its weight is rounded to nearest"
                context.warn("gptq", message, layer.readers[0].node)
                continue
            if portion and used + need > limit:
                yield portion
                portion, used = [], 0
            portion.append(layer)
            used += need
        if portion:
            yield portion

    def _moments(self, context: Context, state: State, together: list[Layer]) -> dict[object, SecondMoment]:
        """Return the second moments of the inputs of each layer: one pass over the data."""
        names = list(dict.fromkeys(str(reader.x.name) for layer in together for reader in layer.readers))
        found: dict[object, SecondMoment] = {
            layer.value: SecondMoment.zeros(layer.shape[2], layer.shape[0]) for layer in together
        }
        for arrays in watch(context.model, names, first(state.batches(), self.samples)):
            for layer in together:
                for reader in layer.readers:
                    for rows in reader.rows(arrays[str(reader.x.name)], self.positions):
                        found[layer.value] += SecondMoment.of(rows, largest=reader.largest)
        return found

    def _round(self, state: State, layer: Layer, moment: SecondMoment) -> bool:
        """Choose the integers of one weight; return whether any is not the nearest."""
        if not moment.count:
            return False
        hessian = moment.covariance() if self.centred else moment.matrix / moment.count
        row, parameters = state.placement.weights[layer.value], state.parameters[layer.value]
        w = layer.matrix()
        zero = layer.by_row(parameters.zero_point)
        damping = self.damping * min(1, _PLENTY * layer.shape[2] / moment.count)

        def rounded(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = gptq(w, hessian, scale, zero, row.grid, damping=damping)
            return found, loss(w - scale[:, :, None] * (found - zero[:, :, None]), hessian)

        scale = layer.by_row(parameters.scale)
        nearest = round_to(w, scale[:, :, None], zero[:, :, None], row.grid)
        codes, cost = rounded(scale)
        for _ in range(0 if row.axis is None else self.rescale):  # one scale for all rows has to stay
            other = _in_type(rescaled(w, hessian, codes, scale, zero), parameters, layer)
            others, costs = rounded(other)
            better = costs < cost
            if not better.any():
                break
            codes = np.where(better[:, :, None], others, codes)
            scale, cost = np.where(better, other, scale), np.where(better, costs, cost)
        state.codes[layer.value] = layer.unmatrix(codes)
        if row.axis is not None:
            error = ((w - scale[:, :, None] * (codes - zero[:, :, None])) ** 2).mean(axis=2).reshape(-1)
            mse = error.reshape(np.shape(parameters.mse))
            state.parameters[layer.value] = replace(parameters, scale=scale.reshape(-1), mse=mse, method=self.name)
        return bool((codes != nearest).any())


def _in_type(scale: np.ndarray, parameters: Parameters, layer: Layer) -> np.ndarray:
    """Return the scale as a number of the weight's own type, float16 perhaps."""
    found = in_type(replace(parameters, scale=scale.reshape(-1)), layer.value)
    return np.asarray(found.scale).reshape(scale.shape)
