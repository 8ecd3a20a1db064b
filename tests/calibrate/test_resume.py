"""A calibration that is interrupted, however rudely, goes on where it was and ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate import checkpoint
from graphopt.calibrate.collect import collect
from graphopt.calibrate.histogram import Histogram
from graphopt.errors import ModelError
from tests.ops.net import Net

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["conv2", "x", "relu3"]


def conv_net(seed: int = 0) -> ir.Model:
    net = Net(seed=seed)
    net("Relu", net("Conv", net.input("x", "N", 3, 9, 9), net.normal(16, 3, 3, 3)))
    return models.load(net.model("relu3"))


def images(*sizes: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(size, 3, 9, 9)).astype(np.float32)} for size in sizes]


BATCHES = images(3, 1, 0, 4, 5, 2, 4)


class InterruptionError(Exception):
    pass


def until(number: int, batches: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    yield from batches[:number]
    raise InterruptionError


@pytest.fixture(autouse=True)
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", -1.0)
    monkeypatch.setattr(checkpoint, "PATIENCE", 0)


def same(a: dict[str, Histogram], b: dict[str, Histogram]) -> bool:
    """Equal, and the arrays are the same bytes of the same types."""
    return a == b and all(
        a[name].counts.tobytes() == b[name].counts.tobytes() and a[name].counts.dtype == b[name].counts.dtype
        for name in a
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_twice_and_resumed(tmp_path: Path, workers: int) -> None:
    for number in (2, 5):
        with pytest.raises(InterruptionError):
            collect(conv_net(), NAMES, until(number, BATCHES), resume=tmp_path, workers=workers)
    seen: list[int] = []
    found = collect(
        conv_net(),
        NAMES,
        BATCHES,
        resume=tmp_path,
        workers=workers,
        progress=lambda what, done, total: seen.append(done),
    )
    assert same(found, collect(conv_net(), NAMES, BATCHES))
    assert seen[-1] == 7
    assert same(collect(conv_net(), NAMES, BATCHES, resume=tmp_path), found)  # nothing is left to do
    assert not list(tmp_path.glob(".*"))


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InterruptionError):
        collect(conv_net(), NAMES, until(4, BATCHES), resume=tmp_path)
    runs: list[int] = []
    run = runtime.run
    monkeypatch.setattr(runtime, "run", lambda session, feeds: runs.append(len(feeds["x"])) or run(session, feeds))
    collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    assert runs == [4, 5, 2, 4] or runs == [5, 2, 4]  # the last one before an interruption may not be counted


SCRIPT = """
    import os, signal, sys
    import numpy as np
    from pathlib import Path
    from graphopt import model as models
    from graphopt.calibrate import checkpoint
    from graphopt.calibrate.collect import collect
    from tests.calibrate.test_resume import BATCHES, NAMES, conv_net

    checkpoint.EVERY, checkpoint.PATIENCE = -1.0, 0
    folder, when = Path(sys.argv[1]), int(sys.argv[2])
    replace, calls = os.replace, []

    def replaced(source, target):
        # At the very worst moments: a checkpoint is written, but not in its place; it has just taken its place.
        if Path(target).suffix != ".npz":
            return replace(source, target)
        calls.append(target)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(calls) + 100 == when:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced
    collect(conv_net(), NAMES, BATCHES, resume=folder, workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize(("when", "workers"), [(1, 1), (3, 1), (101, 2)])
def test_killed_in_the_middle(tmp_path: Path, when: int, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(when), str(workers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert bool(list(tmp_path.glob("part-*.npz"))) == (when > 1)
    found = collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    assert same(found, collect(conv_net(), NAMES, BATCHES))


def test_another_model_is_refused(tmp_path: Path) -> None:
    collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    for model, names in ((conv_net(seed=1), NAMES), (conv_net(), NAMES[:2])):
        with pytest.raises(ModelError, match="the checkpoint belongs to another model, or other values") as caught:
            collect(model, names, BATCHES, resume=tmp_path)
        assert caught.value.help == "start anew in an empty folder"
    with pytest.raises(ModelError, match="another choice of options"):
        collect(conv_net(), NAMES, BATCHES, resume=tmp_path, nonfinite="count")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "version", lambda: "0.1")
        with pytest.raises(ModelError, match="another version of onnxruntime"):
            collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    collect(conv_net(), NAMES[::-1], BATCHES, resume=tmp_path)  # the order of the names does not matter


def test_other_data_is_refused(tmp_path: Path) -> None:
    collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    changed = [{name: array.copy() for name, array in feeds.items()} for feeds in BATCHES]
    changed[4]["x"][3, 2, 1, 0] += 1
    with pytest.raises(ModelError, match="batch 4 of the data is not the one that was counted"):
        collect(conv_net(), NAMES, changed, resume=tmp_path)
    with pytest.raises(ModelError, match="the data holds 5 batches; batch 6 was counted"):
        collect(conv_net(), NAMES, BATCHES[:5], resume=tmp_path)
    more = [*BATCHES, *images(2, seed=1)]
    assert same(collect(conv_net(), NAMES, more, resume=tmp_path), collect(conv_net(), NAMES, more))


def test_two_runs_in_one_folder_count_nothing_twice(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        collect(conv_net(), NAMES, until(4, BATCHES), resume=tmp_path)
    first = list(tmp_path.iterdir())
    other = tmp_path / "other"
    collect(conv_net(), NAMES, BATCHES[:5], resume=other)
    for file in other.iterdir():
        os.rename(file, tmp_path / file.name)
    assert len(first) == 1 and len(list(tmp_path.glob("part-*"))) == 2
    assert same(collect(conv_net(), NAMES, BATCHES, resume=tmp_path), collect(conv_net(), NAMES, BATCHES))


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    collect(conv_net(), NAMES, BATCHES, resume=tmp_path)
    file = next(tmp_path.glob("part-*.npz"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(ModelError, match="not a checkpoint of a calibration"):
        collect(conv_net(), NAMES, BATCHES, resume=tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="no folder for checkpoints"):
        collect(conv_net(), NAMES, BATCHES, resume=tmp_path / "file" / "inside")


def test_every_kind_of_histogram_survives_the_disk(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", "N")
    net("Relu", net("Mul", x, 1e30))
    net("Floor", x)
    model = models.load(net.model("relu3", "floor4"))
    names = ["mul2", "relu3", "floor4", "x"]
    rng = np.random.default_rng(0)
    batches = [{"x": x.astype("f4")} for x in (rng.normal(size=400), np.array([-np.inf, np.nan, 1e-45]), -np.ones(3))]
    with pytest.raises(InterruptionError):
        collect(model, names, until(3, batches), resume=tmp_path, nonfinite="count")
    found = collect(model, names, batches, resume=tmp_path, nonfinite="count")
    assert same(found, collect(model, names, batches, nonfinite="count"))
    assert found["floor4"].distinct is not None and found["x"].distinct is None and found["x"].nans == 1
