"""Several processes, or a Ray cluster: the same bits as one, errors that arrive whole, nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt.calibrate import processes
from graphopt.calibrate.collect import collect
from graphopt.errors import DependencyError, GraphoptError, ModelError
from tests.ops.net import Net

ROOT = Path(__file__).resolve().parents[2]


def conv_net() -> ir.Model:
    net = Net()
    y = net("Relu", net("Conv", net.input("x", "N", 3, 9, 9), net.normal(8, 3, 3, 3)))
    net("Sqrt", net("Conv", y, np.abs(net.normal(8, 8, 3, 3))))
    return models.load(net.model("sqrt6"))


NAMES = ["relu3", "conv5", "x", "sqrt6"]


def images(*sizes: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(size, 3, 9, 9)).astype(np.float32)} for size in sizes]


RAGGED = images(4, 1, 7, 0, 4, 4, 2, 5)


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_give_the_bits_of_one(workers: int) -> None:
    seen: list[tuple[str, int, int]] = []
    found = collect(conv_net(), NAMES, iter(RAGGED), workers=workers, total=8, progress=lambda *step: seen.append(step))
    alone = collect(conv_net(), NAMES, RAGGED)
    assert found == alone and list(found) == NAMES
    assert seen[0] == ("calibrating", 0, 8) and seen[-1] == ("calibrating", 8, 8)
    assert seen == sorted(set(seen))


def test_more_processes_than_batches() -> None:
    assert collect(conv_net(), NAMES, images(3), workers=2) == collect(conv_net(), NAMES, images(3))
    with pytest.raises(ModelError, match="holds no samples"):
        collect(conv_net(), NAMES, [], workers=2)


def children() -> set[int]:
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in found.stdout.splitlines() if processes.__name__ in line}


def test_an_error_of_the_model_arrives_whole_and_ends_all() -> None:
    batches = images(1, 2, 1)
    batches[1]["x"][1, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="of 'x', an input of the model") as caught:
        collect(conv_net(), NAMES, batches, workers=2)
    assert caught.value.where == "sample 1 of batch 1 of the data"
    assert not children()


def test_an_error_of_the_data_ends_all() -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield images(1)[0]
        assert children()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        collect(conv_net(), NAMES, batches(), workers=2)
    assert not children()


def test_a_process_that_is_killed_is_a_clear_error() -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number, feeds in enumerate(images(*[1] * 50)):
            if number == 5:
                os.kill(min(children()), signal.SIGKILL)
            yield feeds

    with pytest.raises(GraphoptError, match=r"a process of the calibration ended with signal 9 \(Killed\)") as caught:
        collect(conv_net(), NAMES, batches(), workers=2)
    assert caught.value.help and "memory" in caught.value.help
    assert not children()


SCRIPT = """
    import itertools, sys, time
    import numpy as np
    from graphopt import model as models
    from graphopt.calibrate.collect import collect

    def batches():
        for number in itertools.count():
            if number == 3:
                print("running", flush=True)
            yield {"x": np.ones((1, 3, 9, 9), np.float32)}
            time.sleep(0.01)

    collect(models.load(sys.argv[1]), ["relu3"], batches(), workers=2)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_nothing_behind(tmp_path: Path, end: signal.Signals) -> None:
    """The script has no guard around its main part, as scripts of users often do not."""
    models.save(conv_net(), tmp_path / "model.onnx")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "temporary").mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "temporary"),
        "PYTHONPATH": str(ROOT),
        "GRAPHOPT_TEST": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "model.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "running\n"
        assert len(marked(tmp_path)) == 3
        os.killpg(process.pid, end)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -end
    for _ in range(100):
        if not marked(tmp_path):
            break
        time.sleep(0.05)
    assert not marked(tmp_path)
    if end == signal.SIGINT:
        assert not list((tmp_path / "temporary").glob("graphopt*"))
        assert errors.count("Traceback") <= 1  # the script's own


def marked(folder: Path) -> list[str]:
    """The processes that the script started, itself included: they have its environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"GRAPHOPT_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue
    return found


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match="Ray is not installed") as caught:
        collect(conv_net(), NAMES, RAGGED, ray="local")
    assert caught.value.help and "graphopt[ray]" in caught.value.help


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray, which is not installed")


@needs_ray
def test_ray_gives_the_bits_of_one(tmp_path: Path) -> None:
    alone = collect(conv_net(), NAMES, RAGGED)
    assert collect(conv_net(), NAMES, iter(RAGGED), ray="local", workers=2) == alone
    batches = images(1, 2, 1)
    batches[1]["x"][1, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="of 'x', an input of the model"):
        collect(conv_net(), NAMES, batches, ray="local", workers=2)


@needs_ray
def test_no_such_cluster_is_a_clear_error() -> None:
    with pytest.raises(DependencyError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        collect(conv_net(), NAMES, RAGGED, ray="127.0.0.1:1")
