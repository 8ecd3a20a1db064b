"""graphopt and its peers on the same models: ``python -m tests.bench.peers [ROW ...] [--nets N] [--seconds S]``.

Two tables. The first holds micro graphs, one per operator and kind of mask, and the traps; the second holds nets. A
cell is how many constants a tool leaves (floats and quantized weights; single numbers do not count, as they are
attributes in other formats), checked against the original at the batch
sizes 1, 2 and 5; "=" is as many as before; what is not exact is marked. A second figure in brackets is that of the
same graph with a static batch, where it differs. A tool that must be told how much to remove gets several tries, and
its best exact one counts. Latencies are medians of ratios to the input model in onnxruntime at batch 1, all models of
a row taking turns on one thread.

Exits with 1 unless graphopt is exact in every row, leaves at most as many constants as every exact peer, and as many
with a dynamic batch as with a static one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx

from graphopt import model as models
from tests.bench.peers.judge import GRAPHOPT, PEERS, SIZES, STATIC, Outcome, Peer
from tests.bench.peers.modules import MODULES
from tests.bench.peers.rows import ROWS, static
from tests.bench.peers.speed import latencies
from tests.bench.peers.workers import Workers
from tests.bench.table import head, row
from tests.nets.catalogue import FULL, SMALL
from tests.nets.exporting import masked_model

NOISE = 1.02
"""Ratios up to this are as fast as the input."""

NETS = "resnet20 resnet18 resnet18-agree vgg mobilenet unet densenet convnext encoder mlp".split()


def main(arguments: list[str]) -> int:
    """Print the tables and the verdict; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("rows", nargs="*", help="parts of names of micro graphs; default: all")
    parser.add_argument("--nets", nargs="*", default=NETS, metavar="NET", help=f"of {', '.join(FULL)}; none: no nets")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="of the nets")
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time of each model of a net")
    parser.add_argument("--no-micro", action="store_true", help="nets alone")
    parser.add_argument("--keep", type=Path, help="leave models that violate a condition in this folder")
    chosen = parser.parse_args(arguments)
    known = FULL if chosen.size == "full" else SMALL
    if unknown := set(chosen.nets) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for peer in PEERS:
        print(f"{peer.name}: {peer.version() or 'not installed'}")
    print()
    violations: list[str] = []
    workers = Workers()
    try:
        with tempfile.TemporaryDirectory() as folder:
            if not chosen.no_micro:
                violations += micro(workers, Path(folder), chosen.rows, chosen.keep)
            violations += nets(workers, Path(folder), chosen.nets, chosen.size, chosen.seconds)
    finally:
        workers.close()
    for line in violations:
        print(f"violated: {line}")
    print("verdict: " + (f"{len(violations)} conditions violated" if violations else "every condition holds"))
    return 1 if violations else 0


def micro(workers: Workers, folder: Path, parts: list[str], keep: Path | None) -> list[str]:
    """The table of micro graphs; return what it violates."""
    print(head(["graph", "constants", *(peer.name for peer in PEERS)]))
    violations = []
    for number, one in enumerate([*ROWS, *MODULES]):
        if parts and not any(part in one.name for part in parts):
            continue
        paths = {"dynamic": str(folder / f"{number}.onnx"), "static": str(folder / f"{number}.static.onnx")}
        model = one.build()
        onnx.save(model, paths["dynamic"])
        onnx.save(static(model, STATIC), paths["static"])
        found = {}
        for peer in PEERS:
            found[peer] = (
                workers.judge(peer, paths["dynamic"], one.name, SIZES),
                workers.judge(peer, paths["static"], one.name, (STATIC,)),
            )
        before = found[GRAPHOPT][0].before
        print(row([one.name, before, *(_cell(*found[peer]) for peer in PEERS)]), flush=True)
        broken = judged(one.name, found)
        if broken and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            onnx.save(model, keep / f"{one.name.replace(' ', '-').replace(':', '').replace(',', '')}.onnx")
        violations += broken
    print()
    return violations


