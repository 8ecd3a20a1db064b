"""Hands that are actors of a Ray cluster: the same clerks as in processes, somewhere else.

The machines of a cluster must have graphopt and the same onnxruntime; that activations are the same bits everywhere
also takes processors of the same kind.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.calibrate.counting import Nonfinite, Tally
from graphopt.calibrate.crew import Clerk
from graphopt.calibrate.watch import Part
from graphopt.errors import DependencyError, GraphoptError

LOCAL = "local"
"""The address that starts a cluster on this machine and ends it afterwards."""

_START = "start one with `ray start --head`; if it asks for a token, set it as Ray documents; or give local"

_SECONDS = 5
"""How long a cluster may take to answer."""


@contextlib.contextmanager
def actors(address: str, workers: int, part: Part, nonfinite: Nonfinite, sign: bool) -> Iterator[list[RayHand]]:
    """Give hands on a cluster, for as long as the block lasts.

    Args:
        address: Of the cluster, or ``local``.
        workers: So many, not more than the cluster has processors; 1: as many as it has.
        part: What they run.
        nonfinite: See :class:`~graphopt.calibrate.counting.Counting`.
        sign: See there.

    Raises:
        DependencyError: Ray is not installed, or there is no such cluster.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise DependencyError("Ray is not installed", help="pip install 'graphopt[ray]', or use --workers") from error
    ours = not ray.is_initialized()
    if ours:
        _require_reachable(address)
        try:
            local = {"include_dashboard": False} if address == LOCAL else {}
            ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DependencyError(f"no Ray cluster at {address!r}: {error}", help=_START) from error
    hands: list[RayHand] = []
    try:
        model = ray.put(_files(part))
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        many = min(workers, processors) if workers > 1 else processors  # an actor without a processor waits for ever
        actor = ray.remote(num_cpus=1)(RemoteClerk)
        for _ in range(many):
            hands.append(RayHand(ray, actor.remote(), model, replace(part, model=""), nonfinite, sign))
        yield hands
    finally:
        for hand in hands:
            hand.close()
        if ours:
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Find out within seconds whether anybody answers; Ray itself takes minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "local", "auto", or Ray will say what is wrong with it
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DependencyError(f"no Ray cluster at {address!r}: {error}", help=_START) from error


class RemoteClerk(Clerk):
    """A clerk that gets the model as bytes."""

    def start_from(self, files: Mapping[str, bytes], part: Part, nonfinite: Nonfinite, sign: bool) -> Any:
        """Write the files of the part and load it."""
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            return self.start(replace(part, model=str(Path(folder, "part.onnx"))), nonfinite, sign)


class RayHand:
    """An actor that counts."""

    def __init__(self, ray: Any, actor: Any, files: Any, part: Part, nonfinite: Nonfinite, sign: bool) -> None:
        """Take an actor that was not started yet; ``files`` are those of the part, in Ray's store."""
        self._ray, self._actor = ray, actor
        self._first: Any = actor.start_from.remote(files, part, nonfinite, sign)

    def take(self, number: int, feeds: Mapping[str, Any]) -> None:
        """Run and count a batch."""
        self._ask(self._actor.take, number, dict(feeds))

    def tally(self) -> Tally:
        """Return what was counted so far."""
        if self._first is not None:
            return Tally()  # it never had a batch; the model is not loaded for nothing
        return self._ask(self._actor.tally)

    def close(self) -> None:
        """End the actor at once."""
        with contextlib.suppress(Exception):  # it, or the cluster, is gone already
            self._ray.kill(self._actor)

    def _ask(self, method: Any, *arguments: Any) -> Any:
        if self._first is not None:
            self._get(self._first)
            self._first = None
        return self._get(method.remote(*arguments))

    def _get(self, reference: Any) -> Any:
        try:
            answer, failure = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise GraphoptError(
                f"an actor of the calibration ended: {error}",
                help="every machine of the cluster needs graphopt; see the logs of Ray",
            ) from error
        if failure is not None:
            raise failure
        return answer


def _files(part: Part) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        part.stored(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
