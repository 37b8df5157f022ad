"""Dynamic batching: rows of many requests share one run of the model.

One asyncio task owns the queue and forms the batches; `infer` only appends to the queue, on the same event loop, so no
state is shared between threads. While a batch runs, rows gather for the next: batches grow with the load by themselves,
and a lone request never waits for company.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from groundwire.kg.encode import EncodedPair
from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.statistics import Record, Statistics

Result = TypeVar("Result")
Run = Callable[[Sequence[EncodedPair]], Awaitable[Sequence[Result]]]

# Padding may take this share of a batch; rows of other lengths wait for the next one.
MAX_PADDING = 0.25
# How far down the queue the owner looks for rows of a similar length, in batches.
WINDOW_BATCHES = 4
# Bounds of the retry hint, in seconds, and the speed that is assumed before the first batch has run.
MIN_RETRY, MAX_RETRY = 0.05, 30.0
INITIAL_TOKENS_PER_SECOND = 10_000.0

_log = logging.getLogger("groundwire.server")


@dataclass(slots=True, eq=False)
class _Job(Generic[Result]):
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
        if not self.future.done():
            self.future.set_exception(error)

    def is_dead(self, now: float) -> bool:
        """Whether nobody waits any more: answered, cancelled, or past its deadline."""
        return self.future.done() or (self.deadline is not None and self.deadline <= now)


@dataclass(slots=True, eq=False)
class _Row(Generic[Result]):
    encoded: EncodedPair
    length: int
    job: _Job[Result]
    position: int


class Batcher(Generic[Result]):
    """Runs rows in batches. Make it, and use it, on one event loop; `close` it there.

    Args:
        run: runs one batch, of at least one row, and gives one result a row.
        limits: `batch_rows`, `batch_tokens` and `queue_rows` apply.
        statistics: where the runs are counted.
    """

    def __init__(self, run: Run[Result], limits: Limits, statistics: Statistics | None = None) -> None:
        self._run = run
        self._statistics = statistics or Statistics()
        self._limits = limits
        self._rows: deque[_Row[Result]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._tokens_per_second = INITIAL_TOKENS_PER_SECOND
        self._owner = asyncio.get_running_loop().create_task(self._own(), name="batcher")

    async def infer(
        self, rows: Sequence[EncodedPair], deadline: float | None = None, record: Record | None = None
    ) -> list[Result]:
        """Results of `rows`, at least one, in their order. `deadline` is in the time of the event loop.

        The time in the queue and in the model goes to `record`.

        When the caller is cancelled, or the deadline passes, the rows that have not run are dropped.

        Raises:
            InvalidRequestError: a row is longer than a batch may be, or the rows would not even fit an empty queue.
            QueueFullError: they do not fit now.
            DeadlineExceededError: the deadline passed first.
            ShuttingDownError: the batcher is closing.
            InferenceError: the model failed on a batch that held one of the rows.
        """
        self._admit(rows)
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        job = _Job(len(rows), future, deadline, record=record or Record())
        self._rows.extend(_Row(row, len(row.ids), job, position) for position, row in enumerate(rows))
        self._wake.set()
        self._statistics.waiting(len(self._rows))
        if deadline is None:
            return await job.future
        try:
            async with asyncio.timeout_at(deadline):
                return await job.future
        except TimeoutError as error:
            raise DeadlineExceededError("the deadline passed before the model's answer was ready") from error

    def __len__(self) -> int:
        """Rows that wait."""
        return len(self._rows)

    def check_room(self, rows: int) -> None:
        """Refuse `rows` more rows when the queue can't take them, before anything is spent on them.

        Raises:
            ShuttingDownError, InvalidRequestError, QueueFullError: as `infer`.
        """
        if self._closing:
            raise ShuttingDownError("the model is being unloaded; try another server")
        if rows > self._limits.queue_rows:
            raise InvalidRequestError(
                "inputs",
                f"need {rows} model rows, more than the queue of {self._limits.queue_rows} can ever hold; send fewer "
                "inputs at once, or ask for fewer probes and no contributions",
            )
        if len(self._rows) + rows > self._limits.queue_rows:
            self._drop_dead()
        if len(self._rows) + rows > self._limits.queue_rows:
            waiting = sum(row.length for row in self._rows)
            retry_after = min(max(waiting / self._tokens_per_second, MIN_RETRY), MAX_RETRY)
            raise QueueFullError(
                f"{len(self._rows)} rows wait for the model and {rows} more do not fit; retry in {retry_after:.2f} s",
                retry_after,
            )

    async def close(self) -> None:
        """Accept nothing more, run what waits, and end the owner."""
        self._closing = True
        self._wake.set()
        await self._owner

    def _admit(self, rows: Sequence[EncodedPair]) -> None:
        longest = max(len(row.ids) for row in rows)
        if longest > self._limits.batch_tokens:
            raise InvalidRequestError(
                "inputs", f"one has {longest} tokens with its evidence; a batch takes {self._limits.batch_tokens}"
            )
        self.check_room(len(rows))

    async def _own(self) -> None:
        """The owner: form a batch, run it, hand out its answers, until closed and empty."""
        while True:
            batch = self._next_batch()
            self._statistics.waiting(len(self._rows))
            if batch:
                await self._run_batch(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _next_batch(self) -> list[_Row[Result]]:
        """Take the oldest row and, of the rows close behind it, those nearest to it in length.

        The oldest row always runs next, so none starves. Rows come sorted by length.
        """
        self._drop_dead()
        if not self._rows:
            return []
        window = [self._rows.popleft() for _ in range(min(len(self._rows), WINDOW_BATCHES * self._limits.batch_rows))]
        oldest = window[0].length
        order = sorted(range(len(window)), key=lambda index: abs(window[index].length - oldest))
        taken = {0}
        longest = tokens = oldest
        for index in order:
            if index == 0:
                continue
            length = window[index].length
            padded = max(longest, length) * (len(taken) + 1)
            too_padded = tokens + length < (1 - MAX_PADDING) * padded
            if len(taken) == self._limits.batch_rows or padded > self._limits.batch_tokens or too_padded:
                break
            taken.add(index)
            longest = max(longest, length)
            tokens += length
        self._rows.extendleft(window[index] for index in reversed(range(len(window))) if index not in taken)
        return sorted((window[index] for index in taken), key=lambda row: row.length)

    def _drop_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        if any(row.job.is_dead(now) for row in self._rows):
            self._rows = deque(row for row in self._rows if not row.job.is_dead(now))

    async def _run_batch(self, batch: list[_Row[Result]]) -> None:
        started = time.perf_counter()
        jobs = {row.job: None for row in batch}
        for job in jobs:
            job.start(started)
        try:
            results = await self._run([row.encoded for row in batch])
        except Exception as error:  # whatever it was, it concerns this batch alone, and the owner must live on
            if not isinstance(error, InferenceError):
                _log.error("bug", exc_info=error)
            for job in jobs:
                job.fail(error if isinstance(error, InferenceError) else InferenceError("the model failed on a batch"))
            return
        elapsed = max(time.perf_counter() - started, 1e-6)
        tokens = sum(row.length for row in batch)
        self._tokens_per_second += 0.2 * (tokens / elapsed - self._tokens_per_second)
        self._statistics.ran(len(batch), tokens, elapsed)
        for job in jobs:
            job.record.infer += elapsed
        for row, result in zip(batch, results, strict=True):
            row.job.deliver(row.position, result)
