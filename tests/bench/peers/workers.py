"""A process for each tool, so that one that crashes or hangs takes nothing with it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tests.bench.peers.judge import Outcome, Peer, work

LONGEST = 300.0
"""Seconds that a tool gets for one model."""


class Workers:
    """One process a name, started when it is first needed and again after it ended."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the process of that name.

        Raises:
            BrokenProcessPool: the process ended.
            TimeoutError: it took longer than ``LONGEST``; the process is ended.
        """
        pool = self._pools.get(name)
        if pool is None:
            context = multiprocessing.get_context("spawn")
            pool = self._pools[name] = ProcessPoolExecutor(1, mp_context=context, initializer=_quiet)
        try:
            return pool.submit(function, *arguments).result(LONGEST)
        except (BrokenProcessPool, LateError):
            self._end(name)
            raise

    def judge(self, peer: Peer, path: str, name: str, batches: Sequence[int], folder: str | None = None) -> Outcome:
        """`judge.work` in the tool's own process; what happens to the process is an outcome too."""
        try:
            return self.call(peer.name, work, peer, path, name, batches, folder)
        except BrokenProcessPool:
            return Outcome("failed", detail="its process ended")
        except LateError:
            return Outcome("failed", detail=f"not done after {LONGEST:.0f} s")

    def close(self) -> None:
        """End all processes."""
        for name in list(self._pools):
            self._end(name)

    def _end(self, name: str) -> None:
        pool = self._pools.pop(name)
        for process in list((pool._processes or {}).values()):  # one that hangs does not end by being asked
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)


def _quiet() -> None:
    """One thread; what tools print goes nowhere."""
    os.environ["OMP_NUM_THREADS"] = "1"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
