"""A bounded cache of what a store answered: least recently used entries go first, and none outlives its time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class PatternCache(Generic[K, V]):
    """Answers by pattern, from several threads at once.

    Args:
        entries: most answers that are kept; 0 keeps none.
        seconds: how long an answer counts.
        clock: monotonic seconds.
    """

    def __init__(self, entries: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, pattern: K, ask: Callable[[], V]) -> V:
        """The answer to `pattern`: the kept one, or that of `ask`, which is called without the lock.

        What `ask` raises is raised and not kept. An answer that was asked for before `clear` is not kept after it.
        """
        with self._lock:
            found = self._kept.get(pattern)
            if found is not None and self._clock() < found[0]:
                self._kept.move_to_end(pattern)
                return found[1]
            generation = self._generation
        answer = ask()
        with self._lock:
            if self._entries > 0 and generation == self._generation:
                self._kept[pattern] = self._clock() + self._seconds, answer
                self._kept.move_to_end(pattern)
                while len(self._kept) > self._entries:
                    self._kept.popitem(last=False)
        return answer

    def clear(self) -> None:
        """Forget all answers, also those that are being asked for now."""
        with self._lock:
            self._generation += 1
            self._kept.clear()
