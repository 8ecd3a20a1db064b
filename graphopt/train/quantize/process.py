"""A step carried out: quantize a subset, re-train, freeze it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from graphopt.calibrate.rounding import squared_error
from graphopt.train import distributed
from graphopt.train.hooks import Held, Hook
from graphopt.train.quantize import solve, subsets
from graphopt.train.quantize.layers import Layer, Quantizable
from graphopt.train.quantize.settings import QuantizeSettings
from graphopt.train.quantize.strategies import Step, shared, steps
from graphopt.train.trainer import Trainer

_BATCH = 64


@dataclass(frozen=True)
class Row:
    """One step of the history.

    Attributes:
        step: Its name.
        filters: So many filters were quantized in it.
        frozen: So many are frozen behind it, of all layers.
        steps: Re-training steps.
        loss: Mean loss over the last epoch of them; nan where there were none.
    """

    step: str
    filters: int
    frozen: int
    steps: int
    loss: float


class History(Hook):
    """What was done so far; part of the checkpoint."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": [asdict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take rows."""
        self.rows = [Row(**row) for row in state["rows"]]


class Process:
    """Quantizes a net step by step.

    Args:
        found: The net with its quantizers.
        trainer: Of that net; no stage has begun.
        settings: How it goes.
    """

    def __init__(self, found: Quantizable, trainer: Trainer, settings: QuantizeSettings) -> None:
        self.found, self.trainer, self.settings = found, trainer, settings
        self.held, self.history = Held(found.net), History()
        trainer.add("held", self.held)
        trainer.add("history", self.history)
        if settings.zeros:
            self._hold_zeros()

    def run(self) -> None:
        """Carry out all steps, then train what is left."""
        todo = steps(self.found, self.settings)
        batches = -(-len(self.trainer.data.train) // (self.settings.retrain.batch * distributed.size()))
        budgets = list(shared(self.settings, len(todo), batches))
        before = 0
        for number, (step, budget) in enumerate(zip(todo, budgets, strict=True), 1):
            label = f"subset {number} of {len(todo)}: {step.name}"
            among = before, sum(budgets)
            self.trainer.stage(step.name, partial(self._step, step, budget, label, among))
            before += budget
        self.trainer.stage("final", lambda fresh: self._final())

    def _step(self, step: Step, budget: int, label: str, among: tuple[int, int], fresh: bool) -> None:
        if fresh:
            self.trainer.tell(f"{label}, levels", *among)
            self.quantize(step)
        loss = self._fit(label, budget, among)
        self.freeze(step)
        frozen = sum(self._frozen(layer) for layer in self.found.layers)
        number = sum(len(self.chosen(layer, step)) for layer in step.layers)
        self.history.rows.append(Row(step.name, number, frozen, budget, loss))

    def _fit(self, label: str, budget: int, among: tuple[int, int]) -> float:
        if not budget:  # `steps=0` would be no limit
            return float("nan")
        settings = replace(self.settings.retrain, steps=budget, epochs=budget)  # enough of them
        return self.trainer.fit(settings, label=label, among=among)

    def _final(self) -> None:
        held = self.held.masks
        left = any(not held[name].all() if name in held else one.requires_grad for name, one in self._parameters())
        if self.settings.final.epochs and left:
            self.trainer.fit(self.settings.final, label="all levels are frozen, the rest")

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.found.net.named_parameters()

    # --- what a step does ---

    @torch.no_grad()
    def quantize(self, step: Step) -> None:
        """Put the filters and values of a step on levels; scales are found for what is there now."""
        for layer in step.layers:
            self._divide(layer)
            chosen = torch.as_tensor(self.chosen(layer, step), device=layer.latent.device)
            quantizer = layer.quantizer
            if self.settings.per_filter:
                found = solve.of_filters(layer.latent[chosen], quantizer.grid)
                quantizer.scale[chosen] = torch.as_tensor(found.scale, device=chosen.device)
            elif not quantizer.active.any():
                found = solve.of_filters(layer.latent, quantizer.grid, per_filter=False)
                quantizer.scale.copy_(torch.as_tensor(found.scale))
            quantizer.active[chosen] = True
        self._values(step)

    def _values(self, step: Step) -> None:
        values = self.found.values
        every = {name: values[name] for name in (*step.values, *step.channels)}
        new = {name: one for name, one in every.items() if not one.solved}
        if new:
            batches = self.trainer.batches(self.trainer.data.train, size=_BATCH, limit=self.settings.samples)
            for name, histogram in solve.histograms(self.found.net, new, batches).items():
                found = solve.of_values(new[name], histogram, name)
                new[name].scale.fill_(float(found.scale))
                new[name].zero_point.fill_(int(found.zero_point))
                new[name].solved.fill_(True)
        for name in step.values:
            values[name].active.fill_(True)
        for layer in step.layers:
            for name in step.channels:
                values[name].active[torch.as_tensor(self.chosen(layer, step))] = True

    @torch.no_grad()
    def freeze(self, step: Step) -> None:
        """Hold the filters of a step on the levels where training left them."""
        for layer in step.layers:
            weight = layer.latent
            mask = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
            mask[torch.as_tensor(self.chosen(layer, step), device=weight.device)] = True
            where = mask.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight)
            levels = layer.quantizer(weight)
            self.held.hold(layer.parameter, where, levels)

    def chosen(self, layer: Layer, step: Step) -> np.ndarray:
        """Return the filters of a layer that a step quantizes, ascending."""
        group = layer.quantizer.group.cpu().numpy()
        return np.arange(len(group)) if step.subset is None else np.flatnonzero(group == step.subset)

    def _divide(self, layer: Layer) -> None:
        """Decide which filter is in which subset, once a layer."""
        group = layer.quantizer.group
        if bool((group >= 0).all()):
            return
        order = self._order(layer)
        for number, subset in enumerate(subsets.divided(order, subsets.number(len(order), self.settings.iterations))):
            group[torch.as_tensor(subset, device=group.device)] = number

    def _order(self, layer: Layer) -> np.ndarray:
        if self.settings.order == "index" or self.settings.strategy in ("direct", "layer"):
            return np.arange(layer.components)
        figures = self._errors(layer) if self.settings.order == "error" else self._importance(layer)
        return np.argsort(-figures, kind="stable")

    def _errors(self, layer: Layer) -> np.ndarray:
        """Return ``[out]``: squared error of each filter on its levels, over its squared weights."""
        found = solve.of_filters(layer.latent, layer.quantizer.grid, per_filter=self.settings.per_filter)
        rows = solve.rows_of(layer.latent)
        errors = squared_error(rows, found.scale, found.zero_point, layer.quantizer.grid)
        powers = (rows.astype(np.float64) ** 2).mean(axis=1) if rows.shape[1] else np.zeros(len(rows))
        return np.divide(errors, powers, out=np.zeros(len(rows)), where=powers > 0)

    def _importance(self, layer: Layer) -> np.ndarray:
        """Return ``[out]``: sum of ``abs(g w)`` of each filter, g the gradient of the mean loss."""
        weight = layer.latent
        sums = torch.zeros_like(weight)
        net, task, trained = self.found.net.eval(), self.trainer.task, weight.requires_grad
        weight.requires_grad_(True)  # a weight that is not trained is worth something, too
        try:
            with torch.enable_grad():
                for x, y in self.trainer.batches(self.trainer.data.train, size=_BATCH, limit=self.settings.samples):
                    loss = task.loss(task.outputs(net, x), y) * len(y)
                    sums += torch.autograd.grad(loss, weight)[0]
        finally:
            weight.requires_grad_(trained)
        return (sums * weight).abs().flatten(1).sum(1).double().cpu().numpy()

    def _frozen(self, layer: Layer) -> int:
        mask = self.held.masks.get(layer.parameter)
        return 0 if mask is None else int((layer.quantizer.active & mask.flatten(1).all(1)).sum())

    def _hold_zeros(self) -> None:
        """Hold pruned weights at zero, and the biases of filters that are pruned as a whole."""
        for layer in self.found.layers:
            weight, bias = layer.latent, layer.module.bias
            pruned = weight == 0
            if pruned.any():
                self.held.hold(layer.parameter, pruned)
            dead = pruned.flatten(1).all(1)
            if isinstance(bias, torch.Tensor) and (dead & (bias == 0)).any():
                self.held.hold(f"{layer.name}.bias", dead & (bias == 0))
