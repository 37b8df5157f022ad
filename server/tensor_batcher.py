"""Dynamic batching of plain tensors: requests of one shape share a run, joined along the first axis.

Like `groundwire.server.batcher`, with one difference: a request's rows stay together, because tensors have no tokens to
sort by, and joining whole requests copies less than cutting them up.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.priorities import PriorityQueue, company_until, share, wait_for_company
from groundwire.server.statistics import Record, Statistics
from groundwire.server.tensors import Array
from groundwire.server.trace import trace_fields

Tensors = Mapping[str, Array]
Run = Callable[[Tensors], Awaitable[dict[str, Array]]]
# Runs the model at once, or gives none where that might hold up the event loop.
RunNow = Callable[[Tensors], dict[str, Array] | None]

# Bounds of the retry hint, in seconds, and the speed that is assumed before the first batch has run.
MIN_RETRY, MAX_RETRY = 0.05, 30.0
INITIAL_ROWS_PER_SECOND = 1_000.0
_INLINE_BYTES = 1 << 20
_TOO_LATE = "the deadline passed before the model's answer was ready"

_log = logging.getLogger("groundwire.server")


@dataclass(slots=True, eq=False)
class _Job:
    inputs: Tensors
    rows: int
    future: asyncio.Future[dict[str, Array]]
    deadline: float | None
    record: Record
    size: int = 0  # of the inputs, in bytes
    queued: float = field(default_factory=time.perf_counter)

    def joins(self, other: "_Job") -> bool:
        """Whether both have the same shapes, but for the first axis."""
        return all(array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items())

    def is_dead(self, now: float) -> bool:
        """Whether nobody waits any more: answered, cancelled, or past its deadline."""
        return self.future.done() or (self.deadline is not None and self.deadline <= now)


class TensorBatcher:
    """Runs requests in batches. Make it, and use it, on one event loop; `close` it there.

    Args:
        run: runs the model once.
        limits: `batch_rows`, `batch_delay`, `queue_rows`, `queue_bytes`, `priority_levels` and `instances` apply.
        statistics: where the runs are counted.
        batched: whether tensors may be joined along the first axis; else each request runs alone, as one row.
        run_now: how to run what takes less time than to wait for a thread; none: everything goes through `run`.
    """

    def __init__(
        self, run: Run, limits: Limits, statistics: Statistics, *, batched: bool, run_now: RunNow | None = None
    ) -> None:
        self._run = run
        self._run_now = run_now
        self._limits = limits
        self._statistics = statistics
        self._batched = batched
        self._jobs: PriorityQueue[_Job] = PriorityQueue(limits.priority_levels, lambda job: job.queued)
        self._waiting = 0  # rows of all jobs
        self._waiting_bytes = 0  # of their inputs
        self._wake = asyncio.Event()
        self._running = 0  # batches
        self._closing = False
        self._rows_per_second = INITIAL_ROWS_PER_SECOND
        loop = asyncio.get_running_loop()
        self._owners = [loop.create_task(self._own(), name="tensor-batcher") for _ in range(limits.instances)]

    async def infer(
        self, inputs: Tensors, deadline: float | None, record: Record, priority: int = 0
    ) -> dict[str, Array]:
        """All outputs of one request. `deadline` is in the time of the event loop.

        `priority` is one of the levels, 1 the highest, or 0. The time in the queue and in the model goes to `record`.

        Raises:
            InvalidRequestError: the inputs differ in their number of rows, or would not even fit an empty queue.
            QueueFullError, DeadlineExceededError, ShuttingDownError: the request was not run.
            InvalidRequestError, InferenceError: the model refused it or failed on it, when it ran alone.
        """
        if self._closing:
            raise ShuttingDownError("the model is being unloaded; try another server")
        rows = self._rows(inputs)
        loop = asyncio.get_running_loop()
        size = sum(map(_bytes, inputs.values()))
        self._check_room(rows, size)
        if not (self._running or len(self._jobs) or self._limits.batch_delay):
            if deadline is not None and deadline <= loop.time():
                raise DeadlineExceededError(_TOO_LATE)
            outputs = self._run_alone(inputs, rows, record)
            if outputs is not None:
                return outputs
        job = _Job(inputs, rows, loop.create_future(), deadline, record, size)
        self._jobs.of(priority).append(job)
        self._count(rows, size)
        self._wake.set()
        if deadline is None:
            return await job.future
        try:
            async with asyncio.timeout_at(deadline):
                return await job.future
        except TimeoutError as error:
            raise DeadlineExceededError(_TOO_LATE) from error

    async def close(self) -> None:
        """Accept nothing more, run what waits, and end the owners."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._owners)

    def _rows(self, inputs: Tensors) -> int:
        if not self._batched:
            return 1
        rows = -1
        for name, array in inputs.items():
            count = array.shape[0]
            if rows < 0:
                rows = count
            elif count != rows:
                raise InvalidRequestError(name, f"has {count} rows, and {next(iter(inputs))} has {rows}")
        return rows

    def _check_room(self, rows: int, size: int) -> None:
        if rows > self._limits.queue_rows:
            raise InvalidRequestError(
                "inputs",
                f"have {rows} rows, more than the queue of {self._limits.queue_rows} can ever hold; send fewer at once",
            )
        if size > self._limits.queue_bytes:
            raise InvalidRequestError(
                "inputs",
                f"take {size} bytes, more than the {self._limits.queue_bytes} that may wait for the model; send fewer "
                "rows at once",
            )
        if not self._fits(rows, size):
            self._drop_dead()
        if not self._fits(rows, size):
            seconds = self._waiting / self._rows_per_second / self._limits.instances
            retry_after = min(max(seconds, MIN_RETRY), MAX_RETRY)
            what = (
                f"{self._waiting} rows wait for the model and {rows} more do not fit"
                if self._waiting + rows > self._limits.queue_rows
                else f"{self._waiting_bytes} bytes of tensors wait for the model and {size} more do not fit into the "
                f"{self._limits.queue_bytes} bytes of its queue"
            )
            raise QueueFullError(f"{what}; retry in {retry_after:.2f} s", retry_after)

    def _fits(self, rows: int, size: int) -> bool:
        return (
            self._waiting + rows <= self._limits.queue_rows and self._waiting_bytes + size <= self._limits.queue_bytes
        )

    def _count(self, rows: int, size: int) -> None:
        self._waiting += rows
        self._waiting_bytes += size
        self._statistics.waiting(self._waiting)

    def _run_alone(self, inputs: Tensors, rows: int, record: Record) -> dict[str, Array] | None:
        """Run a request that nothing is before, at once where that is quick; none where it is not known to be.

        Such a run takes less than the way through the queue, and requests come to the event loop one after another.
        """
        started = time.perf_counter()
        try:
            outputs = self._run_now(inputs) if self._run_now is not None else None
            if outputs is None:
                return None
            if self._batched:
                _check_rows(outputs, rows)
        except Exception as error:
            raise _known(error, record) from error
        record.infer = self._ran(rows, started)
        return outputs

    def _ran(self, rows: int, started: float) -> float:
        """Count a run; returns what it took."""
        elapsed = max(time.perf_counter() - started, 1e-6)
        self._rows_per_second += 0.2 * (rows / elapsed - self._rows_per_second)
        self._statistics.ran(rows, 0, elapsed)
        return elapsed

    async def _own(self) -> None:
        while True:
            if self._limits.batch_delay and self._batched:
                await wait_for_company(self._wake, self._company_until)
            batch = self._next_batch()
            if batch:
                await self._run_batch(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _company_until(self) -> float | None:
        """As `Batcher` waits."""
        self._drop_dead()
        oldest = self._jobs.oldest()
        if oldest is None or self._closing or self._waiting >= self._limits.batch_rows:
            return None
        jobs = [job for level in self._jobs.levels for job in level]
        return company_until(oldest.queued, self._limits.batch_delay, ((job.queued, job.deadline) for job in jobs))

    def _next_batch(self) -> list[_Job]:
        """The first request, and those behind it that have its shape and still fit. The others keep their order.

        With one priority the first is the oldest; see `PriorityQueue.turn`. Instances share as those of `Batcher` do.
        """
        self._drop_dead()
        most = share(self._waiting, self._running, self._limits)
        batch: list[_Job] = []
        rows = 0
        for level in self._jobs.turn():
            left: list[_Job] = []
            while level and (not batch or (self._batched and rows < most)):
                job = level.popleft()
                if not batch or (rows + job.rows <= most and job.joins(batch[0])):
                    batch.append(job)
                    rows += job.rows
                else:
                    left.append(job)
            level.extendleft(reversed(left))
        self._count(-rows, -sum(job.size for job in batch))
        return batch

    def _drop_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        dead = self._jobs.drop(lambda job: job.is_dead(now))
        if dead:
            self._count(-sum(job.rows for job in dead), -sum(job.size for job in dead))

    async def _run_batch(self, batch: list[_Job]) -> None:
        started = time.perf_counter()
        for job in batch:
            job.record.queue = started - job.queued
        rows = sum(job.rows for job in batch)
        try:
            self._running += 1
            inputs = await _join(batch)
            outputs = self._run_now(inputs) if self._run_now is not None else None
            if outputs is None:
                outputs = await self._run(inputs)
            if self._batched:
                _check_rows(outputs, rows)
        except Exception as error:  # whatever it was, it concerns this batch alone, and the owner must live on
            if len(batch) > 1:
                await self._run_each(batch)
                return
            if not batch[0].future.done():
                batch[0].future.set_exception(_known(error, batch[0].record))
            return
        finally:
            self._running -= 1
        elapsed = self._ran(rows, started)
        at = 0
        for job in batch:
            job.record.infer = elapsed
            part = slice(at, at := at + job.rows)
            if not job.future.done():
                job.future.set_result(
                    {name: array[part] for name, array in outputs.items()} if self._batched else outputs
                )

    async def _run_each(self, batch: list[_Job]) -> None:
        """Run requests alone after they failed together: one may be at fault, and the others must not pay for it."""
        for job in batch:
            if not job.is_dead(asyncio.get_running_loop().time()):
                await self._run_batch([job])


async def _join(batch: Sequence[_Job]) -> Tensors:
    """The rows of all jobs, one job's after another's."""
    first = batch[0].inputs
    if len(batch) == 1:
        return first

    def join() -> Tensors:
        return {name: np.concatenate([job.inputs[name] for job in batch]) for name in first}

    # To copy much takes milliseconds, which the event loop has not.
    return join() if sum(job.size for job in batch) <= _INLINE_BYTES else await asyncio.to_thread(join)


def _check_rows(outputs: Tensors, rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise InferenceError(
                f"the model gave {name} the shape {list(array.shape)} for {rows} rows: its first axis is no batch axis"
            )


def _known(error: Exception, record: Record) -> Exception:
    """What a client is told of a run that failed. What nobody expected is logged."""
    if isinstance(error, InferenceError | InvalidRequestError):
        return error
    _log.error("bug", exc_info=error, extra={"fields": trace_fields([record.call])})
    return InferenceError("the model failed on a batch")


def _bytes(array: Array) -> int:
    """What an input takes in memory; of strings, what they hold and the references to them."""
    return array.nbytes if array.dtype != object else array.nbytes + sum(map(len, array.flat))
