"""Masked nets against their hand-narrowed twins: ``python -m tests.bench.real_nets [NET ...] [--seconds S] [--cifar]``.

Latencies are onnxruntime's on one thread at batch 1, all models of a row taking turns. The twin comes in two forms:
branches spread at the join (fewest parameters; the yardstick), and branches that write the whole stream ("held").
"plain" is the masked net with its masks multiplied in, exported by torch with all of torch's optimizations: what the
same net costs without graphopt. The masked export itself is slower, as onnxruntime cannot fuse around its plumbing.
Joins are counted beyond those of the masked net.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx_ir as ir

import graphopt
from graphopt import runtime
from graphopt.bench import bench
from graphopt.facts.stats import stats
from tests.bench.table import head, row
from tests.nets import cifar, resnet
from tests.nets.catalogue import FULL, trained
from tests.nets.exporting import masked_model, plainly_exported, twin_model
from tests.nets.net import FORMS, Net
from tests.nets.remains import inside_chains, masks_left, widenings

_TIMED = ("masked", "plain", "smallest", "fastest", "twin", "held")


def main(arguments: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real_nets", description=__doc__)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(FULL)}; default: all")
    parser.add_argument("--form", choices=FORMS, default="masks", help="how the masked net is exported")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per model")
    parser.add_argument("--cifar", action="store_true", help="instead: ResNet-20 and -56 on all CIFAR-10 test images")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.nets) - set(FULL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(FULL)}")
    import torch

    torch.set_num_threads(1)
    if chosen.cifar:
        images()
        return
    nets = [FULL[name] for name in chosen.nets or FULL]
    sizes(nets, chosen.form, chosen.seconds)


def sizes(nets: list[Net], form: str, seconds: float) -> None:
    """Parameters, multiply-adds, what is left of the masks, and latencies."""
    counts, times = [], []
    for net in nets:
        models, passed = built(net, form)
        counts.append(row([net.name, *counted(net, models), passed]))
        times += [row([named(net, chosen), *timed(net, models, chosen, seconds)]) for chosen in net.sizes]
        print(counts[-1], *times[-len(net.sizes) :], sep="\n", file=sys.stderr, flush=True)
    print(head(["net", *_COUNTS]), *counts, "", sep="\n")
    print(head(["net", *_TIMES]), *times, sep="\n")


def built(net: Net, form: str) -> tuple[dict[str, ir.Model], float]:
    """All models of a net, and the seconds that the smallest plan took."""
    masked = masked_model(net, form)
    start = time.perf_counter()
    smallest = graphopt.optimize(masked, plan="smallest", verify=False).model
    passed = time.perf_counter() - start
    models = {
        "twin": twin_model(net),
        "masked": masked,
        "smallest": smallest,
        # Not measured: the plan itself is what the table is about, slower or not.
        "fastest": graphopt.optimize(masked, plan="fastest", verify=False, measure=False).model,
        "plain": plainly_exported(net.module("zeros"), net),
    }
    if net.twin is resnet.twin:
        models["held"] = twin_model(net, hold_joins=True)
    return models, passed


_COUNTS = [
    "parameters masked",
    "smallest",
    "fastest",
    "twin",
    "smallest / twin",
    "macs masked",
    "smallest",
    "twin",
    "masks left",
    "joins of residuals",
    "in chains",
    "gathers added",
    "worst relative",
    "seconds",
]


def counted(net: Net, models: dict[str, ir.Model]) -> list[object]:
    """The cells of the first table."""
    sized = {name: stats(model) for name, model in models.items()}
    masked, smallest = models["masked"], models["smallest"]
    return [
        *(sized[name].parameters for name in ("masked", "smallest", "fastest", "twin")),
        sized["smallest"].parameters / sized["twin"].parameters,
        *(sized[name].macs for name in ("masked", "smallest", "twin")),
        len(masks_left(smallest)),
        f"{len(widenings(smallest)) - len(widenings(masked))} of {net.residuals}",
        len(inside_chains(smallest)) - len(inside_chains(masked)),
        sized["smallest"].ops.get("Gather", 0) - sized["masked"].ops.get("Gather", 0),
        max(worst_difference(net, masked, models[plan]) for plan in ("smallest", "fastest")),
    ]


def named(net: Net, chosen: Mapping[str, int]) -> str:
    """The net, and the sizes it is measured at."""
    return " ".join([net.name, *(f"{axis}={size}" for axis, size in chosen.items()), *(["(wide)"] if net.wide else [])])


_TIMES = [
    *(f"ms {name}" for name in _TIMED),
    "smallest / twin",
    "fastest / twin",
    "fastest / best twin",
    "speed-up on masked",
    "on plain",
]


def timed(net: Net, models: dict[str, ir.Model], chosen: Mapping[str, int], seconds: float) -> list[object]:
    """The cells of the second table; ratios to the twin are medians over neighbouring runs."""
    shapes = {name: list(array.shape) for name, array in net.feeds(1, sizes=chosen).items()}
    report = bench(*models.values(), names=list(models), seconds=seconds, shapes=shapes)
    found = {line.name: line for line in report.rows}
    best = min(found["smallest"].median_ms, found["fastest"].median_ms)
    yardstick = min(found[name].median_ms for name in ("twin", "held") if name in found)
    return [
        *(found[name].median_ms if name in found else "" for name in _TIMED),
        found["smallest"].paired_ratio,
        found["fastest"].paired_ratio,
        found["fastest"].median_ms / yardstick,
        found["masked"].median_ms / best,
        found["plain"].median_ms / best,
    ]


def worst_difference(net: Net, masked: ir.Model, result: ir.Model) -> float:
    """Largest difference of an output on random inputs, relative to its largest number."""
    feeds = net.feeds(16 if net.shape else 2, seed=5)
    pairs = zip(
        runtime.run(runtime.session(masked, optimize=False), feeds),
        runtime.run(runtime.session(result), feeds),
        strict=True,
    )
    return max(float(np.abs(expected - given).max() / np.abs(expected).max()) for expected, given in pairs)


def images() -> None:
    """Predictions of the masked and the optimized ResNets on every test image, per export form."""
    if not cifar.present():
        sys.exit("needs ../shared/data/cifar10_jpeg.npz beside the repository")
    batches = list(cifar.batches())
    total = sum(len(labels) for _, labels in batches)
    print(
        head(
            [
                "net",
                "form",
                "images",
                "other class",
                "worst logit difference",
                "right masked %",
                "right optimized %",
                "masks left",
                "joins",
                "residual adds",
                "in chains",
                "parameters",
                "optimized",
            ]
        )
    )
    for depth in (20, 56):
        if not trained(depth):
            sys.exit(f"needs ../shared/data/cifar10_resnet{depth}.safetensors beside the repository")
        net = FULL[f"resnet{depth}"]
        for form in net.forms:
            masked = masked_model(net, form)
            result = graphopt.optimize(masked, plan="smallest", verify=False).model
            before, after = runtime.session(masked, optimize=False), runtime.session(result)
            changed, worst, right = 0, 0.0, np.zeros(2, int)
            for pixels, labels in batches:
                (one,), (other,) = runtime.run(before, {"x": pixels}), runtime.run(after, {"x": pixels})
                worst = max(worst, float(np.abs(one - other).max()))
                changed += int((one.argmax(1) != other.argmax(1)).sum())
                right += [(one.argmax(1) == labels).sum(), (other.argmax(1) == labels).sum()]
            print(
                row(
                    [
                        net.name,
                        form,
                        total,
                        changed,
                        worst,
                        *(float(100 * count / total) for count in right),
                        len(masks_left(result)),
                        len(widenings(result)),
                        net.residuals,
                        len(inside_chains(result)),
                        stats(masked).parameters,
                        stats(result).parameters,
                    ]
                ),
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