def judged(name: str, found: dict[Peer, tuple[Outcome, Outcome]]) -> list[str]:
    """What one row violates."""
    broken = []
    own = found[GRAPHOPT]
    for kind, outcome in zip(("dynamic", "static"), own, strict=True):
        if outcome.status != "exact":
            broken.append(f"{name}, {kind} batch: graphopt is {outcome.status}: {outcome.detail}")
    if own[0].floats != own[1].floats:
        broken.append(f"{name}: {own[0].floats} constants with a dynamic batch, {own[1].floats} with a static one")
    for peer, outcomes in found.items():
        for kind, mine, theirs in zip(("dynamic", "static"), own, outcomes, strict=True):
            if theirs.status == "exact" and theirs.floats < mine.floats:
                broken.append(f"{name}, {kind} batch: {peer.name} leaves {theirs.floats}, graphopt {mine.floats}")
    return broken


def _cell(dynamic: Outcome, fixed: Outcome) -> str:
    first, second = _words(dynamic), _words(fixed)
    return first if first == second else f"{first} ({second})"


def _words(outcome: Outcome) -> str:
    if outcome.status in ("n/a", "not installed"):
        return outcome.status
    if outcome.status == "failed":
        return f"failed: {outcome.detail}".replace("|", "/")[:60]
    count = "=" if outcome.floats == outcome.before else f"{outcome.floats:,}"
    return count if outcome.status == "exact" else f"{count} WRONG"


def nets(workers: Workers, folder: Path, names: list[str], size: str, seconds: float) -> list[str]:
    """The tables of nets: constants, and latencies; return what they violate."""
    if not names:
        return []
    titles = [*(peer.name for peer in PEERS), "openvino unpruned"]
    counts, times, violations = [], [], []
    for name in names:
        net = (FULL if size == "full" else SMALL)[name]
        full = f"{size}:{name}"
        path = folder / f"{name}.onnx"
        model = onnx.load_from_string(models.serialize(masked_model(net, "masks")))
        onnx.save(model, path)
        found = {
            peer: workers.judge(peer, str(path), full, SIZES, str(folder / f"{name}.{peer.name}")) for peer in PEERS
        }
        counts.append(row([name, found[GRAPHOPT].before, *(_cell(found[peer], found[peer]) for peer in PEERS)]))
        paths = {"input": str(path)}
        paths |= {peer.name: outcome.path for peer, outcome in found.items() if outcome.path is not None}
        if "openvino" in paths:
            paths["openvino unpruned"] = f"openvino:{path}"
        measured = _measured(workers, paths, full, seconds)
        times.append(
            row([name, f"{measured['input'][0]:.3g} ms" if measured else "failed", *(
                f"{measured[title][1]:.2f}" if title in measured else "" for title in titles)])
        )  # fmt: skip
        violations += judged(name, {peer: (outcome, outcome) for peer, outcome in found.items()})
        if measured and "openvino" in measured and measured["openvino"][1] * NOISE < measured["graphopt"][1]:
            violations.append(
                f"{name}: openvino {measured['openvino'][0]:.3g} ms, graphopt {measured['graphopt'][0]:.3g} ms"
            )
        if measured and measured["graphopt"][1] > NOISE:
            violations.append(f"{name}: graphopt is slower than the input, {measured['graphopt'][1]:.2f}")
        print(counts[-1], times[-1], sep="\n", file=sys.stderr, flush=True)
    print(head(["net", "constants", *(peer.name for peer in PEERS)]), *counts, sep="\n")
    print()
    print(head(["net", "input", *titles]), *times, sep="\n")
    print()
    return violations


def _measured(workers: Workers, paths: dict[str, str], name: str, seconds: float) -> dict[str, tuple[float, float]]:
    try:
        return workers.call("measuring", latencies, paths, name, seconds)
    except Exception as error:
        print(f"{name}: not measured: {error}", file=sys.stderr)
        return {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
