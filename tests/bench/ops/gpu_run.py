"""Sessions in onnxruntime's CUDA provider, their times, and what the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from graphopt import runtime_ops

Feeds = Mapping[str, np.ndarray]


class Session:
    """A model on a device, its inputs there."""

    def __init__(
        self, model: bytes, feeds: Feeds, provider: str = "cuda", *, captured: Sequence[np.ndarray] | None = None,
        exact: bool = True, channels_last: bool = False,
    ):  # fmt: skip
        """Load a model and copy what it is fed.

        Args:
            model: Serialized.
            feeds: Arrays by the names of inputs; others are left out.
            provider: ``cuda`` or ``cpu``.
            captured: Outputs like those that are to come: the first run is captured as a CUDA graph, the others replay
                it, and all write to one place.
            exact: Whether float32 is float32: no TF32.
            channels_last: Whether the provider may turn convolutions to NHWC.

        Raises:
            RuntimeError: onnxruntime cannot start its CUDA provider; that it cannot is not said by itself.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 3
        runtime_ops.register(options)
        wanted: list[Any] = ["CPUExecutionProvider"]
        if provider == "cuda":
            # An operator that falls back to the CPU must not pass for one that runs on the GPU. With this entry
            # onnxruntime wants the CPU's provider not to be named; it adds it by itself.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            settings = {"use_tf32": "0" if exact else "1", "enable_cuda_graph": "0" if captured is None else "1"}
            if channels_last:
                settings["prefer_nhwc"] = "1"
            wanted = [("CUDAExecutionProvider", settings)]
        self._session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
        if provider == "cuda" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("onnxruntime could not start its CUDA provider")
        self._provider = provider
        self._written: list[ort.OrtValue] = []
        self._binding = self._session.io_binding()
        self._kept = []  # the binding does not keep what it points to
        for value in self._session.get_inputs():
            self._kept.append(_placed(feeds[value.name], provider))
            self._binding.bind_ortvalue_input(value.name, self._kept[-1])
        for index, value in enumerate(self._session.get_outputs()):
            if captured is None:
                self._binding.bind_output(value.name, provider)
            else:
                self._written.append(_placed(_garbage(captured[index]), provider))
                self._binding.bind_ortvalue_output(value.name, self._written[-1])
        self._waiting = ort.RunOptions()
        self._going = ort.RunOptions()
        self._going.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self) -> list[np.ndarray]:
        """Run once and return the outputs."""
        self._session.run_with_iobinding(self._binding, self._waiting)
        self._binding.synchronize_outputs()
        return list(self._binding.copy_outputs_to_cpu())

    def spoil(self) -> None:
        """Fill outputs that stay where they are with garbage: what a run does not write is seen."""
        for value in self._written:
            value.update_inplace(_garbage(value.numpy()))

    def seconds(self, budget: float = 0.3, repeats: int = 5) -> float:
        """Return the seconds of a run: runs follow each other on the stream, and the last one is waited for.

        The median over several such series, after a warm-up. A series is as long as it takes to hide the wait.
        """
        self._series(3)
        count = max(3, min(2000, int(budget / repeats / max(self._series(3), 1e-7))))
        return float(np.median([self._series(count) for _ in range(repeats)]))

    def _series(self, count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count - 1):
            self._session.run_with_iobinding(self._binding, self._going)
        self._session.run_with_iobinding(self._binding, self._waiting)
        self._binding.synchronize_outputs()
        return (time.perf_counter() - begun) / count


def _garbage(like: np.ndarray) -> np.ndarray:
    """An array of this type and shape whose every byte is 0x5A."""
    return np.full(like.nbytes, 0x5A, np.uint8).view(like.dtype).reshape(like.shape)


def _placed(array: np.ndarray, provider: str) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"), provider, 0)


def copy_peak() -> float:
    """Bytes read and written in a second by a copy of 2 GB, with torch."""
    import torch

    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    return 2 * source.numel() / _timed(partial(target.copy_, source))


def float16_peak() -> float:
    """Operations a second of the fastest of torch's products of random numbers, 4096³ and 8192³."""
    import torch

    found = []
    for size in _SIZES:
        a, b = (torch.randn(size, size, dtype=torch.float16, device="cuda") for _ in range(2))
        found.append(2.0 * size**3 / _timed(partial(torch.mm, a, b)))
    return max(found)


def int8_peak() -> float:
    """The same of int8 products, with int32 sums; the second factor lies as tensor cores want it."""
    import torch

    found = []
    for size in _SIZES:
        a, b = (torch.randint(-128, 128, (size, size), dtype=torch.int8, device="cuda") for _ in range(2))
        found.append(2.0 * size**3 / _timed(partial(torch._int_mm, a, b.t())))
    return max(found)


_SIZES = (4096, 8192)

PEAKS = {"copy": copy_peak, "float16": float16_peak, "int8": int8_peak}
"""What the device was measured to do at most, in bytes or operations a second."""


def _timed(work: Callable[[], object], repeats: int = 20) -> float:
    import torch

    times = []
    for _ in range(5):
        work()
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(times))


def about() -> list[str]:
    """The device and the versions, a line each."""
    lines = [f"onnxruntime {ort.__version__}: {', '.join(ort.get_available_providers())}"]
    kernels = {f"{name}" for name, provider, _ in runtime_ops.kernels() if provider == "cuda"}
    library = Path(str(runtime_ops.library())).name
    lines.append(f"numpy {np.__version__}; {library} with CUDA kernels of {len(kernels)} operators")
    try:
        import torch
    except ImportError:
        return [*lines, "no torch"]
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        lines.append(
            f"{properties.name}: {properties.multi_processor_count} multiprocessors, "
            f"{properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
        )
    return lines
