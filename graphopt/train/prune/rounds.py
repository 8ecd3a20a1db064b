"""Rounds of scoring, zeroing and re-training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from graphopt.errors import UsageError
from graphopt.train import distributed
from graphopt.train.data import Samples, Split
from graphopt.train.family import Family
from graphopt.train.hooks import Held, Hook
from graphopt.train.prune.choice import chooser
from graphopt.train.prune.layers import Layer, layers
from graphopt.train.prune.scores import Scores, score
from graphopt.train.prune.scores.surgery import Surgery
from graphopt.train.prune.settings import PruneSettings
from graphopt.train.prune.structures import Masks
from graphopt.train.schedules import cubic
from graphopt.train.trainer import Trainer

_BATCH = 64
"""Samples a batch while scores are computed."""


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        number: From 1.
        aim: Share of the units that it was to leave at zero.
        sparsity: Share of the weights of linear layers and convolutions that are held at zero.
        zeroed: The task's figure on the test samples after zeroing, before re-training; nan for surgery, which does
            both at once.
        loss: Mean loss of the last epoch of re-training; nan if there was none.
        retrained: The figure after re-training.
    """

    number: int
    aim: float
    sparsity: float
    zeroed: float
    loss: float
    retrained: float


@dataclass(frozen=True)
class Pruned:
    """A net that was pruned.

    Attributes:
        masks: By parameter name, bool of its shape, on the CPU: True where it is zero.
        history: One row a round.
        before: The task's figure before the first round.
        left: Name of a group of units that was left whole → why.
    """

    masks: Masks
    history: tuple[Round, ...]
    before: float
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of the weights of linear layers and convolutions that are zero."""
        return self.history[-1].sparsity

    @property
    def figure(self) -> float:
        """The task's figure in the end."""
        return self.history[-1].retrained


def prune(trainer: Trainer, settings: PruneSettings, family: Family | None = None) -> Pruned:
    """Prune the trainer's net, which is trained, in rounds, and leave its zeros in place.

    Each round is a stage: scores from training data and loss, the least important to zero, the rest as it is, then
    training with the zeros held. Zeros of a round are zeros of every later one.

    Args:
        trainer: Of a net that was trained by another trainer: no stage of this one has begun. Its hooks ``held``,
            ``pruned`` and ``surgery`` are this function's.
        settings: How it is pruned.
        family: Gives example inputs, from which is found what can only be removed together; not needed for single
            weights, blocks and n:m.

    Returns:
        Masks and history. ``attach`` makes the masks visible to the exporter.

    Raises:
        UsageError: There is nothing to prune: no layer is left, or no unit of this structure is found.
        GraphoptError: A score or the loss is not finite; or the checkpoint is of another training.
        ValueError: A stage of the trainer has begun.
    """
    held, record = Held(trainer.net), _Record()
    trainer.add("held", held)
    trainer.add("pruned", record)
    pruning = _Surgery(trainer, settings) if settings.score == "surgery" else _Rounds(trainer, settings, family)
    pruning.run(held, record)
    masks = {name: mask.cpu() for name, mask in held.masks.items()}
    return Pruned(masks, tuple(Round(**row) for row in record.rows), record.before, pruning.left)


