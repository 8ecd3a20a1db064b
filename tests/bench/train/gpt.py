"""A decoder of letters loses heads and hidden units by importance: ``python -m tests.bench.train.gpt``.

Trained on tinyshakespeare, pruned in rounds with re-training, exported with its key-value cache, optimized, verified,
quantized. Perplexity is that of the held-out text, in torch and of the file in onnxruntime. Letters a second: reading a
prompt at once, then writing one by one with the cache; the files take turns, each ratio is the median of those to the
masked file's run of the same turn.

Pruning has trained longer than the net it began with, so a net that trained as long without pruning stands beside it,
and one pruned by magnitude with all else the same.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import torch

import graphopt
from graphopt import model as models
from graphopt import pipeline, runtime
from graphopt.facts.stats import stats
from graphopt.models.char_gpt import narrow
from graphopt.models.char_gpt.export import OUTPUT, feeds, to_onnx
from graphopt.models.char_gpt.family import FAMILY
from graphopt.models.char_gpt.generate import Decoder, generate
from graphopt.models.char_gpt.module import CharGPT
from graphopt.train.data import Data, Samples, take
from graphopt.train.prune import Pruned, PruneSettings, prune
from graphopt.train.settings import Settings
from graphopt.train.task import LANGUAGE
from graphopt.train.trainer import Trainer
from tests.bench.table import head, row

BATCH = 16
RUN = 16
"""Letters that a file writes before it is the next one's turn."""
CALIBRATION = 16
"""Batches of training text that the quantizer sees."""


@dataclass(frozen=True)
class Plan:
    """What is done, and how long.

    Attributes:
        steps: Of training, of ``BATCH`` windows each.
        retrain: Steps of each round.
        rounds: Of pruning.
        amount: Share of the query heads, and of the hidden units, of every layer.
        score: Of importance.
        seed: Of everything.
        threads: Of onnxruntime, inside an operator.
        turns: Of measuring.
        prompt: Letters that are read at once.
        letters: That are then written one by one.
        compare: Whether the nets to compare with are trained.
    """

    steps: int
    retrain: int
    rounds: int
    amount: float
    score: str
    seed: int
    threads: int
    turns: int
    prompt: int
    letters: int
    compare: bool


@dataclass(frozen=True)
class Line:
    """One row of the table: a file, and its perplexity in torch (nan where there is no such net)."""

    name: str
    path: Path
    net: CharGPT
    torch: float


