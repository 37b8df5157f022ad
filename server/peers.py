"""Load and unload in several worker processes: a client's call reaches one of them, the change reaches all.

A worker asks the supervisor, which has one change at a time made by the worker that asked, then by all others, and then
lets the call be answered. Lines of JSON go over the pipes that supervisor and workers have anyway; those of a worker
begin with `peers `, as it also prints where it listens:

    worker      {"ask": ID, "operation": "load", "name": NAME}
    supervisor  {"do": NUMBER, "ask": ID or null, "operation": "load", "name": NAME}
    worker      {"did": NUMBER, "error": "", "known": true}
    supervisor  {"asked": ID, "errors": []}
"""

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, Self

from groundwire.errors import GroundwireError
from groundwire.server.config import RepositoryConfig
from groundwire.server.errors import FixedModelsError, InvalidRequestError, ModelLoadError, UnknownModelError
from groundwire.server.model_control import ModelControl
from groundwire.server.service_repository import LocalChanger, Operation

Write = Callable[[dict[str, Any]], None]

PREFIX = b"peers "
_LONGEST = 1000  # characters of an error's text
_log = logging.getLogger("groundwire.server")


class Peers:
    """A worker's end; a `Changer` once a control is attached. `out` leads to the supervisor."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()  # around the loop and what comes before there is one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[str] = []
        self._changer: LocalChanger
        self._asked: dict[int, asyncio.Future[list[str]]] = {}
        self._failures: dict[int, Exception] = {}  # of what this worker asked for itself
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, control: ModelControl) -> Self:
        """Make changes with `control`, on the running event loop, from now on; those that came before are made now."""
        self._changer = LocalChanger(control)
        with self._lock:
            self._loop = asyncio.get_running_loop()
            for line in self._early:
                self._loop.call_soon(self._hear, line)
        return self

    def received(self, line: str) -> None:
        """Take a line of the supervisor. From any thread."""
        with self._lock:
            if self._loop is None:
                self._early.append(line)
            else:
                with suppress(RuntimeError):  # the loop has ended, and the process is about to
                    self._loop.call_soon_threadsafe(self._hear, line)

    async def change(self, operation: Operation, name: str) -> None:
        """As `Changer.change`."""
        self._last += 1
        ask = self._last
        self._asked[ask] = asyncio.get_running_loop().create_future()
        try:
            self._write({"ask": ask, "operation": operation, "name": name})
            errors = await self._asked[ask]
            if ask in self._failures:
                raise self._failures[ask]
            if errors:
                raise ModelLoadError(
                    f"{name}: the {operation} worked in one process, and failed in another: {errors[0]}"
                )
        finally:
            del self._asked[ask]
            self._failures.pop(ask, None)

    def _hear(self, line: str) -> None:
        message = json.loads(line)
        if "do" in message:
            task = asyncio.get_running_loop().create_task(self._do(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (asked := self._asked.get(message["asked"])) is not None and not asked.done():
            asked.set_result(message["errors"])

    def _write(self, message: dict[str, Any]) -> None:
        self._out.write(PREFIX + json.dumps(message).encode() + b"\n")
        self._out.flush()

    async def _do(self, message: dict[str, Any]) -> None:
        failure: Exception | None = None
        try:
            await self._changer.change(message["operation"], message["name"])
        except Exception as error:  # goes to the one that asked
            failure = error
            if not isinstance(error, GroundwireError):
                _log.error("bug", exc_info=error)
            if message["ask"] in self._asked:
                self._failures[message["ask"]] = error
        known = not isinstance(failure, UnknownModelError | InvalidRequestError | FixedModelsError)
        text = ""
        if failure is not None:  # of a bug no more, as to any client; see `groundwire.server.status`
            ours = isinstance(failure, GroundwireError)
            text = str(failure)[:_LONGEST] if ours else "internal error; the server's log has the details"
        self._write({"did": message["do"], "error": text, "known": known})


class Hub:
    """The supervisor's end. For one event loop.

    Args:
        config: the repository that the first workers are started with.
    """

    def __init__(self, config: RepositoryConfig | None) -> None:
        self._config = config
        self._workers: dict[int, Write] = {}  # by process id
        self._doing: dict[tuple[int, int], asyncio.Future[dict[str, Any]]] = {}
        self._changes: dict[str, Operation] = {}  # the last one of each model
        self._lock = asyncio.Lock()
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def config(self) -> RepositoryConfig | None:
        """What a worker that is started now must load."""
        if self._config is None or not self._changes:
            return self._config
        loaded = {name for name, operation in self._changes.items() if operation == "load"}
        unloaded = self._changes.keys() - loaded
        load = tuple(sorted((set(self._config.load) | loaded) - unloaded))
        return dataclasses.replace(self._config, load=load, without=tuple(sorted(unloaded)))

    def join(self, worker: int, write: Write) -> None:
        """A worker was started, with what `config` says now."""
        self._workers[worker] = write

    def leave(self, worker: int) -> None:
        """A worker has ended; nobody waits for it any more."""
        del self._workers[worker]
        for (one, _), doing in self._doing.items():
            if one == worker and not doing.done():
                doing.set_result({"error": "", "known": True})  # its successor loads what all others hold

    def heard(self, worker: int, line: bytes) -> None:
        """Take a line of a worker; one that was cut off, because the worker died, says nothing."""
        if not line.startswith(PREFIX) or not line.endswith(b"\n"):
            return
        message = json.loads(line.removeprefix(PREFIX))
        if "ask" in message:
            task = asyncio.get_running_loop().create_task(self._change(worker, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (doing := self._doing.get((worker, message["did"]))) is not None and not doing.done():
            doing.set_result(message)

    async def _change(self, worker: int, message: dict[str, Any]) -> None:
        ask, operation, name = message["ask"], message["operation"], message["name"]
        async with self._lock:
            did = await self._do(worker, operation, name, ask)
            answers: list[dict[str, Any]] = []
            # Also when it failed: of several versions some may answer, and all workers should hold the same.
            if did["known"]:
                self._changes[name] = operation
                others = [other for other in self._workers if other != worker]
                answers = await asyncio.gather(*(self._do(other, operation, name, None) for other in others))
        errors = [answer["error"] for answer in answers if answer["error"]]
        if worker in self._workers:
            self._workers[worker]({"asked": ask, "errors": errors})

    async def _do(self, worker: int, operation: Operation, name: str, ask: int | None) -> dict[str, Any]:
        if worker not in self._workers:
            return {"error": "", "known": ask is None}
        self._last += 1
        key = (worker, self._last)
        self._doing[key] = asyncio.get_running_loop().create_future()
        try:
            self._workers[worker]({"do": key[1], "ask": ask, "operation": operation, "name": name})
            return await self._doing[key]
        finally:
            del self._doing[key]