class _Record(Hook):
    """What was measured, in the checkpoint."""

    def __init__(self) -> None:
        self.before = math.nan
        self.rows: list[dict[str, Any]] = []

    def zeroed(self, row: Round) -> None:
        self.rows.append(asdict(row))

    def retrained(self, loss: float, figure: float) -> None:
        self.rows[-1] |= {"loss": loss, "retrained": figure}

    def state_dict(self) -> dict[str, Any]:
        """Return rows."""
        return {"before": self.before, "rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take rows."""
        self.before, self.rows = state["before"], [dict(row) for row in state["rows"]]


class _Rounds:
    """Score, select, zero, re-train."""

    def __init__(self, trainer: Trainer, settings: PruneSettings, family: Family | None) -> None:
        self._trainer, self._settings = trainer, settings
        self._layers = prunable(trainer.net, settings)
        choice = chooser(trainer.net, self._layers, settings, family, progress=trainer.tell)
        self._choose, self.left = choice.choose, choice.left

    def run(self, held: Held, record: _Record) -> None:
        rounds = self._settings.rounds
        for number in range(1, rounds + 1):
            self._trainer.stage(f"round {number} of {rounds}", self._body(number, held, record))

    def _body(self, number: int, held: Held, record: _Record) -> Callable[[bool], None]:
        trainer, settings = self._trainer, self._settings
        share = cubic(0.0, 1.0, number / settings.rounds)

        def body(fresh: bool) -> None:
            if fresh:
                if number == 1:
                    record.before = trainer.evaluate()
                masks = self._choose(self._scores(number), held.masks, share)
                for name, mask in distributed.told(masks).items():
                    held.hold(name, mask, 0.0)
                sparsity = held_share(held.masks, self._layers)
                record.zeroed(Round(number, self._aim(share), sparsity, trainer.evaluate(), math.nan, math.nan))
            label = f"round {number} of {settings.rounds}, {record.rows[-1]['sparsity']:.0%} pruned"
            loss = trainer.fit(settings.retrain, label=label)
            record.retrained(loss, trainer.evaluate())

        return body

    def _aim(self, share: float) -> float:
        settings = self._settings
        return share * (1 - settings.n / settings.m if settings.structure == "n:m" else settings.amount)

    def _scores(self, number: int) -> Scores:
        trainer, settings = self._trainer, self._settings
        some = drawn(trainer.data.train, settings.samples, trainer.seed + number)
        losses, done = self._losses(len(some)), 0

        def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal done
            trainer.tell(f"round {number} of {settings.rounds}: scores by {settings.score}", min(done, losses), losses)
            done += 1
            return trainer.task.loss(trainer.task.outputs(net, x), y)

        return score(
            settings.score,
            trainer.net,
            trainer.batches(some, size=_BATCH),
            loss,
            exclude=settings.exclude,
            curvature=settings.curvature,
        )

    def _losses(self, samples: int) -> int:
        """Return how often the scores ask for a loss: ``exact`` without each weight, ``obd`` of each sample."""
        if self._settings.score == "obd" and self._settings.curvature == "fisher":
            return samples
        batches = -(-samples // _BATCH)
        if self._settings.score != "exact":
            return batches
        return batches * (1 + sum(int(users[0].weight.count_nonzero()) for users in self._layers.values()))


class _Surgery:
    """One stage in which weights are pruned and spliced, as long as all rounds of the others together."""

    def __init__(self, trainer: Trainer, settings: PruneSettings) -> None:
        self._trainer, self._settings = trainer, settings
        self._layers = prunable(trainer.net, settings)
        self._hook = Surgery(trainer.net, list(self._layers), settings.amount, settings.scope)
        trainer.add("surgery", self._hook)
        self.left: Mapping[str, str] = {}

    def run(self, held: Held, record: _Record) -> None:
        trainer, settings = self._trainer, self._settings
        one = settings.retrain
        whole = replace(one, epochs=one.epochs * settings.rounds, steps=one.steps * settings.rounds)

        def body(fresh: bool) -> None:
            if fresh:
                record.before = trainer.evaluate()
                self._hook.begin()
            loss = trainer.fit(whole, label="pruning and splicing")
            for name, mask in self._hook.end().items():
                held.hold(name, mask, 0.0)
            sparsity = held_share(held.masks, self._layers)
            record.zeroed(Round(1, settings.amount, sparsity, math.nan, loss, trainer.evaluate()))

        trainer.stage("surgery", body)


def prunable(net: nn.Module, settings: PruneSettings) -> dict[str, list[Layer]]:
    """Return the weights that may be pruned, with their layers.

    Raises:
        UsageError: There is none.
    """
    found = layers(net, settings.exclude)
    if not found:
        raise UsageError(
            "there is no weight to prune", type(net).__name__, "prune a net with linear layers or convolutions"
        )
    return found


def drawn(samples: Samples, number: int, seed: int) -> Samples:
    """Return so many of the samples, each at most once, the same ones for the same seed; all of them if fewer."""
    indices = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:number].tolist()
    return Split(*samples.__getitems__(indices)) if isinstance(samples, Split) else Subset(samples, indices)  # type: ignore[arg-type]


def held_share(held: Mapping[str, Tensor], scored: Mapping[str, Sequence[Layer]]) -> float:
    """Return which share of the weights of these layers is held."""
    total = sum(users[0].weight.numel() for users in scored.values())
    return sum(int(held[name].sum()) for name in scored if name in held) / total
