"""What a training command did, as a record. Imports nothing but the standard library, as ``schema`` does."""

from __future__ import annotations

import dataclasses
from typing import Any

from graphopt.report.schema import FileInfo, Report

SCHEMA = "graphopt.training/1"


@dataclasses.dataclass
class StageRow:
    """One ONNX file on the way, everything measured on the file itself in onnxruntime."""

    name: str
    path: str
    parameters: int
    macs: int
    bytes: int
    latency_ms: float
    """Median of one sample, one thread."""
    figure: float
    """What the task says of it on the test samples; nan where there are none."""


@dataclasses.dataclass
class TrainingReport:
    """What ``graphopt prune``, ``quantize-train`` or ``binarize`` did."""

    schema: str = SCHEMA
    graphopt_version: str = ""
    method: str = ""
    family: str = ""
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """All that the result depends on, defaults included."""
    folder: str = ""
    output: FileInfo = dataclasses.field(default_factory=FileInfo)
    device: str = ""
    processes: int = 1
    figure: str = ""
    """Name of the figure: accuracy, perplexity."""
    stages: list[StageRow] = dataclasses.field(default_factory=list)
    """In the order in which they were made; the last one is the output."""
    speedup: float = 1.0
    """Latency of the trained float net by that of the output, measured in turns."""
    train_samples: int = 0
    test_samples: int = 0
    net_figure: float = 0.0
    """What the task says of the torch net that the output was made of."""
    same_answers: int = 0
    """How many answers on the test samples are the same from torch and from the output, of ``answers``."""
    answers: int = 0
    worst_difference: float | None = None
    """Largest difference of an output before and after ``optimize``, on test samples; None: it did not run."""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One row for each round or subset of the method."""
    epochs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One row for each epoch of the float training: ``stage``, ``epoch``, ``loss``."""
    seconds: float = 0.0
    optimization: Report | None = None
    """Of ``graphopt optimize``, where that made the output."""
