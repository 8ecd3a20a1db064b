"""The loop: stages, epochs, steps; what it stands at is written down after every epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.errors import GraphoptError
from graphopt.train import checkpoint, distributed, schedules
from graphopt.train.data import Data, Samples, take
from graphopt.train.hooks import Hook
from graphopt.train.optimizer import optimizer as optimizer_of
from graphopt.train.order import Order, loader
from graphopt.train.progress import Progress, Watch, finite, quiet
from graphopt.train.settings import Settings
from graphopt.train.task import Task

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Of net, prepared inputs and targets: a scalar. Call the net that is given; look at its parts through ``Trainer.net``,
for it is wrapped where several processes train."""


class Trainer:
    """Trains a net in stages, and goes on where an interrupted training stopped.

    A stage is a decision (which weights to prune, which to quantize) and the training after it. With a folder, what
    there is to know is written to ``checkpoint.pt`` in it after every epoch and at the end of every stage: weights,
    hooks, optimizer, random generators. The same program, started again, skips what is done, and its weights are those
    of an uninterrupted run, bit by bit (on the same processor with as many threads; on a GPU where torch's algorithms
    are deterministic, which ``torch.use_deterministic_algorithms`` sees to).

    Under ``torchrun`` every process runs the same program; see ``graphopt.train.distributed``. The first one writes.

    Args:
        net: Is trained in place, on the device.
        data: What it learns from and is judged by.
        task: What is learnt.
        seed: Of the order of the samples, of the random changes, and of what the net draws (dropout).
        folder: Where the checkpoint lies; made when it is first written (its parent must exist). None: nothing is
            written.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.
        progress: Is told of every step.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        task: Task,
        *,
        seed: int = 0,
        folder: Path | None = None,
        device: str = "auto",
        progress: Progress = quiet,
    ) -> None:
        self.device = distributed.join(device)
        self.net, self.data, self.task, self.seed = net.to(self.device), data, task, seed
        self.history: list[dict[str, Any]] = []
        """One row an epoch: ``stage``, ``epoch`` (from 1), ``loss`` (mean over the epoch)."""
        self._folder, self._progress = folder, progress if distributed.is_first() else quiet
        self._hooks: dict[str, Hook] = {}
        order, changes, chance = _seeds(seed, distributed.rank())
        self._order = torch.Generator().manual_seed(order)
        self._changes = torch.Generator().manual_seed(changes)
        self._chance: list[Tensor] | int = chance
        self._started = False
        self._finished: dict[str, float] = {}  # by stage: the loss of its last epoch
        self._entered: list[str] = []
        self._halfway: Mapping[str, Any] | None = None  # from the checkpoint: a stage that was interrupted
        self._under_way = self._fitted = False  # a stage; its fit
        self._loss = math.nan  # of the stage that is under way

    def add(self, name: str, hook: Hook) -> None:
        """Let a hook have its say in every step, after those added before.

        Raises:
            ValueError: A stage has begun, or the name is taken.
        """
        if self._started or name in self._hooks:
            raise ValueError(f"hook {name!r}: " + ("a stage has begun" if self._started else "the name is taken"))
        self._hooks[name] = hook

    def stage(self, name: str, body: Callable[[bool], None]) -> None:
        """Run ``body(fresh)``, unless the checkpoint says that this stage is done; then write that it is.

        ``fresh`` is False where the stage was interrupted after an epoch: what was decided at its beginning is in the
        net and the hooks already. A body calls ``fit`` at most once.

        Raises:
            ValueError: There was a stage of this name, or one is under way.
            GraphoptError: The checkpoint is of another training, or cannot be written.
        """
        if name in self._entered or self._under_way:
            raise ValueError(f"stage {name!r}: " + ("done before" if name in self._entered else "inside another one"))
        self._start()
        self._entered.append(name)
        if name in self._finished:
            return
        if self._halfway is not None and self._halfway["stage"] != name:
            raise GraphoptError(
                f"the checkpoint stands in the stage '{self._halfway['stage']}', which does not come after "
                f"{', '.join(repr(one) for one in self._finished) or 'the start'}",
                None if self._folder is None else str(self._folder / checkpoint.NAME),
                "name another folder, or --restart to begin anew",
            )
        self._under_way, self._fitted, self._loss = True, False, math.nan
        try:
            with self._drawing():
                body(self._halfway is None)
                self._agree()
        finally:
            self._under_way = False
        self._finished[name] = self._loss
        self._halfway = None
        self._write(None)

    def tell(self, label: str, done: int = 0, total: int = 0) -> None:
        """Tell those who watch what is under way beside training: scores, calibration. 0 of 0: no end is known."""
        self._progress(label, done, total)

    def fit(
        self,
        settings: Settings,
        *,
        label: str = "training",
        loss: Loss | None = None,
        among: tuple[int, int] | None = None,
    ) -> float:
        """Train, and leave the net in eval mode. Optimizer and schedule are new for every fit.

        Of each step: hooks are told the share that is done; forward and backward pass; the gradient is clipped; hooks
        see it; the optimizer steps; hooks see the weights. Outside of a stage, a fit is a stage of its own.

        Args:
            settings: How it goes.
            label: What is under way, for people.
            loss: Instead of the task's loss.
            among: Steps that came before this fit, and those of all fits that belong together: progress is then told of
                all of them. None: of this fit.

        Returns:
            Mean loss over the samples of the last epoch; nan where there was no step.

        Raises:
            ValueError: It is the second fit of its stage.
            GraphoptError: The loss is not finite; the checkpoint is of other settings, or cannot be written.
        """
        if not self._under_way:
            name = f"{label} ({len(self._entered) + 1})"

            def body(fresh: bool) -> None:
                self._fit(settings, label, loss, among)

            self.stage(name, body)
            return self._finished[name]
        if self._fitted:
            raise ValueError("a stage has one fit: what a checkpoint says in its midst must be clear")
        return self._fit(settings, label, loss, among)

    def batches(self, split: Samples, *, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield prepared inputs and targets, on the device, in order: what scores and calibration look at.

        ``limit``: at most so many samples. Nothing is augmented.
        """
        number = len(split) if limit is None else min(limit, len(split))
        for start in range(0, number, size):
            inputs, targets = take(split, range(start, min(start + size, number)))
            yield self.data.prepare(inputs.to(self.device)), targets.to(self.device)

    def evaluate(self, split: Samples | None = None) -> float:
        """Return the task's figure on the test samples, or on ``split``."""
        return self.task.evaluate(self.net, self.data, split)

    # --- the loop ---

    def _fit(self, settings: Settings, label: str, loss: Loss | None, among: tuple[int, int] | None) -> float:
        self._fitted = True
        samples = self.data.train
        order = Order(len(samples), self._order, distributed.rank(), distributed.size())
        each = -(-len(order) // settings.batch)
        steps = settings.epochs * each if not settings.steps else min(settings.steps, settings.epochs * each)
        optimizer = optimizer_of(self.net, settings)
        first = self._continue(settings, optimizer)
        self._agree()
        net = self._wrapped()
        mean = self._halfway["loss"] if self._halfway else math.nan
        watch = Watch(self._progress, label, *(among or (0, steps)))
        for epoch in range(first, -(-steps // each) if each else 0):
            self.net.train()
            seen = torch.zeros((), dtype=torch.float64, device=self.device)
            number = 0
            for step, batch in enumerate(loader(samples, settings.batch, order), epoch * each):
                if step == steps:
                    break
                here = self._step(net, optimizer, settings, step, steps, batch, loss)
                seen += here * len(batch[1])
                number += len(batch[1])
                watch(here, step + 1)
            both = distributed.total(torch.stack([seen, torch.full_like(seen, number)]))
            mean = finite(float(both[0] / both[1]), label)
            stage = self._entered[-1]
            self.history.append({"stage": stage, "epoch": epoch + 1, "loss": mean})
            distributed.copied(self.net.buffers())  # each process has its own batch-norm statistics
            self._write(
                {
                    "stage": stage,
                    "epoch": epoch + 1,
                    "loss": mean,
                    "settings": dataclasses.asdict(settings),
                    "optimizer": optimizer.state_dict(),
                }
            )
        self.net.eval()
        self._loss = mean
        return mean

    def _step(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        step: int,
        steps: int,
        batch: tuple[Tensor, Tensor],
        loss: Loss | None,
    ) -> Tensor:
        """One step; returns the loss, cut off from its graph."""
        for hook in self._hooks.values():
            hook.at(step / steps)
        for group in optimizer.param_groups:
            group["lr"] = schedules.rate(settings, step, steps)
        inputs, targets = self.data.prepare(batch[0].to(self.device)), batch[1].to(self.device)
        if self.data.augment is not None:
            inputs = self.data.augment(inputs, self._changes)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.autocast == "bfloat16")
        with _normed(len(targets)), autocast:
            if loss is None:
                found = self.task.loss(self.task.outputs(net, inputs), targets)
            else:
                found = loss(net, inputs, targets)
        optimizer.zero_grad()
        found.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), settings.clip)
        for hook in self._hooks.values():
            hook.after_backward()
        optimizer.step()
        for hook in self._hooks.values():
            hook.after_step()
        return found.detach()

    def _wrapped(self) -> nn.Module:
        if distributed.size() == 1 or not any(one.requires_grad for one in self.net.parameters()):
            return self.net
        return nn.parallel.DistributedDataParallel(self.net)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """What is drawn from torch's own generators comes from this training's seed; outside they are as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._set_chance()
            try:
                yield
            finally:
                self._chance = self._get_chance()

    def _get_chance(self) -> list[Tensor]:
        there = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *there]

    def _set_chance(self) -> None:
        if isinstance(self._chance, int):
            torch.manual_seed(self._chance)
            return
        torch.set_rng_state(self._chance[0])
        if self.device.type == "cuda" and len(self._chance) > 1:
            torch.cuda.set_rng_state(self._chance[1], self.device)

    def _agree(self) -> None:
        """Every process takes the first one's net and the first one's hooks."""
        if distributed.size() == 1:
            return
        distributed.copied(one.data for one in (*self.net.parameters(), *self.net.buffers()))
        states = distributed.told({name: hook.state_dict() for name, hook in self._hooks.items()})
        if not distributed.is_first():
            for name, hook in self._hooks.items():
                hook.load_state_dict(states[name])

    # --- the checkpoint ---

    def _identity(self) -> dict[str, Any]:
        return checkpoint.of(
            self.net,
            hooks=list(self._hooks),
            seed=self.seed,
            samples=len(self.data.train),
            processes=distributed.size(),
            device=self.device.type,
        )

    def _start(self) -> None:
        """Read the checkpoint, before the first stage."""
        if self._started:
            return
        self._started = True
        state = None
        if self._folder is not None:
            state = distributed.told(checkpoint.read(self._folder) if distributed.is_first() else None)
        if state is None or self._folder is None:
            return
        checkpoint.expect(state, self._identity(), self._folder)
        with checkpoint.taken(self._folder, "the net"):
            self.net.load_state_dict(state["net"])
        checkpoint.finite(self.net, self._folder)
        for name, hook in self._hooks.items():
            with checkpoint.taken(self._folder, f"'{name}'"):
                hook.load_state_dict(state["hooks"][name])
        self.history, self._finished, self._halfway = state["history"], state["finished"], state["halfway"]
        mine = state["drawn"][distributed.rank()]
        with checkpoint.taken(self._folder, "random numbers"):
            self._order.set_state(mine["order"])
            self._changes.set_state(mine["changes"])
        self._chance = mine["chance"]
        self.net.eval()

    def _continue(self, settings: Settings, optimizer: torch.optim.Optimizer) -> int:
        """Return the number of epochs that this fit has behind it; the optimizer is as it was after them."""
        state = self._halfway
        if state is None or self._folder is None:
            return 0
        wanted = dataclasses.asdict(settings)
        checkpoint.expect({"of": state}, {"settings": wanted}, self._folder)
        with checkpoint.taken(self._folder, "the optimizer"):
            optimizer.load_state_dict(dict(state["optimizer"]))
        self._set_chance()
        return state["epoch"]

    def _write(self, halfway: Mapping[str, Any] | None) -> None:
        """Write down where this training stands: in the midst of a stage, or (None) between two."""
        if self._folder is None:
            return
        inside = halfway is not None
        drawn = distributed.gathered(
            {
                "order": self._order.get_state(),
                "changes": self._changes.get_state(),
                "chance": self._get_chance() if inside else self._chance,
            }
        )
        if not distributed.is_first():
            return
        checkpoint.write(
            self._folder,
            {
                "of": self._identity(),
                "net": self.net.state_dict(),
                "hooks": {name: hook.state_dict() for name, hook in self._hooks.items()},
                "history": self.history,
                "finished": self._finished,
                "halfway": halfway,
                "drawn": drawn,
            },
        )


@contextmanager
def _normed(samples: int) -> Iterator[None]:
    """Say what it means where torch does not norm a batch of a single number by itself."""
    try:
        yield
    except ValueError as error:
        if samples != 1 or "more than 1 value per channel" not in str(error):
            raise
        raise GraphoptError(
            "a batch of one sample cannot be normed by itself",
            "batch-norm in training",
            "choose another batch size: with this one, a single sample is left for the last batch",
        ) from error


def _seeds(seed: int, rank: int) -> tuple[int, int, int]:
    """Return seeds of the order, which all processes share, of the changes and of what the net draws, which differ."""
    (order,) = np.random.SeedSequence([seed % 2**64, 0]).generate_state(1, np.uint64)
    changes, chance = np.random.SeedSequence([seed % 2**64, 1, rank]).generate_state(2, np.uint64)
    return int(order) >> 1, int(changes) >> 1, int(chance) >> 1  # torch wants what fits into int64
