"""Several hands that count at once: whoever is free takes the next batch; their tallies add up to that of one.

Counts are integers and sums of histograms do not depend on the order, so it does not matter who took which batch. The
same few lines drive processes of this machine and actors of a Ray cluster: both are *hands*, with a *clerk* at the
other end.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from graphopt.calibrate.counting import Counting, Nonfinite, Tally
from graphopt.calibrate.watch import Part
from graphopt.errors import GraphoptError

Batch = tuple[int, Mapping[str, Any]]

_SECONDS = 0.05
"""How soon a failure elsewhere is noticed by whoever waits."""


class Hand(Protocol):
    """Counts batches somewhere else. Each method waits until it is done; errors over there are raised here."""

    def take(self, number: int, feeds: Mapping[str, Any]) -> None:
        """Run and count a batch."""
        ...

    def tally(self) -> Tally:
        """Return what was counted so far."""
        ...

    def close(self) -> None:
        """End it at once, whatever it does: called from another thread, or twice, too."""
        ...


class Clerk:
    """Counts at the other end of a wire: gives (answer, error) and never raises, so that errors arrive whole."""

    def __init__(self) -> None:
        self._counting: Counting | None = None

    def start(self, part: Part, nonfinite: Nonfinite, sign: bool) -> tuple[None, Exception | None]:
        """Load what is to be run."""

        def load() -> None:
            self._counting = Counting(part, nonfinite=nonfinite, sign=sign)

        return self._try(load)

    def take(self, number: int, feeds: Mapping[str, Any]) -> tuple[None, Exception | None]:
        """Run and count a batch."""
        assert self._counting is not None
        return self._try(self._counting.take, number, feeds)

    def tally(self) -> tuple[Tally | None, Exception | None]:
        """Return what was counted so far; nothing before it was started."""
        return self._try(Tally if self._counting is None else self._counting.tally)

    def _try(self, action: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
        try:
            return action(*arguments), None
        except GraphoptError as error:
            return None, error
        except Exception as error:  # a bug, or no memory: its class may not exist where it is read
            return None, RuntimeError(f"{error!r} while counting elsewhere\n{traceback.format_exc()}")


class Crew:
    """Threads of this process, one for each hand, that hand over batches and wait for them.

    Attributes:
        counted: How many batches were counted by now.
        tallies: What each hand had counted when it was asked last.
    """

    def __init__(self, hands: Sequence[Hand]) -> None:
        """Take the hands; nothing is started yet."""
        self.counted = 0
        self.tallies = [Tally() for _ in hands]
        self._hands = hands
        self._waiting: queue.Queue[Batch | None] = queue.Queue(1)
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._asked = 0
        self._answered = [0] * len(hands)

    def ask(self) -> None:
        """Ask every hand for its tally, once it has finished its batch."""
        self._asked += 1

    @property
    def answered(self) -> bool:
        """Whether ``tallies`` are as asked for last."""
        return min(self._answered) >= self._asked

    def share_out(self, batches: Iterable[Batch], step: Callable[[], None]) -> Tally:
        """Count all batches; return the sum of the tallies.

        At most one batch waits while each hand holds one: memory does not grow with the data.

        Args:
            batches: Read in the caller's thread.
            step: Called in the caller's thread, several times a second unless the data keeps it waiting.

        Raises:
            BaseException: The first error of a hand, of the data, or of ``step``. All hands are closed then, as always.
        """
        threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(len(self._hands))]
        try:
            for thread in threads:
                thread.start()
            for batch in batches:
                self._put(batch, step)
            for _ in self._hands:
                self._put(None, step)
            for thread in threads:
                while thread.is_alive():
                    thread.join(_SECONDS)
                    self._look(step)
            self._look(step)
            return sum(self.tallies, Tally())
        finally:
            for hand in self._hands:
                hand.close()

    def _put(self, batch: Batch | None, step: Callable[[], None]) -> None:
        while True:
            self._look(step)
            try:
                return self._waiting.put(batch, timeout=_SECONDS)
            except queue.Full:
                continue

    def _look(self, step: Callable[[], None]) -> None:
        if self._failures:
            raise self._failures[0]
        step()

    def _serve(self, number: int) -> None:
        hand = self._hands[number]
        try:
            while True:
                asked = self._asked
                if self._answered[number] < asked:
                    self.tallies[number] = hand.tally()
                    self._answered[number] = asked
                try:
                    batch = self._waiting.get(timeout=_SECONDS)
                except queue.Empty:
                    continue
                if batch is None:
                    break
                hand.take(*batch)
                with self._lock:
                    self.counted += 1
            self.tallies[number] = hand.tally()
        except BaseException as error:
            self._failures.append(error)
