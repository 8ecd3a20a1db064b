"""Stages of a net on its way to the file that runs: what each answers, how large it is, how fast; in one table."""

from __future__ import annotations

import copy
import platform
import time
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from graphopt import model as models
from graphopt.bench import bench
from graphopt.facts.stats import stats
from graphopt.report import words
from graphopt.report.training import StageRow
from graphopt.train.agreement import in_onnxruntime
from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.prune import attach
from tests.bench.table import head, row


class Line:
    """The files of the stages, in order, and a net of the family to run them."""

    def __init__(self, family: Family, net: nn.Module, data: Data, folder: Path) -> None:
        self.family, self.net, self.data, self.folder = family, net, data, folder
        self.paths: dict[str, Path] = {}

    def add(self, name: str, model: ir.Model) -> ir.Model:
        """Save a stage, and return it as it was saved."""
        path = self.folder / ("".join(one if one.isalnum() else "-" for one in name) + ".onnx")
        models.save(model, path)
        self.paths[name] = path
        return models.load(path)

    def masked(self, net: nn.Module, masks: dict[str, Tensor]) -> ir.Model:
        """Return the export of a pruned net with its masks in place."""
        return self.family.export(attach(copy.deepcopy(net).cpu(), masks))

    def figure(self, model: Any) -> float:
        """Return the task's figure of a model or a file."""
        return in_onnxruntime(model, self.family, self.net, self.data).figure

    def measured(self, seconds: float = 2.0, threads: int = 1) -> list[StageRow]:
        """Measure all stages; latencies in turns, one sample."""
        shapes = {self.family.input: (1, *self.family.example(self.net)[0].shape[1:])}
        times = bench(*self.paths.values(), names=list(self.paths), seconds=seconds, threads=threads, shapes=shapes)
        found = []
        for (name, path), timed in zip(self.paths.items(), times.rows, strict=True):
            model = models.load(path)
            counted = stats(model)
            masks = sum(one.const_value.size for one in _masks(model))
            found.append(
                StageRow(
                    name=name,
                    path=str(path),
                    parameters=counted.parameters - masks,
                    macs=counted.macs,
                    bytes=int(models.file_info(path)["bytes"]),
                    latency_ms=timed.median_ms,
                    figure=self.figure(path),
                )
            )
        return found


def _masks(model: ir.Model) -> list[ir.Value]:
    return [one for name, one in model.graph.initializers.items() if name.endswith("_mask")]


def table(stages: list[StageRow], figure: str) -> str:
    """Return the table; times as fast as the first stage in the last column. Masks are no parameters in it."""
    lines = [head(["", figure, "parameters", "multiply-adds", "file", "latency", "times as fast"])]
    for one in stages:
        cells = [words.figure(figure, one.figure), one.parameters, one.macs, words.size(one.bytes)]
        times = stages[0].latency_ms / one.latency_ms
        lines.append(row([one.name, *cells, f"{one.latency_ms:.3f} ms", f"{times:.2f}"]))
    return "\n".join(lines)


def dead(net: nn.Module) -> int:
    """Return how many filters of convolutions and units of linear layers are all zeros."""
    layers = [one for one in net.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    return sum(int((one.weight == 0).flatten(1).all(1).sum()) for one in layers)


def machine() -> str:
    """Return what these figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}{gpu}; torch {torch.__version__} with {torch.get_num_threads()} threads; latencies: one thread"


class Clock:
    """Says how long each step took."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Print a step that is done."""
        now = time.perf_counter()
        print(f"{now - self._start:7.0f} s  (+{now - self._last:.0f})  {line}", flush=True)
        self._last = now
