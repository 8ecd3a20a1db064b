"""Hunts for models that graphopt breaks: `python -m tests.strategies.hunt --count 500 --seed 0 --save DIR`.

Each failure is made small and saved as ONNX with a text beside it; failures with the same cause are reported once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import onnx  # noqa: E402

from tests.strategies import check  # noqa: E402
from tests.strategies.graphs import Graph, build  # noqa: E402
from tests.strategies.recipe import Recipe, shrink  # noqa: E402


def trial(graph: Graph, kind: str, plan: str, assume_finite: bool) -> str | None:
    """The cause of the failure, None when all is well. Raises NotUsableError."""
    try:
        if kind == "whole":
            check.whole(graph, plan=plan, assume_finite=assume_finite)
        elif kind.startswith("operators-"):
            check.with_operators(graph, kind.removeprefix("operators-"), plan=plan)
        else:
            check.one_pass(graph, kind)
    except check.DifferentError as error:
        return error.cause
    return None


def _fails(cause: str, kind: str, plan: str, assume_finite: bool, recipe: Recipe) -> bool:
    try:
        return trial(build(recipe), kind, plan, assume_finite) == cause
    except check.NotUsableError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Runs the hunt; returns the number of causes found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.strategies.hunt", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--count", type=int, default=200, help="models to try")
    parser.add_argument("--seed", type=int, default=0, help="of the first; model i has seed + i")
    parser.add_argument("--steps", type=int, default=32, help="at most so many steps a model")
    parser.add_argument("--save", type=Path, default=None, help="folder for the smallest model of each cause")
    parser.add_argument(
        "--kind", default="both", help="whole, passes, both, operators-cpu, operators-cuda, or the name of a pass"
    )
    parser.add_argument("--plan", default="rotate", choices=["rotate", "smallest", "fastest"])
    parser.add_argument("--causes", type=int, default=5, help="stop after so many different causes")
    parser.add_argument("--shrink", type=int, default=300, help="trials spent on making a failure small")
    parser.add_argument("--not-finite", action="store_true", help="never assume finite inputs (else every fourth time)")
    parser.add_argument("--recipe", default=None, help="one recipe, as a failed test prints it, instead of seeds")
    options = parser.parse_args(arguments)
    from graphopt import registry

    names = sorted(registry.passes())
    seen: Counter[str] = Counter()
    unusable = 0
    start = time.perf_counter()
    i = -1
    for i in range(options.count):
        recipe = Recipe.parse(options.recipe) if options.recipe else Recipe.random(options.seed + i, most=options.steps)
        graph = build(recipe)
        plan = options.plan if options.plan != "rotate" else ("smallest", "fastest")[i % 2]
        finite = i % 4 < 3 and not options.not_finite
        kinds = {"whole": ["whole"], "passes": [names[i % len(names)]], "both": ["whole", names[i % len(names)]]}
        for kind in kinds.get(options.kind, [options.kind]):
            try:
                cause = trial(graph, kind, plan, finite)
            except check.NotUsableError:
                unusable += 1
                continue
            if cause is None:
                continue
            seen[cause] += 1
            if seen[cause] > 1:
                continue
            print(
                f"seed {options.seed + i}: {cause} (plan {plan}, assume_finite {finite}); making it small", flush=True
            )
            small = shrink(
                recipe,
                lambda r, cause=cause, kind=kind, plan=plan, finite=finite: _fails(cause, kind, plan, finite, r),
                budget=options.shrink,
            )
            _report(build(small), kind, plan, finite, options.save, options.seed + i)
        if len(seen) >= options.causes or options.recipe:
            break
    print(f"{i + 1} models in {time.perf_counter() - start:.0f} s, {unusable} not usable, {len(seen)} causes")
    for cause, count in seen.most_common():
        print(f"  {count:4} x {cause}")
    return len(seen)


def _report(graph: Graph, kind: str, plan: str, finite: bool, folder: Path | None, seed: int) -> None:
    try:
        if kind == "whole":
            check.whole(graph, plan=plan, assume_finite=finite)
        elif kind.startswith("operators-"):
            check.with_operators(graph, kind.removeprefix("operators-"), plan=plan)
        else:
            check.one_pass(graph, kind)
        detail = "it does not fail any more"
    except check.DifferentError as error:
        detail = str(error)
    text = (
        f"{detail}\nkind {kind}, plan {plan}, assume_finite {finite}\n{onnx.printer.to_text(graph.model)}\n{graph!r}\n"
    )
    print("  " + "\n  ".join(line[:300] for line in text.splitlines()[:60]), flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(graph.model, str(folder / f"seed{seed}-{kind}.onnx"))
        (folder / f"seed{seed}-{kind}.txt").write_text(text)
        print(f"  saved {folder / f'seed{seed}-{kind}.onnx'}", flush=True)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
