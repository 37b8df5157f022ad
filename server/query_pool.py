"""SPARQL queries on a store, evaluated in processes that are killed when a query runs too long or its caller leaves.

The processes are started afresh and never forked (gRPC has threads), open the store for reading only, and share it
through the page cache. A query waits for a free one within its own time.
"""

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from groundwire.kg.errors import StoreError
from groundwire.kg.store import DATABASE, StoreInfo, store_info
from groundwire.server.config import QueryLimits
from groundwire.server.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueryFailedError,
    QueryTooLargeError,
    QueueFullError,
)
from groundwire.server.query_worker import HEADER, Outcome
from groundwire.server.sparql import FIELD, check_query
from groundwire.v1 import knowledge_pb2

_BUFFER = 1 << 20  # bytes read ahead from a worker

_log = logging.getLogger("groundwire.server")


class QueryPool:
    """Answers queries from the store in the folder `path`. For one event loop; `open` it first, `close` it last."""

    def __init__(self, path: Path, limits: QueryLimits | None = None) -> None:
        self.path = path
        self.limits = limits or QueryLimits()
        self.info: StoreInfo
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker(path, self.limits) for _ in range(self.limits.workers)]
        self._waiting = 0

    async def open(self) -> "QueryPool":
        """Read what the store is, and start one worker on it; the others start when they are needed.

        Raises:
            StoreError: the folder is no query store, or can't be opened.
        """
        first = self._workers[0]
        try:
            await first.start()
        except BaseException:
            first.kill()
            raise
        self.info = first.info
        if not first.isolated:
            _log.warning(
                "query workers run without a kernel's filter against network access; queries are still refused by text"
            )
        for worker in reversed(self._workers):
            self._idle.put_nowait(worker)
        return self

    async def close(self) -> None:
        """End all workers; no query may be under way."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def query(self, request: knowledge_pb2.QueryRequest, deadline: float | None) -> knowledge_pb2.QueryResponse:
        """Answer a query. A call that is cancelled frees its worker. `deadline` is in the time of the event loop.

        Raises:
            InvalidRequestError: the query is no SPARQL 1.1, too long or too deep, or another field is out of range.
            ForbiddenQueryError: it would write or reach the network.
            QueueFullError: too many wait already.
            DeadlineExceededError: it did not end in time.
            QueryTooLargeError: the answer is too large, or its evaluation takes too much memory.
            StoreError: the store can't be read; the message may name its files.
            QueryFailedError: the answer can't be given.
        """
        limits = self.limits
        check_query(request.query, limits)
        if request.max_rows > limits.rows:
            raise InvalidRequestError("max_rows", f"is {request.max_rows}; 0 to {limits.rows} are allowed")
        if not 0 <= request.timeout_seconds <= limits.seconds:
            raise InvalidRequestError(
                "timeout_seconds", f"is {request.timeout_seconds}; 0 to {limits.seconds:g} are allowed"
            )
        if self._waiting >= limits.waiting:
            raise QueueFullError(f"{self._waiting} queries wait already; try again later", retry_after=1.0)
        seconds = request.timeout_seconds or limits.seconds
        end = asyncio.get_running_loop().time() + seconds
        end = end if deadline is None else min(end, deadline)
        try:
            async with asyncio.timeout_at(end), self._worker() as worker:
                return await worker.ask(request.query, request.max_rows or limits.rows, seconds)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the query did not end within its time, at most {seconds:g} seconds; ask for less"
            ) from error

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator["_Worker"]:
        self._waiting += 1
        try:
            worker = await self._idle.get()
        finally:
            self._waiting -= 1
        try:
            yield worker
        except BaseException:
            # Cancelled or timed out, it may still be evaluating; after an error of its own it may be ending.
            if worker.busy:
                worker.kill()
            raise
        finally:
            self._idle.put_nowait(worker)


class _Worker:
    """One process; started again, when it is next needed, after it ended or was killed."""

    def __init__(self, path: Path, limits: QueryLimits) -> None:
        self.info: StoreInfo
        self.isolated = False
        self.busy = False
        self._path = path
        self._limits = limits
        self._process: _Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it has opened the store.

        Raises:
            StoreError: it can't.
        """
        # Read before and after: the folder may be replaced at any moment, and an answer must name the store it is of.
        info = await asyncio.to_thread(store_info, self._path)
        while True:
            self.busy = True
            process = self._process = await _Process.start()
            settings = {"path": str(self._path / DATABASE), "memory_bytes": self._limits.memory_bytes}
            outcome, content = await self._exchange(process, settings)
            after = await asyncio.to_thread(store_info, self._path)
            if after == info:
                break
            info = after
            self.kill()
        if outcome is not Outcome.READY:
            self.kill()
            raise StoreError(f"{content.decode()}; make the store again with `groundwire kg store`")
        self.info, self.isolated = info, json.loads(content)["isolated"]
        self.busy = False

    async def ask(self, query: str, rows: int, seconds: float) -> knowledge_pb2.QueryResponse:
        """Evaluate one query."""
        if self._process is None or self._process.ended():
            await self.start()
        assert self._process is not None
        self.busy = True
        request = {"query": query, "rows": rows, "answer_bytes": self._limits.answer_bytes, "seconds": seconds}
        outcome, content = await self._exchange(self._process, request)
        self.busy = False
        match outcome:
            case Outcome.ANSWER:
                response = knowledge_pb2.QueryResponse.FromString(content)
                response.graph_version = self.info.version
                response.source_hashes.update(self.info.source_hashes)
                return response
            case Outcome.INVALID:
                raise InvalidRequestError(FIELD, content.decode())
            case Outcome.TOO_LARGE:
                raise QueryTooLargeError(content.decode())
            case Outcome.UNREADABLE:
                raise StoreError(content.decode())
            case _:
                raise QueryFailedError(content.decode())

    async def _exchange(self, process: "_Process", request: dict[str, object]) -> tuple[Outcome, bytes]:
        try:
            process.writer.write(json.dumps(request).encode() + b"\n")
            await process.writer.drain()
            outcome, size = HEADER.unpack(await process.reader.readexactly(HEADER.size))
            return Outcome(outcome), await process.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await process.wait()
            how = signal.Signals(-code).name if code < 0 else f"code {code}"
            _log.error("query worker ended", extra={"fields": {"worker": process.pid, "how": how}})
            raise QueryTooLargeError(
                f"evaluating the query ended its process ({how}): most likely it needs more than "
                f"{self._limits.memory_bytes} bytes of memory, or is nested too deep; ask for less"
            ) from error

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self.busy = False
        if self._process is not None:
            self._process.kill()
        self._process = None

    async def close(self) -> None:
        """End the process and wait for its end."""
        process = self._process
        self.kill()
        if process is not None:
            await process.wait()


class _Process:
    """A process and a socket that is its stdin and its stdout.

    By subprocess and not by the event loop: uvloop forks, and then gRPC's handlers for forks run in the midst of calls.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.pid = process.pid
        self._process = process

    @staticmethod
    async def start() -> "_Process":
        """Start it; it says by itself when it is ready."""
        process, ours = _spawn()
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_BUFFER)
        except BaseException:
            process.kill()
            ours.close()
            raise
        return _Process(process, reader, writer)

    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once."""
        self.writer.close()
        self._process.kill()
        # Its end takes the kernel a moment, and must be waited for by somebody.
        asyncio.get_running_loop().run_in_executor(None, self._process.wait)

    async def wait(self) -> int:
        """The exit code at its end; minus the signal that ended it."""
        return await asyncio.to_thread(self._process.wait)


def _spawn() -> tuple["subprocess.Popen[bytes]", socket.socket]:
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "groundwire.server.query_worker"],
            stdin=its.fileno(),
            stdout=its.fileno(),
            start_new_session=True,  # Ctrl-C in a terminal is for the server
        )
    return process, ours
