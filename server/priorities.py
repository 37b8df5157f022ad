"""Who runs next: a queue for each priority, and the waits that it may cause.

The priority of a request is Triton's (parameter `priority` of the Open Inference Protocol): 1 is the highest, 0 the
default, and a server has a fixed number of levels.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from groundwire.inference import service_pb2
from groundwire.server.config import Limits
from groundwire.server.errors import InvalidRequestError

Item = TypeVar("Item")

# Whoever has waited so long, in seconds, is overdue: every second batch begins with the oldest of them. Every second,
# because with a long queue all are overdue, and priorities would be lost just when they matter.
PATIENCE_SECONDS = 1.0


def default_priority(levels: int) -> int:
    """The level that 0 stands for: the middle one, of two middle ones the higher."""
    return (levels + 1) // 2


def check_priority(priority: int, levels: int, field: str) -> None:
    """Refuse a priority that is no level of this server.

    Raises:
        InvalidRequestError: with the field at fault.
    """
    if not 0 <= priority <= levels:
        allowed = "this server has one level: leave it 0" if levels == 1 else f"1 (first) to {levels} are, and 0"
        raise InvalidRequestError(field, f"is {priority}, which is no priority here; {allowed}")


def requested_priority(parameters: Mapping[str, service_pb2.InferParameter], limits: Limits) -> int:
    """The parameter `priority` of a request; 0 when there is none, and when the server has one level.

    Raises:
        InvalidRequestError: it is no integer, or no level of this server.
    """
    if limits.priority_levels == 1 or "priority" not in parameters:
        return 0
    field = "parameters.priority"
    given = parameters["priority"]
    match given.WhichOneof("parameter_choice"):
        case "uint64_param":
            priority = given.uint64_param
        case "int64_param":
            priority = given.int64_param
        case _:
            raise InvalidRequestError(field, "is not given as uint64_param or int64_param")
    check_priority(priority, limits.priority_levels, field)
    return priority


class PriorityQueue(Generic[Item]):
    """What waits, first in first out in each level.

    Args:
        levels: how many there are.
        queued: when an item came, in the time of `time.perf_counter`.
    """

    def __init__(self, levels: int, queued: Callable[[Item], float]) -> None:
        self.levels: list[deque[Item]] = [deque() for _ in range(levels)]
        self._default = default_priority(levels)
        self._queued = queued
        self._was_overdue = False

    def __len__(self) -> int:
        return len(self.levels[0]) if len(self.levels) == 1 else sum(map(len, self.levels))

    def of(self, priority: int) -> deque[Item]:
        """Where items of a priority wait, 0 to the number of levels."""
        return self.levels[(priority or self._default) - 1]

    def oldest(self) -> Item | None:
        """What has waited longest."""
        return min((level[0] for level in self.levels if level), key=self._queued, default=None)

    def turn(self) -> list[deque[Item]]:
        """The levels in which something waits, in the order in which the next batch takes from them.

        The highest comes first; or, if the batch before did not begin so, that of the oldest overdue item, so that no
        item starves: once it is overdue and the oldest of all, it runs with the next batch or the one after.
        """
        waiting = list(filter(None, self.levels))
        if len(waiting) < 2:
            return waiting
        oldest = min(waiting, key=lambda level: self._queued(level[0]))
        overdue = oldest is not waiting[0] and self._queued(oldest[0]) < time.perf_counter() - PATIENCE_SECONDS
        self._was_overdue = overdue and not self._was_overdue
        return [oldest, *(level for level in waiting if level is not oldest)] if self._was_overdue else waiting

    def drop(self, dead: Callable[[Item], bool]) -> list[Item]:
        """Take out what is dead, and return it."""
        dropped: list[Item] = []
        for place, level in enumerate(self.levels):
            if level and any(map(dead, level)):
                dropped += [item for item in level if dead(item)]
                self.levels[place] = deque(item for item in level if not dead(item))
        return dropped


def share(waiting: int, running: int, limits: Limits) -> int:
    """Most rows that the next batch may take of those `waiting`, while `running` batches run.

    Idle instances share what there is, unless it was made to wait so that it may run together.
    """
    idle = max(1, limits.instances - running)
    return limits.batch_rows if limits.batch_delay else min(limits.batch_rows, max(1, -(-waiting // idle)))


async def wait_for_company(wake: asyncio.Event, end: Callable[[], float | None]) -> None:
    """Wait until `end` says none, or gives a time of the event loop that has passed. It is asked at each `wake`."""
    loop = asyncio.get_running_loop()
    while (until := end()) is not None and loop.time() < until:
        wake.clear()
        try:
            async with asyncio.timeout_at(until):
                await wake.wait()
        except TimeoutError:
            return


def company_until(oldest: float, delay: float, waiting: Iterable[tuple[float, float | None]]) -> float:
    """Until when requests may wait for others to share a run with, in the time of the event loop.

    That is `delay` seconds after the `oldest` came, in the time of `time.perf_counter`; but nobody spends more than
    half of the time to its deadline so, because the rest is for the model. `waiting` are when each came, and its
    deadline in the time of the event loop.
    """
    offset = asyncio.get_running_loop().time() - time.perf_counter()
    ends = [(offset + queued + deadline) / 2 for queued, deadline in waiting if deadline is not None]
    return min([offset + oldest + delay, *ends])
