"""What waits in a batcher: requests, and the rows that they are made of."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from groundwire.kg.encode import EncodedPair
from groundwire.server.statistics import Record

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Job(Generic[Result]):
    """The rows of one request, which may run in several batches, and the future that its coroutine waits for."""

    size: int
    future: asyncio.Future[list[Result]]
    deadline: float | None
    done: dict[int, Result] = field(default_factory=dict)  # by position in the job
    record: Record = field(default_factory=Record)
    queued: float = field(default_factory=time.perf_counter)
    ran: bool = False

    def start(self, now: float) -> None:
        """Some of its rows run now."""
        if not self.ran:
            self.ran = True
            self.record.queue = now - self.queued

    def deliver(self, position: int, result: Result) -> None:
        """Take the result of a row; the last one completes the job."""
        self.done[position] = result
        if len(self.done) == self.size and not self.future.done():
            self.future.set_result([self.done[place] for place in range(self.size)])

    def fail(self, error: Exception) -> None:
        """Tell the caller of an error, unless it has its results."""
        if not self.future.done():
            self.future.set_exception(error)

    def is_dead(self, now: float) -> bool:
        """Whether nobody waits any more: answered, cancelled, or past its deadline."""
        return self.future.done() or (self.deadline is not None and self.deadline <= now)


@dataclass(slots=True, eq=False)
class Row(Generic[Result]):
    """One row of a request: its `position` there, and its `length` in tokens."""

    encoded: EncodedPair
    length: int
    job: Job[Result]
    position: int
