"""From a family to a binary net and its ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.train.binary.deploy import only_input, to_onnx
from graphopt.train.binary.form import binary_form
from graphopt.train.binary.layers import binarize_net, without_errors
from graphopt.train.binary.schedules import Course
from graphopt.train.binary.settings import BinarizeSettings
from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.settings import Settings
from graphopt.train.trainer import Progress, Trainer, quiet


@dataclass(frozen=True)
class Binarized:
    """A binary net that was trained.

    Attributes:
        net: In eval mode, without error modules.
        model: The same as ONNX, in standard operators; ``deploy.lowered`` packs it.
        figure: What the task says of the net on the test samples (accuracy).
        layers: Names of the layers that are binary.
        history: Per epoch ``stage``, ``epoch`` and ``loss``.
    """

    net: nn.Module
    model: ir.Model
    figure: float
    layers: list[str]
    history: list[dict[str, Any]] = field(default_factory=list)


def binary_net(
    family: Family,
    options: Mapping[str, Any],
    settings: BinarizeSettings,
    *,
    seed: int = 0,
    start: nn.Module | None = None,
) -> tuple[nn.Module, list[str]]:
    """Return a net of a family with binary layers, not trained, and the names of these layers.

    Args:
        family: Its binary form is taken if it has one, see ``binary_form``.
        options: Of the net.
        settings: How it is binarized.
        seed: Of the random weights.
        start: Parameters and statistics are taken from this net where it has some of the same name and shape.

    Raises:
        UsageError: The net has no layer that could be binary.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = binary_form(family)(seed=seed, **options)
        if start is not None:
            known, mine = start.state_dict(), net.state_dict()
            same = {name: one for name, one in known.items() if name in mine and one.shape == mine[name].shape}
            net.load_state_dict(same, strict=False)
        try:
            return net, binarize_net(net, settings)
        except ValueError as error:
            raise UsageError(str(error), family.name, "name a family with more layers") from error


def binarize(
    family: Family,
    options: Mapping[str, Any],
    data: Data,
    settings: BinarizeSettings,
    train: Settings | None = None,
    *,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progress = quiet,
    device: str = "auto",
    start: nn.Module | None = None,
) -> Binarized:
    """Train a binary net and export it. With a folder, an interrupted training goes on where it stopped.

    Args:
        family: Which net.
        options: Of the net.
        data: What it learns from and is judged by.
        settings: How it is binarized.
        train: How it is trained; None: as ``settings.train`` says.
        folder: Where the checkpoint lies; None: nothing is written.
        seed: Of weights, order and random changes.
        progress: Is told of every step.
        device: ``cpu``, ``cuda`` or ``auto``.
        start: A float net to start from, see ``binary_net``.

    Raises:
        UsageError: The net has no layer that could be binary, or takes more than one input.
        GraphoptError: The loss is not finite; the checkpoint is of another training.
    """
    net, layers = binary_net(family, options, settings, seed=seed, start=start)
    only_input(net, family)  # said before it is trained, not after
    trainer = Trainer(net, data, family.task, seed=seed, folder=folder, device=device, progress=progress)
    trainer.add("course", Course(net, settings.alpha))

    def body(fresh: bool) -> None:
        trainer.fit(settings.train if train is None else train, label=f"binarization, {settings.method}")

    trainer.stage("binarize", body)
    without_errors(net)
    net.eval()
    figure = trainer.evaluate()
    net.to(torch.device("cpu"))
    return Binarized(net, to_onnx(net, family), figure, layers, trainer.history)
