"""Latencies of many models in one process, taking turns: onnxruntime's and openvino's, one thread each.

Measured is the process's CPU time: with one thread at work it is the latency, whatever else the machine does.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt import runtime
from tests.bench.peers.judge import net


def latencies(paths: Mapping[str, str], name: str, seconds: float) -> dict[str, tuple[float, float]]:
    """Return name → (median milliseconds, median ratio to the first one's run of the same turn) at batch 1.

    Args:
        paths: models by what the table calls them; ``.xml`` runs in openvino, ``.onnx`` in onnxruntime with its
            default optimizations, ``openvino:….onnx`` in openvino.
        name: the net, for its inputs.
        seconds: measuring time for each model.
    """
    found = net(name)
    assert found is not None
    feeds = found.feeds(1, seed=1)
    order = list(paths)
    shuffle = random.Random(0).shuffle
    runs = {key: _runner(path, feeds) for key, path in paths.items()}
    times: dict[str, list[int]] = {key: [] for key in runs}
    gc.collect()
    gc.disable()
    try:
        for measuring in (False, True):
            end = time.perf_counter() + seconds * len(runs) * (1.0 if measuring else 0.2)
            turns = 0
            while turns < 5 or time.perf_counter() < end:
                turns += 1
                shuffle(order)  # whatever else the machine does comes at regular times: it must not meet the same model
                for key in order:
                    start = time.process_time_ns()
                    runs[key]()
                    if measuring:
                        times[key].append(max(time.process_time_ns() - start, 1))
    finally:
        gc.enable()
    first = next(iter(times.values()))
    return {
        key: (statistics.median(each) / 1e6, statistics.median(a / b for a, b in zip(each, first, strict=True)))
        for key, each in times.items()
    }


def _runner(path: str, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    prefix, _, rest = path.rpartition("openvino:")
    if not path.endswith(".xml") and not prefix and not path.startswith("openvino:"):
        return runtime.Bound(runtime.session(path, threads=1), feeds).run
    import openvino as ov

    from tests.bench.peers.openvino_tool import ONE_THREAD

    model = ov.Core().read_model(rest or path)
    model.reshape({key: list(array.shape) for key, array in feeds.items()})  # it is faster where sizes are known
    hints = {**ONE_THREAD, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    for key, array in feeds.items():
        request.set_tensor(key, ov.Tensor(array))
    return request.infer
