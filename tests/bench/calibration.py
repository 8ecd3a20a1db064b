"""Memory and time of calibration beside onnxruntime's: ``python -m tests.bench.calibration [--rounds N] …``.

ResNet-18 at 224x224 with random weights, from a file of samples, each measurement in a process of its own, the
calibrators in turn. onnxruntime's are driven as ``quantize_static`` drives them, on the same batches. Its Percentile
keeps every activation of every sample in memory, so the number of samples is what fits, and it does not run on a last
batch that is smaller, so the number of samples is a multiple of the batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.table import head, row

ROOT = Path(__file__).resolve().parents[2]
SIZE = 224
WAYS = ("graphopt", "graphopt, 2 workers", "MinMax", "Percentile", "Entropy", "Distribution")


def main(arguments: list[str]) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calibration", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each calibrator, in turn")
    parser.add_argument("--samples", type=int, default=32, help="samples for the comparison of times")
    parser.add_argument("--memory", type=int, nargs="*", default=[64, 512], help="samples for the peaks of memory")
    parser.add_argument("--batch", type=int, default=4, help="samples a batch when times are compared")
    parser.add_argument("--ways", nargs="*", default=list(WAYS[:4]), choices=WAYS)
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2], help="processors that a calibrator may use")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(measure(**json.loads(chosen.one))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        prepare(Path(folder), max([chosen.samples, *chosen.memory]))
        if chosen.memory:
            memory(Path(folder), chosen.memory, chosen.rounds)
        for cores in chosen.cores:
            times(Path(folder), chosen.ways, chosen.samples, chosen.batch, chosen.rounds, cores)


def prepare(folder: Path, samples: int) -> None:
    """Write the model as it is calibrated, the names that its placement watches, and the samples."""
    script = (
        "import sys; from tests.bench.calibration import write_model; from pathlib import Path;"
        " write_model(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    rng = np.random.default_rng(0)
    x = np.empty((samples, 3, SIZE, SIZE), np.float32)
    for one in x:
        one[:] = rng.standard_normal(one.shape, np.float32)
    np.savez(folder / "samples.npz", x=x)


def write_model(folder: Path) -> None:
    """Export ResNet-18 with its published shape: a 7x7 stem of stride 2, a pooling, four stages of two blocks."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from graphopt import model as models
    from graphopt import rounds
    from graphopt.quantization.place import placed
    from graphopt.quantization.request import Request
    from tests.nets.exporting import plainly_exported
    from tests.nets.masking import randomise
    from tests.nets.net import Net
    from tests.nets.resnet import ResNet

    class ResNet18(ResNet):
        def __init__(self) -> None:
            super().__init__((64, 128, 256, 512), 2, projection=True, classes=1000)
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            for index in range(self.stages):
                x = getattr(self, f"layer{index + 1}")(x)
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    net = Net("resnet18", lambda: randomise(ResNet18(), 18).eval(), ResNet18, (3, SIZE, SIZE))
    context = rounds.prepare(plainly_exported(net.masked(), net), rounds.Settings((), target="cpu"))
    names = [str(value.name) for value in placed(context, Request()).activations]
    models.save(context.model, folder / "model.onnx")
    (folder / "names.json").write_text(json.dumps(names))


def batches(folder: Path, samples: int, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """The first samples of the file, as graphopt reads them for a user."""
    from graphopt import datafiles

    left = samples
    for feeds in datafiles.from_file(folder / "samples.npz", {"x": (4, batch or None)}):
        yield {"x": feeds["x"][:left]}
        left -= len(feeds["x"])
        if left <= 0:
            return


def measure(folder: str, way: str, samples: int, batch: int, cores: int) -> dict[str, float]:
    """Calibrate once in this process: seconds, seconds of all processors, peak bytes of this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import graphopt.calibrate.collect
    import graphopt.model

    if not way.startswith("graphopt"):
        import onnxruntime.quantization.calibrate  # noqa: F401
    before = _peak()
    feeds = batches(Path(folder), samples, batch)
    start, busy = time.perf_counter(), _busy()
    if way.startswith("graphopt"):
        model = graphopt.model.load(Path(folder, "model.onnx"))
        names = json.loads(Path(folder, "names.json").read_text())
        found: Any = graphopt.calibrate.collect.collect(model, names, feeds, workers=2 if "2" in way else 1)
    else:
        found = _onnxruntime(Path(folder), way, feeds)
    seconds = time.perf_counter() - start
    assert found
    return {"seconds": seconds, "busy": _busy() - busy, "peak": _peak(), "imports": before}


def _peak() -> int:
    """Bytes; ru_maxrss would begin with the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _busy() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _onnxruntime(folder: Path, way: str, feeds: Iterator[dict[str, np.ndarray]]) -> Any:
    from onnxruntime.quantization import CalibrationMethod, calibrate
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(calibrate.CalibrationDataReader):
        def get_next(self) -> Any:
            return next(feeds, None)

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        calibrator = calibrate.create_calibrator(
            folder / "model.onnx",
            sorted({*QDQRegistry, *QLinearOpsRegistry}),
            augmented_model_path=str(Path(scratch, "augmented.onnx")),
            calibrate_method=getattr(CalibrationMethod, way),
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()


def _measured(folder: Path, way: str, samples: int, batch: int, cores: int) -> dict[str, float]:
    given = {"folder": str(folder), "way": way, "samples": samples, "batch": batch, "cores": cores}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.calibration", "--one", json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(folder: Path, counts: list[int], rounds: int) -> None:
    """Peak resident memory of graphopt's calibration, of batches as it cuts a file of samples: medians."""
    print(
        head(
            [
                "graphopt",
                "samples",
                "peak MB",
                "spread",
                "of which before the first line",
                "to the first row",
                "seconds",
            ]
        )
    )
    first = None
    for count in counts:
        found = [_measured(folder, WAYS[0], count, 0, 2) for _ in range(rounds)]
        peaks = [one["peak"] / 1e6 for one in found]
        peak, imports, seconds = (
            statistics.median(one[key] for one in found) for key in ("peak", "imports", "seconds")
        )
        first = first or peak
        spread = f"{min(peaks):.0f} to {max(peaks):.0f}"
        print(row(["ResNet-18", count, peak / 1e6, spread, imports / 1e6, peak / first, seconds]), flush=True)
    print()


def times(folder: Path, ways: list[str], samples: int, batch: int, rounds: int, cores: int) -> None:
    """Seconds of each calibrator, in turn, and the ratio of medians to those of graphopt."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            runs[way].append(_measured(folder, way, samples, batch, cores))

    def median(way: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[way])

    names = ["samples", "seconds", "spread", "seconds / graphopt's", "processor seconds", "/ graphopt's", "peak MB"]
    print(head([f"{cores} processor{'s' * (cores > 1)}", *names]))
    for way in ways:
        seconds, busy = median(way, "seconds"), median(way, "busy")
        spread = f"{min(r['seconds'] for r in runs[way]):.3g} to {max(r['seconds'] for r in runs[way]):.3g}"
        ratios = seconds / median(ways[0], "seconds"), busy / median(ways[0], "busy")
        cells = [way, samples, seconds, spread, ratios[0], busy, ratios[1], median(way, "peak") / 1e6]
        print(row(cells), flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
