"""What the training commands do: train, make small, export, optimize, verify, measure.

Everything lies in one folder: ``recipe.json`` (what the checkpoints were made by), ``float/checkpoint.pt``,
``METHOD/checkpoint.pt``, ``trained.onnx`` and what the method exported. The same command goes on where it was
interrupted, and does not train again what is trained.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from graphopt import __version__, pipeline, runtime
from graphopt import model as model_io
from graphopt.bench import bench
from graphopt.errors import GraphoptError, ModelError, UsageError, VerificationError
from graphopt.facts.stats import stats
from graphopt.report import files, words
from graphopt.report.schema import FileInfo, Report, plain
from graphopt.report.training import StageRow, TrainingReport
from graphopt.train import agreement, checkpoint, distributed
from graphopt.train.data import Data, finite, take
from graphopt.train.recipe import METHODS, Recipe, settings_of
from graphopt.train.trainer import Progress, Trainer, quiet
from graphopt.user_code import users_fault
from graphopt.verify import verify

_COMPARED = 256
"""Test samples on which the model is compared before and after ``optimize``, number by number."""

_BY_HAND = 64
"""Test samples that are computed in numpy."""

_REMEMBERED = "recipe.json"


@dataclasses.dataclass
class _Small:
    """What a method made of the trained net."""

    net: nn.Module
    """In torch, on the CPU."""
    model: ir.Model
    """What is written."""
    stages: list[tuple[str, Path]]
    """Files on the way."""
    history: list[dict[str, Any]]
    worst_difference: float | None = None
    optimization: Report | None = None


class Run:
    """One run of one method by one recipe.

    Args:
        method: One of ``graphopt.train.recipe.METHODS``.
        recipe: What to do.
        folder: Where checkpoints and files lie; made if it is missing (its parent must exist).
        restart: Forget what is in the folder.
        device: ``cpu``, ``cuda`` or ``auto``.
        bench_seconds: Measuring time for each file.
        say: Is given a line at the end of each step.
        progress: Is told what is under way.
    """

    def __init__(
        self,
        method: str,
        recipe: Recipe,
        folder: Path,
        *,
        restart: bool = False,
        device: str = "auto",
        bench_seconds: float = 1.0,
        say: Callable[[str], None] = lambda line: None,
        progress: Progress = quiet,
    ) -> None:
        self._method, self._recipe, self._folder, self._restart = method, recipe, folder, restart
        self._settings = settings_of(recipe, method)
        self._device, self._bench_seconds = device, bench_seconds
        self._say, self._progress = say, progress

    def __call__(self, output: Path) -> TrainingReport | None:
        """Run it all, and write the result to ``output``, whole or not at all.

        Returns:
            What was done; None in all processes but the first.

        Raises:
            UsageError: The recipe does not fit the net.
            GraphoptError: The data is missing, the loss is not finite, or the folder holds another training.
            VerificationError: The result is not what was trained; it is not written.
        """
        try:
            return self._run(output)
        except GraphoptError:
            raise
        except Exception as error:
            line = users_fault(error)
            if line is None:
                raise
            raise GraphoptError(
                f"the family '{self._recipe.family.name}' failed: {type(error).__name__}: {error}",
                line,
                "correct that line; what is trained is kept",
            ) from error

    def _run(self, output: Path) -> TrainingReport | None:
        start = time.perf_counter()
        recipe, family = self._recipe, self._recipe.family
        recipe.check_options()
        device = distributed.join(self._device)
        if not distributed.is_first():
            self._say = lambda line: None
        self._remember()
        data = recipe.load_data()
        if not len(data.train) or not len(data.test):
            raise GraphoptError("there is nothing to train on, or nothing to judge by", recipe.source, "see data")
        finite(data)
        net = recipe.new_net()
        self._check(net, data)
        trainer = self._trainer(net, data, "float")
        self._train(trainer)
        report = TrainingReport(
            graphopt_version=__version__,
            method=self._method,
            family=family.name,
            recipe=self._all(),
            folder=str(self._folder),
            device=device.type,
            processes=distributed.size(),
            figure=family.task.figure,
            train_samples=len(data.train),
            test_samples=len(data.test),
            epochs=trainer.history,
        )
        trained = self._folder / "trained.onnx"
        if distributed.is_first():
            self._progress("exporting", 0, 0)
            model_io.save(self._exported(trainer.net.cpu()), trained)
        small = self._small(trainer.net.to(trainer.device), data)
        if small is None:
            return None
        self._judge(report, [("trained", trained), *small.stages], small, data, output)
        report.seconds = time.perf_counter() - start
        return report

    def _exported(self, net: nn.Module) -> ir.Model:
        """Return the net as the family exports it.

        Raises:
            UsageError: That is no model, or it lacks the input or the output that the family names.
        """
        family = self._recipe.family
        model = family.export(net)
        if not isinstance(model, ir.Model):
            what = f"the family exports a {type(model).__name__}, not an onnx_ir.Model"
            raise UsageError(what, family.name, "return what graphopt.torch_export.export returns")
        for kind, name, there in (
            ("input", family.input, model.graph.inputs),
            ("output", family.output, model.graph.outputs),
        ):
            known = [str(one.name) for one in there]
            if name not in known:
                raise UsageError(
                    f"the exported model has no {kind} '{name}'",
                    family.name,
                    f"its {kind}s are {', '.join(known)}: let '{kind}' of the family name one of them",
                )
        more = [str(one.name) for one in model.graph.inputs if one.name != family.input]
        if more and family.feeds is None:
            raise UsageError(
                f"the exported model wants {', '.join(more)} beside '{family.input}', and the family has no feeds",
                family.name,
                "let its 'feeds' return all inputs of a batch, or let 'example' leave out what forward can do without",
            )
        return model

    # --- training ---

    def _check(self, net: nn.Module, data: Data) -> None:
        """Say before hours of training what would be said after them.

        Raises:
            UsageError: The net does not take the data, or the method does nothing to it.
        """
        family, where = self._recipe.family, self._recipe.source
        inputs, targets = next(agreement.batches(data, size=2))
        try:
            with torch.no_grad():
                family.task.count(family.task.outputs(net.eval(), inputs), targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            takes, gives = (" x ".join(map(str, one.shape[1:])) for one in (family.example(net)[0], inputs))
            raise UsageError(
                f"the net does not take what the data gives: samples of {gives}, its example is of {takes}",
                where,
                f"make the parts 'model' and 'data' fit; torch says: {' '.join(str(error).split())}",
            ) from error
        self._targets(net, data)
        if family.feeds is None and len(family.example(net)) > 1:
            self._exported(copy.deepcopy(net))  # whether the second one is an input of the file, or only of torch's
        if self._method == "prune":
            from graphopt.train.prune.choice import chooser
            from graphopt.train.prune.rounds import prunable

            scored = prunable(net, self._settings)
            if not (self._folder / "prune" / checkpoint.NAME).is_file():
                chooser(net, scored, self._settings, family, progress=self._progress)
        elif self._method == "quantize-train":
            from graphopt.train.quantize import folded, quantizable

            example = family.example(net)
            quantizable(folded(net, example), self._settings, example)
        else:
            from graphopt.train.binary import binary_net

            binary_net(family, self._recipe.model, self._settings, seed=self._recipe.seed)

    def _targets(self, net: nn.Module, data: Data) -> None:
        """Say that there is no loss of the targets of a sample, of those with the least and the largest one.

        Raises:
            UsageError: It says what torch does.
        """
        task, split = self._recipe.family.task, data.train
        found = getattr(split, "targets", None)
        places = [0]
        if isinstance(found, torch.Tensor) and found.numel():
            flat = found.reshape(len(found), -1)
            places = [0, int(flat.amin(1).argmin()), int(flat.amax(1).argmax())]
        inputs, targets = take(split, places)
        try:
            with torch.no_grad():
                task.loss(task.outputs(net.eval(), data.prepare(inputs)), targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise UsageError(
                f"there is no loss of what the data wants: {' '.join(str(error).split())}",
                self._recipe.source,
                f"look at the targets (here {targets.reshape(-1)[:6].tolist()}) and at the net's outputs",
            ) from error

    def _trainer(self, net: nn.Module, data: Data, part: str) -> Trainer:
        return Trainer(
            net,
            data,
            self._recipe.family.task,
            seed=self._recipe.seed,
            folder=self._folder / part,
            device=self._device,
            progress=self._progress,
        )

    def _train(self, trainer: Trainer) -> None:
        there = (self._folder / "float" / checkpoint.NAME).is_file()
        begun = time.perf_counter()
        trainer.fit(self._recipe.train, label=f"training {self._recipe.family.name}")
        took = words.seconds(time.perf_counter() - begun)
        figure = self._figure(trainer.evaluate())
        samples = words.count(len(trainer.data.train))
        how = f"with what was in {self._folder}" if there else took
        self._say(f"trained {self._recipe.family.name} on {samples} samples: {figure}, {how}")

    def _small(self, net: nn.Module, data: Data) -> _Small | None:
        """What the method makes of the net; None in all processes but the first."""
        made = {"prune": self._prune, "quantize-train": self._quantize, "binarize": self._binarize}
        return made[self._method](net, data)

    def _prune(self, net: nn.Module, data: Data) -> _Small | None:
        from graphopt.train.prune import attach, prune

        family = self._recipe.family
        trainer = self._trainer(net, data, "prune")
        pruned = prune(trainer, self._settings, family)
        rounds = len(pruned.history)
        self._say(
            f"pruned {pruned.sparsity:.1%} of the weights by {self._settings.score}, {self._settings.structure}, "
            f"in {rounds} {'round' if rounds == 1 else 'rounds'} with re-training: {self._figure(pruned.figure)}"
        )
        for name, reason in pruned.left.items():
            self._say(f"left whole: {name} ({reason})")
        if not distributed.is_first():
            return None
        history = [dataclasses.asdict(row) for row in pruned.history]
        self._progress("exporting", 0, 0)
        before = self._folder / "pruned.onnx"
        attached = attach(net.cpu(), pruned.masks)
        model_io.save(self._exported(attached), before)
        found = self._optimized("pruned", before, attached, history, data)
        if self._settings.grouped:
            self._zeros_left(pruned.masks, found.model, before)
        return found

    def _zeros_left(self, masks: Mapping[str, torch.Tensor], small: ir.Model, before: Path) -> None:
        """Say how many numbers of units that are gone are in the file nevertheless, and why."""
        from graphopt.train.prune.leftover import leftover

        found = leftover(masks, self._folder / "trained.onnx", before, small)
        if found is None:
            return
        stay = f"of {words.count(found.zeros)} weights that are zero, {words.count(found.stay)} stay in the file"
        if found.needlessly < found.stay:
            why = f"because it is faster with them; without {words.count(found.stay - found.needlessly)} of them"
            self._say(f"{stay}, {why}: graphopt optimize {before} --plan smallest")
        else:
            self._say(f"{stay}: optimize cannot remove them")

    def _optimized(self, name: str, before: Path, net: nn.Module, history: list[dict[str, Any]], data: Data) -> _Small:
        """Optimize the file of a method, and compare it before and after on test samples.

        Raises:
            VerificationError: The two are not the same function.
        """
        result = pipeline.optimize(before, seed=self._recipe.seed, progress=self._progress)
        self._say(f"exported to ONNX and optimized: {words.seconds(result.report.seconds)}")
        self._progress("verifying on test samples", 0, 0)
        verdict = verify(before, result.model, data=list(self._feeds(net, data)), samples=_COMPARED)
        if not verdict.passed:
            raise VerificationError(
                f"the optimized model is another function: {verdict.reason}",
                str(before),
                "this is a bug in graphopt, please report it",
                report=verdict,
            )
        worst = max(row.max_abs for row in verdict.outputs)
        self._say(f"verified before and after on {min(_COMPARED, len(data.test))} test samples: {worst:.1e} apart")
        return _Small(net, result.model, [(name, before)], history, worst, result.report)

    def _quantize(self, net: nn.Module, data: Data) -> _Small | None:
        from graphopt.train.quantize import quantize

        settings = self._settings
        found = quantize(
            net,
            data,
            self._recipe.family,
            settings,
            folder=self._folder / "quantize-train",
            seed=self._recipe.seed,
            progress=self._progress,
            device=self._device,
        )
        self._say(
            f"quantized to {settings.levels} levels, strategy {settings.strategy}, in "
            f"{len(found.history)} steps with re-training: {self._figure(found.figure)}"
        )
        if not distributed.is_first():
            return None
        self._progress("computing with integers alone", 0, 0)
        self._integers(found.model, net, data)
        before = self._folder / "quantized.onnx"
        model_io.save(found.model, before)
        history = [dataclasses.asdict(row) for row in found.history]
        return self._optimized("quantized", before, found.net.cpu(), history, data)

    def _integers(self, model: ir.Model, net: nn.Module, data: Data) -> None:
        """Say whether integers alone, without any floating point between input and output, give the same answers."""
        from graphopt.train.quantize import integer

        family = self._recipe.family
        inputs, _ = next(agreement.batches(data, size=_BY_HAND))
        given = agreement.feeds(family, net, inputs.numpy())
        try:
            alone = integer.run(model, given)[family.output].argmax(-1).ravel()
        except ModelError as error:
            self._say(f"a part of it stays in float: {error.what}")
            return
        session = runtime.session(model, lean=False)
        place = [one.name for one in session.get_outputs()].index(family.output)
        theirs = np.asarray(runtime.run(session, given)[place]).argmax(-1).ravel()
        same = int((alone == theirs).sum())
        self._say(f"integers alone, in numpy, give {same} of {theirs.size} answers as onnxruntime does")

    def _binarize(self, net: nn.Module, data: Data) -> _Small | None:
        from graphopt.train.binary import binarize, lowered

        settings, recipe = self._settings, self._recipe
        found = binarize(
            recipe.family,
            recipe.model,
            data,
            settings,
            folder=self._folder / "binarize",
            seed=recipe.seed,
            progress=self._progress,
            device=self._device,
        )
        self._say(
            f"binarized {len(found.layers)} layers, gradient {settings.method}, trained from random weights: "
            f"{self._figure(found.figure)}"
        )
        if not distributed.is_first():
            return None
        self._progress("packing bits", 0, 0)
        before = self._folder / "binarized.onnx"
        model_io.save(found.model, before)
        return _Small(found.net, lowered(found.model), [("binarized", before)], found.history)

    # --- what came of it ---

    def _judge(
        self, report: TrainingReport, way: list[tuple[str, Path]], small: _Small, data: Data, output: Path
    ) -> None:
        """Compare with torch, write the result, and fill in the stages."""
        family = self._recipe.family
        self._progress("judging on the test samples", 0, 0)
        ours = agreement.in_torch(small.net, family, data)
        judged = {name: agreement.in_onnxruntime(path, family, small.net, data) for name, path in way}
        last = _LAST[self._method]
        judged[last] = agreement.in_onnxruntime(small.model, family, small.net, data)
        found = agreement.between(ours, judged[last])
        agreement.require(found)
        self._say(
            f"judged on {found.samples} test samples: onnxruntime gives {found.same} of {found.answers} answers as "
            "torch does"
        )
        self._progress(f"writing {output.name}", 0, 0)
        model_io.save(small.model, output)
        self._progress("measuring", 0, 0)
        paths = [*way, (last, output)]
        one, _ = next(agreement.batches(data, size=1))
        shapes = {name: one.shape for name, one in agreement.feeds(family, small.net, one.numpy()).items()}
        measured = bench(
            *(path for _, path in paths),
            threads=1,
            shapes=shapes,
            seconds=self._bench_seconds,
            seed=self._recipe.seed,
            names=[name for name, _ in paths],
        )
        self._say("measured in onnxruntime, in turns, one thread, one sample")
        report.stages = [
            _row(name, path, row.median_ms, judged[name].figure)
            for (name, path), row in zip(paths, measured.rows, strict=True)
        ]
        report.speedup = 1 / measured.rows[-1].paired_ratio
        report.output = FileInfo(**model_io.file_info(output))
        report.net_figure, report.same_answers, report.answers = ours.figure, found.same, found.answers
        report.history, report.worst_difference = small.history, small.worst_difference
        report.optimization = small.optimization
        if report.optimization is not None:
            report.optimization.output = report.output

    def _feeds(self, net: nn.Module, data: Data) -> Iterator[dict[str, Any]]:
        for inputs, _ in agreement.batches(data, size=64, limit=_COMPARED):
            yield agreement.feeds(self._recipe.family, net, inputs.numpy())

    def _figure(self, value: float) -> str:
        name = self._recipe.family.task.figure
        return f"{name} {words.figure(name, value)}"

    # --- what the folder remembers ---

    def _all(self) -> dict[str, Any]:
        """All that the result depends on, defaults included."""
        recipe = self._recipe
        found = {
            "family": recipe.content["family"],
            "seed": recipe.seed,
            "model": dict(recipe.model),
            "data": dict(recipe.data),
            "train": recipe.train,
            self._method: self._settings,
        }
        return json.loads(json.dumps(plain(found), default=str))  # as it will be read back

    def _remember(self) -> None:
        """Write down by what the checkpoints are made, or refuse those made by something else.

        Raises:
            GraphoptError: They are made by another recipe, or the folder cannot be written to.
        """
        if not distributed.is_first():
            return
        files.folder(self._folder)
        path = self._folder / _REMEMBERED
        if self._restart:
            for part in ("float", *METHODS):
                (self._folder / part / checkpoint.NAME).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        before: dict[str, Any] = {}
        if path.is_file():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise GraphoptError(f"not what graphopt wrote: {error}", str(path), _ELSEWHERE) from error
        if not isinstance(before, dict):
            raise GraphoptError("not what graphopt wrote: it has no keys", str(path), _ELSEWHERE)
        wanted = self._all()
        for key, value in wanted.items():
            said = _difference(key, before.get(key, value), value)
            if said:
                raise GraphoptError(f"the folder holds a training by another recipe: {said}", str(path), _ELSEWHERE)
        files.write(path, json.dumps({**before, **wanted}, indent=2) + "\n")


_LAST = {"prune": "optimized", "quantize-train": "optimized", "binarize": "packed"}
"""What the result of a method is called."""

_ELSEWHERE = "name another --folder, or --restart to begin anew"


def _row(name: str, path: Path, milliseconds: float, figure: float) -> StageRow:
    model = model_io.load(path)
    counted = stats(model)
    # The exporter leaves out sizes that the products need; calls of operators say them, and would be inlined.
    macs = counted.macs if model.functions else stats(pipeline.prepared(model).model).macs
    return StageRow(
        name=name,
        path=str(path),
        parameters=counted.parameters,
        macs=macs,
        bytes=model_io.file_info(path)["bytes"],
        latency_ms=milliseconds,
        figure=figure,
    )


def _difference(key: str, there: Any, here: Any) -> str | None:
    """The first key whose values differ, with both values; None where nothing differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys((*here, *there)):
            if (name in there) != (name in here):
                where = "there" if name in there else "here"
                return f"{key}.{name} is only {where}"
            said = _difference(f"{key}.{name}", there[name], here[name])
            if said:
                return said
        return None
    return None if there == here else f"{key} is {there!r} there and {here!r} here"
