"""Dynamic batching: rows of many requests share one run of the model.

Asyncio tasks, one for each batch that may run at once, own the queue and form the batches; `infer` only appends to the
queue, on the same event loop, so no state is shared between threads. While all of them run, rows gather for the next:
batches grow with the load by themselves, and a lone request does not wait for company, unless a delay is asked for.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic

from groundwire.kg.encode import EncodedPair
from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.jobs import Job, Result, Row
from groundwire.server.priorities import PriorityQueue, company_until, share, wait_for_company
from groundwire.server.run_cost import RunCost
from groundwire.server.statistics import Record, Statistics
from groundwire.server.trace import trace_fields

Run = Callable[[Sequence[EncodedPair]], Awaitable[Sequence[Result]]]
RunNow = Callable[[Sequence[EncodedPair]], Sequence[Result] | None]

# How far down the queue the owner looks for rows of a similar length, in batches.
WINDOW_BATCHES = 4
# Bounds of the retry hint, in seconds.
MIN_RETRY, MAX_RETRY = 0.05, 30.0
# Runs on the event loop in a row. Calls that come meanwhile are not seen until it is free for as long as a run takes on
# the thread; they would run one by one, and never share a batch.
ALONE_IN_A_ROW = 4
# Requests in a row that nobody was beside, before one runs on the event loop. On a busy server one that looks alone is
# so for a moment, and who comes meanwhile is better off with a batch.
QUIET_IN_A_ROW = 8
# What the last digits of floats may make of two batches that cost the same.
_ALIKE = 1 + 1e-9
_TOO_LATE = "the deadline passed before the model's answer was ready"

_log = logging.getLogger("groundwire.server")


class Batcher(Generic[Result]):
    """Runs rows in batches. Make it, and use it, on one event loop; `close` it there.

    Args:
        run: runs one batch, of at least one row, and gives one result a row.
        limits: `batch_rows`, `batch_tokens`, `batch_delay`, `queue_rows`, `priority_levels` and `instances` apply.
        statistics: where the runs are counted.
        cost: what a run costs; learned from the runs when none is given.
        run_now: runs one row on the event loop, or gives none: then it goes through `run`.
        alone: whether the process holds no request but the one that asks; none: that isn't known, and nothing runs on
            the event loop.
    """

    def __init__(
        self,
        run: Run[Result],
        limits: Limits,
        statistics: Statistics | None = None,
        cost: RunCost | None = None,
        run_now: RunNow[Result] | None = None,
        alone: Callable[[], bool] | None = None,
    ) -> None:
        self._run = run
        self._run_now = run_now
        self._alone = alone
        self._statistics = statistics or Statistics()
        self._limits = limits
        self._rows: PriorityQueue[Row[Result]] = PriorityQueue(limits.priority_levels, lambda row: row.job.queued)
        self._wake = asyncio.Event()
        self._running = 0  # batches
        self._quiet_in_a_row = 0  # requests since one had company
        self._alone_in_a_row = 0  # runs on the event loop since the last one on a thread
        self._closing = False
        self._cost = cost or RunCost()
        loop = asyncio.get_running_loop()
        self._owners = [loop.create_task(self._own(), name="batcher") for _ in range(limits.instances)]

    async def infer(
        self,
        rows: Sequence[EncodedPair],
        deadline: float | None = None,
        record: Record | None = None,
        priority: int = 0,
    ) -> list[Result]:
        """Results of `rows`, at least one, in their order. `deadline` is in the time of the event loop.

        `priority` is one of the levels, 1 the highest, or 0. The time in the queue and in the model goes to `record`.

        When the caller is cancelled, or the deadline passes, the rows that have not run are dropped.

        Raises:
            InvalidRequestError: a row is longer than a batch may be, or the rows would not even fit an empty queue.
            QueueFullError: they do not fit now.
            DeadlineExceededError: the deadline passed first.
            ShuttingDownError: the batcher is closing.
            InferenceError: the model failed on a batch that held one of the rows.
        """
        self._admit(rows)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Result]] = loop.create_future()
        job = Job(len(rows), future, deadline, record=record or Record())
        waiting = [Row(row, len(row.ids), job, position) for position, row in enumerate(rows)]
        if self._run_alone(waiting):
            return await future
        self._rows.of(priority).extend(waiting)
        self._wake.set()
        self._statistics.waiting(len(self._rows))
        if deadline is None:
            return await future
        timer = loop.call_at(deadline, job.fail, DeadlineExceededError(_TOO_LATE))
        try:
            return await future
        finally:
            timer.cancel()

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
            waiting = sum(row.length for level in self._rows.levels for row in level)
            runs = -(-len(self._rows) // self._limits.batch_rows)
            seconds = self._cost.seconds(waiting, runs) / self._limits.instances
            retry_after = min(max(seconds, MIN_RETRY), MAX_RETRY)
            raise QueueFullError(
                f"{len(self._rows)} rows wait for the model and {rows} more do not fit; retry in {retry_after:.2f} s",
                retry_after,
            )

    async def close(self) -> None:
        """Accept nothing more, run what waits, and end the owners."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._owners)

    def _admit(self, rows: Sequence[EncodedPair]) -> None:
        longest = max(len(row.ids) for row in rows)
        if longest > self._limits.batch_tokens:
            raise InvalidRequestError(
                "inputs", f"one has {longest} tokens with its evidence; a batch takes {self._limits.batch_tokens}"
            )
        self.check_room(len(rows))

    async def _own(self) -> None:
        """An owner: form a batch, run it, hand out its answers, until closed and empty."""
        while True:
            if self._limits.batch_delay:
                await wait_for_company(self._wake, self._company_until)
            batch = self._next_batch()
            self._statistics.waiting(len(self._rows))
            if batch:
                await self._run_batch(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _company_until(self) -> float | None:
        """Until when the rows that wait may wait for more, in the time of the event loop; none when they should run."""
        self._drop_dead()
        oldest = self._rows.oldest()
        if oldest is None or self._closing or len(self._rows) >= self._limits.batch_rows:
            return None
        rows = [row for level in self._rows.levels for row in level]
        if len(rows) * max(row.length for row in rows) >= self._limits.batch_tokens:
            return None
        return company_until(
            oldest.job.queued, self._limits.batch_delay, ((row.job.queued, row.job.deadline) for row in rows)
        )

    def _next_batch(self) -> list[Row[Result]]:
        """Take the first row and, of those close behind, the ones that waste least with it; see `PriorityQueue.turn`.

        With one priority the first row is the oldest, so it always runs next and none starves. Rows come sorted by
        length. What waits while several instances have nothing to do is shared among them.
        """
        self._drop_dead()
        batch: list[Row[Result]] = []
        most = share(len(self._rows), self._running, self._limits)
        for level in self._rows.turn():
            if len(batch) == most:
                break
            self._take(level, batch, most)
        return sorted(batch, key=lambda row: row.length)

    def _take(self, level: deque[Row[Result]], batch: list[Row[Result]], most_rows: int) -> None:
        """Move rows that fit from the front of a level to the batch: the nearest in length to its first row.

        So many of them that a row wastes least: its share of the run's overhead and of the seconds for padding. What a
        row's own tokens cost can't be saved.
        """
        if len(level) == 1 and not batch:  # nothing to choose, as for most requests of a server with time on its hands
            batch.append(level.popleft())
            return
        window = [level.popleft() for _ in range(min(len(level), WINDOW_BATCHES * self._limits.batch_rows))]
        first = (batch or window)[0].length
        order = sorted(range(len(window)), key=lambda index: abs(window[index].length - first))
        longest = max((row.length for row in batch), default=0)
        tokens = sum(row.length for row in batch)
        least = self._cost.seconds(longest * len(batch) - tokens) / len(batch) if batch else math.inf
        most = 0
        for rows, index in enumerate(order, len(batch) + 1):
            longest = max(longest, window[index].length)
            tokens += window[index].length
            padded = longest * rows
            if rows > most_rows or padded > self._limits.batch_tokens:
                break
            waste = self._cost.seconds(padded - tokens) / rows
            if waste <= least * _ALIKE:
                least, most = waste, rows - len(batch)
        taken = set(order[:most])
        batch += (window[index] for index in order[:most])
        level.extendleft(window[index] for index in reversed(range(len(window))) if index not in taken)

    def _drop_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        self._rows.drop(lambda row: row.job.is_dead(now))

    def _run_alone(self, batch: list[Row[Result]]) -> bool:
        """Run the one row of a request that nobody is beside, at once, if `run_now` does; whether it did."""
        if self._run_now is None or self._alone is None:
            return False
        company = len(batch) > 1 or self._running or len(self._rows) or not self._alone()
        self._quiet_in_a_row = 0 if company else self._quiet_in_a_row + 1
        if self._quiet_in_a_row <= QUIET_IN_A_ROW or self._alone_in_a_row == ALONE_IN_A_ROW or self._limits.batch_delay:
            return False
        job = batch[0].job
        if job.is_dead(asyncio.get_running_loop().time()):
            return False
        started = time.perf_counter()
        self._alone_in_a_row += 1
        try:
            results = self._run_now([row.encoded for row in batch])
            if results is None:
                self._alone_in_a_row -= 1
                return False
            job.start(started)
            self._deliver(batch, results, started)
        except Exception as error:  # as in `_run_batch`
            self._fail(batch, error)
        return True

    async def _run_batch(self, batch: list[Row[Result]]) -> None:
        started = time.perf_counter()
        for job in _jobs(batch):
            job.start(started)
        self._running += 1
        self._alone_in_a_row = 0
        try:
            results = await self._run([row.encoded for row in batch])
            elapsed = self._deliver(batch, results, started)
            self._cost.learn(len(batch) * max(row.length for row in batch), elapsed)
        except Exception as error:  # whatever it was, it concerns this batch alone, and the owner must live on
            self._fail(batch, error)
        finally:
            self._running -= 1

    def _fail(self, batch: list[Row[Result]], error: Exception) -> None:
        jobs = _jobs(batch)
        if not isinstance(error, InferenceError):
            fields = trace_fields(job.record.call for job in jobs)
            _log.error("bug", exc_info=error, extra={"fields": fields})
        for job in jobs:
            job.fail(error if isinstance(error, InferenceError) else InferenceError("the model failed on a batch"))

    def _deliver(self, batch: list[Row[Result]], results: Sequence[Result], started: float) -> float:
        """Hand out results and count the run; returns the seconds that it took."""
        _check_count(results, batch)
        elapsed = max(time.perf_counter() - started, 1e-6)
        self._statistics.ran(len(batch), sum(row.length for row in batch), elapsed)
        for job in _jobs(batch):
            job.record.infer += elapsed
        for row, result in zip(batch, results, strict=True):
            row.job.deliver(row.position, result)
        return elapsed


def _jobs(batch: Sequence[Row[Result]]) -> list[Job[Result]]:
    """The requests that have rows in a batch, each once."""
    return list({row.job: None for row in batch})


def _check_count(results: Sequence[object], batch: Sequence[object]) -> None:
    if len(results) != len(batch):
        raise InferenceError(f"the model gave {len(results)} results for {len(batch)} rows")