def settings(steps: int, rate: float, windows: int) -> Settings:
    """So many steps, down to a rate of zero."""
    each = -(-windows // BATCH)
    return Settings(
        epochs=-(-steps // each), steps=steps, batch=BATCH, optimizer="adamw", rate=rate, weight_decay=0.1,
        decay_vectors=False, schedule="cosine", warmup=0.05, clip=1.0,
    )  # fmt: skip


def told(label: str, done: int, total: int) -> None:
    """One line that is written over, for people who wait."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{label} {done}/{total}   ")


def trained(net: CharGPT, data: Data, plan: Plan, steps: int, rate: float) -> CharGPT:
    """The same net, trained where it is fast, and back on the processor."""
    trainer = Trainer(net, data, LANGUAGE, seed=plan.seed, progress=told)
    trainer.fit(settings(steps, rate, len(data.train)))
    return net.cpu()


def pruned(net: CharGPT, data: Data, plan: Plan, score: str) -> tuple[CharGPT, Pruned]:
    """A copy whose heads and hidden units are zero."""
    net = copy.deepcopy(net)
    how = PruneSettings(
        score=score,  # type: ignore[arg-type]
        structure="units",
        amount=plan.amount,
        rounds=plan.rounds,
        samples=256,
        retrain=settings(plan.retrain, 1e-3, len(data.train)),
    )
    found = prune(Trainer(net, data, LANGUAGE, seed=plan.seed, progress=told), how, FAMILY)
    print(f"\npruned by {score}: perplexity {found.before:.3f} before\n")
    print(head(["round", "of heads and hidden units", "weights at zero", "perplexity", "re-trained"]))
    for one in found.history:
        cells = [f"{one.aim:.0%}", f"{one.sparsity:.1%}", f"{one.zeroed:.3f}", f"{one.retrained:.3f}"]
        print(row([one.number, *cells]), flush=True)
    return net.cpu(), found


# --- judging ----------------------------------------------------------------------------------------------------------


def batches(samples: Samples, net: CharGPT, size: int = 32) -> Iterator[tuple[Mapping[str, np.ndarray], torch.Tensor]]:
    """Inputs of the file, and the letters that follow."""
    for start in range(0, len(samples), size):
        ids, targets = take(samples, range(start, min(start + size, len(samples))))
        yield feeds(net, ids.numpy()), targets


def perplexity(path: Path, net: CharGPT, samples: Samples) -> float:
    """That of the file in onnxruntime."""
    session, total, count = runtime.session(path), 0.0, 0
    at = [value.name for value in session.get_outputs()].index(OUTPUT)
    for given, targets in batches(samples, net):
        some, n = LANGUAGE.count(torch.from_numpy(runtime.run(session, given)[at]), targets)
        total, count = total + float(some), count + n
    return LANGUAGE.finish(total / count)


def speeds(paths: Sequence[Path], plan: Plan) -> list[tuple[list[float], list[float]]]:
    """Seconds for the prompt, of each file at each turn, and for a letter, of each file and each ``RUN`` letters."""
    decoders = [Decoder(path, threads=plan.threads) for path in paths]
    numbers = np.random.default_rng(plan.seed)
    prompt = numbers.integers(0, len(decoders[0].letters), (1, plan.prompt))
    letters = numbers.integers(0, len(decoders[0].letters), (plan.letters, 1, 1))
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in decoders]
    gc.collect()
    gc.disable()
    try:
        for turn in range(plan.turns + 1):
            for decoder, (reading, _) in zip(decoders, found, strict=True):
                decoder.forget()
                before = time.perf_counter()
                decoder.read(prompt)
                reading += [time.perf_counter() - before] if turn else []  # the first one warms up
            for run in (letters[at : at + RUN] for at in range(0, plan.letters, RUN)):
                for decoder, (_, writing) in zip(decoders, found, strict=True):
                    before = time.perf_counter()
                    for letter in run:
                        decoder.read(letter)
                    writing += [(time.perf_counter() - before) / len(run)] if turn else []
    finally:
        gc.enable()
    return found


def table(lines: Sequence[Line], data: Data, plan: Plan, first: int) -> None:
    """Print perplexity, size and speed; ratios are to the ``first``-th line."""
    timed = speeds([line.path for line in lines], plan)
    names = ["file", "perplexity: torch", "onnxruntime", "parameters", "MACs/letter", "bytes"]
    print("\n" + head([*names, f"prompt of {plan.prompt}: letters/s", "", "one by one: letters/s", ""]))
    for line, times in zip(lines, timed, strict=True):
        known = stats(pipeline.prepared(line.path).model)  # with the shapes that the file does not state
        cells = [
            "" if np.isnan(line.torch) else f"{line.torch:.4f}",
            f"{perplexity(line.path, line.net, data.test):.4f}",
            known.parameters,
            "" if known.macs is None else known.macs,
            line.path.stat().st_size,
        ]
        for found, base, letters in zip(times, timed[first], (plan.prompt, 1), strict=True):
            ratio = statistics.median(b / a for a, b in zip(found, base, strict=True))
            cells += [round(letters / statistics.median(found)), f"{ratio:.2f}x"]
        print(row([line.name, *cells]), flush=True)
    print()


# --- the story --------------------------------------------------------------------------------------------------------


def told_of(net: CharGPT, masks: Mapping[str, torch.Tensor]) -> str:
    """What is left of every layer."""
    found = []
    for i, layer in enumerate(net.parts()):
        attention = layer.attention
        assert attention is not None
        columns = masks[f"layers.{i}.attention.output.weight"].all(0).view(attention.heads, -1).all(1)
        hidden = int(masks[f"layers.{i}.feed.down.weight"].all(0).sum())
        groups = int(narrow.dead_groups(attention).sum())
        found.append(f"{int(columns.sum())} of {attention.heads} heads ({groups} key groups), {hidden} hidden units")
    return "gone: " + "; ".join(found)


def quantized(path: Path, net: CharGPT, data: Data, plan: Plan, **options: object) -> ir.Model:
    """In 8 bits, calibrated on training text."""
    given = itertools.islice((one for one, _ in batches(data.train, net, 8)), CALIBRATION)
    return graphopt.quantize(path, list(given), seed=plan.seed, measure=False, **options).model  # type: ignore[arg-type]


def run(plan: Plan, options: Mapping[str, int], windows: int | None, folder: Path) -> None:
    """Print everything; the files are left in the folder."""
    data = FAMILY.data(window=128, test=windows)
    print(f"{len(data.train):,} windows of 128 letters to learn from, {len(data.test):,} held out; net {dict(options)}")
    net = cast(CharGPT, FAMILY.new(plan.seed, **options))
    start = time.perf_counter()
    trained(net, data, plan, plan.steps, 3e-3)
    print(f"trained: {plan.steps} steps, {time.perf_counter() - start:.0f} s, {LANGUAGE.evaluate(net, data):.3f}")

    if plan.compare:
        pruned(net, data, plan, "magnitude")
        longer = trained(copy.deepcopy(net), data, plan, plan.rounds * plan.retrain, 1e-3)
        print(f"\ntrained as long as the pruned ones, not pruned: perplexity {LANGUAGE.evaluate(longer, data):.3f}")
    small, found = pruned(net, data, plan, plan.score)
    print("\n" + told_of(small, found.masks), flush=True)

    lines: list[Line] = []

    def add(name: str, model: ir.Model, of: CharGPT, judged: float = np.nan) -> Path:
        path = folder / f"{len(lines)}.onnx"
        models.save(model, path)
        lines.append(Line(name, path, of, judged))
        return path

    add("trained", to_onnx(net), net, LANGUAGE.evaluate(net, data))
    masked = add("pruned, zeros in place", to_onnx(small), small, LANGUAGE.evaluate(small, data))
    result = graphopt.optimize(masked, seed=plan.seed)
    optimized = add("optimized", result.model, small)
    held_out = [one for one, _ in itertools.islice(batches(data.test, small, 8), 8)]
    verdict = graphopt.verify(masked, optimized, data=held_out)
    worst = max(one.max_abs for one in verdict.outputs)
    print(f"verified on {verdict.samples} batches of held-out text: {verdict.passed}, largest difference {worst:.2g}")
    narrower = narrow.without_dead_groups(small)
    if narrower.empty(1) and sum(one.keys for one in narrower.attentions()) < sum(a.keys for a in small.attentions()):
        made = graphopt.optimize(to_onnx(narrower), seed=plan.seed)
        add("optimized, dead key groups out of the cache", made.model, narrower, LANGUAGE.evaluate(narrower, data))
    for name, more in (("int8", {}), ("int8 weights alone", {"activations": "none", "weights": "int8"})):
        try:
            add(f"{name} of the optimized", quantized(optimized, small, data, plan, **more), small)
        except graphopt.errors.GraphoptError as error:  # pyright: ignore[reportAttributeAccessIssue]
            print(f"{name}: {error}")
    table(lines, data, plan, first=1)
    for line in lines[:3:2]:
        said = generate(line.path, "ROMEO:\n", 160, temperature=0.7, seed=plan.seed).text
        print(f"{line.name} writes:\n" + "\n".join(f"    {one}" for one in said.splitlines()) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train.gpt", description=__doc__)
    for name, default, what in (
        ("steps", 900, f"of training, of {BATCH} windows"),
        ("retrain", 100, "steps of each round"),
        ("rounds", 3, "of pruning"),
        ("seed", 0, "of everything"),
        ("threads", 1, "of onnxruntime"),
        ("turns", 20, "of measuring"),
        ("prompt", 128, "letters read at once"),
        ("letters", 128, "letters written one by one"),
        ("width", 128, "of the net"),
        ("heads", 8, "of a layer"),
        ("keys", 4, "of a layer"),
        ("hidden", 384, "units of a layer"),
        ("depth", 4, "layers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--amount", type=float, default=0.5, help="of heads and of hidden units that go (0.5)")
    parser.add_argument("--score", default="taylor", help="of importance (taylor)")
    parser.add_argument("--windows", type=int, help="of the held-out text (all)")
    parser.add_argument("--no-compare", action="store_true", help="without magnitude, without longer training")
    parser.add_argument("--folder", type=Path, help="where the files are left (nowhere)")
    given = vars(parser.parse_args(arguments))
    logging.disable(logging.WARNING)
    options = {name: given.pop(name) for name in ("width", "heads", "keys", "hidden", "depth")}
    windows, folder, given["compare"] = given.pop("windows"), given.pop("folder"), not given.pop("no_compare")
    cores = os.cpu_count()
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads, {cores} cores; onnxruntime on", end=" ")
    print(f"{given['threads']}; seed {given['seed']}\n")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="graphopt-gpt-") as temporary:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        run(Plan(**given), options, windows, Path(temporary) if folder is None else folder)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
