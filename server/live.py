"""A value made from files, replaced while the server answers when the files change.

A call takes a lease and works with one value from beginning to end. A new one is opened and checked beside the old one,
put in its place by one assignment, and the old one is closed when the last lease on it ends. Files that can't be used
are refused with a line in the log, and what is there goes on serving.

Files are looked at every few seconds, because where they come from (a volume, a copy job) often can't send signals; who
can, sends SIGHUP and need not wait.
"""

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from groundwire.errors import GroundwireError

Value = TypeVar("Value")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
Signature = tuple[int, ...]

_ATTEMPTS = 5  # to open files that are replaced meanwhile

_log = logging.getLogger("groundwire.server")


class Reloads(Protocol):
    """Told of versions and reloads."""

    def serving(self, version: str) -> None:
        """This version answers from now on."""

    def reloaded(self, *, accepted: bool) -> None:
        """Changed files were taken, or refused."""


class Lease(Generic[Value]):
    """One value and who uses it; a `with` block is one user. All but `run` for one event loop's thread."""

    def __init__(self, value: Value, release: Callable[[Value], None]) -> None:
        self.value = value
        self._release = release
        self._users = 1

    def hold(self) -> None:
        """One user more."""
        self._users += 1

    def drop(self) -> None:
        """One user less; the last one releases the value."""
        self._users -= 1
        if not self._users:
            self._release(self.value)
            del self.value

    def __enter__(self) -> Value:
        self.hold()
        return self.value

    def __exit__(self, *_: object) -> None:
        self.drop()

    async def run(
        self, executor: Executor, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run `work` on a thread. It keeps the lease to its own end, also when the call that waits is cancelled."""
        loop = asyncio.get_running_loop()
        future: Future[Result] = executor.submit(work, *args, **kwargs)
        self.hold()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.drop))
        return await asyncio.wrap_future(future)


class Held(Generic[Value]):
    """A user of a lease, who may hand it on to threads, to the end of a `with` block.

    A class, because a generator costs three times as much.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease[Value]) -> None:
        self._lease = lease

    def __enter__(self) -> Lease[Value]:
        self._lease.hold()
        return self._lease

    def __exit__(self, *_: object) -> None:
        self._lease.drop()


class Fixed(Generic[Value]):
    """A value that is never replaced, and that the caller closes."""

    def __init__(self, value: Value) -> None:
        self._lease = Lease(value, lambda _: None)

    @property
    def value(self) -> Value:
        """The value."""
        return self._lease.value

    def lease(self) -> Held[Value]:
        """As `Live.lease`."""
        return Held(self._lease)


class Live(Generic[Value]):
    """The current value. Make it with `open_live`.

    Args:
        what: its name in the log.
        path: a folder or a file; None for what has none, which only `reload` opens again.
        marker: the file in the folder that tells whether the folder was replaced; empty when `path` is the file.
        open_: makes a value from the files.
        close: releases a value.
        version: the version of a value.
        reloads: told of them.
    """

    def __init__(
        self,
        what: str,
        path: Path | None,
        marker: str,
        open_: Callable[[], Awaitable[Value]],
        close: Callable[[Value], Awaitable[None]],
        version: Callable[[Value], str],
        reloads: Reloads | None = None,
    ) -> None:
        self._what = what
        self._path = path
        self._marker = marker
        self._open = open_
        self._close = close
        self._version = version
        self._reloads = reloads
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._lease: Lease[Value]
        self._tried: Signature | None = None
        self._seen: Signature | None = None

    @property
    def value(self) -> Value:
        """The current value, for what takes no time; a call that waits takes a lease."""
        return self._lease.value

    def lease(self) -> Held[Value]:
        """Keep the current value open until the block ends, whatever replaces it."""
        return Held(self._lease)

    async def start(self) -> None:
        """Open the first value. Raises what opening raises."""
        self._put(await self._open_whole())

    async def reload(self) -> bool:
        """Open the files and put what they give in place of the current value. Whether that worked."""
        async with self._lock:
            before = self._version(self._lease.value)
            try:
                value = await self._open_whole()
            except Exception as error:  # whatever is wrong with the new one, the old one is as good as it was
                fields = {"what": self._what, "error": str(error), "serving": before}
                trace = None if isinstance(error, GroundwireError) else error
                _log.error("reload refused", extra={"fields": fields}, exc_info=trace)
                self._report(accepted=False)
                return False
            old = self._lease
            self._put(value)
            fields = {"what": self._what, "from": before, "to": self._version(value)}
            _log.info("reloaded", extra={"fields": fields})
            self._report(accepted=True)
            old.drop()
            return True

    async def watch(self, seconds: float) -> None:
        """Look at the files every `seconds`, and reload when they are others. For ever."""
        while True:
            await asyncio.sleep(seconds)
            found = self._signature()
            # A folder is replaced by a rename; a file may still be being written, so it must have come to rest.
            settled = bool(self._marker) or found == self._seen
            self._seen = found
            if found is not None and found != self._tried and settled:
                await self.reload()

    async def close(self) -> None:
        """Release everything. No lease may be left."""
        await asyncio.sleep(0)  # threads that ended have said so, and what they said is heard now
        self._lease.drop()
        while self._closing:
            await asyncio.gather(*self._closing)

    def _put(self, value: Value) -> None:
        self._lease = Lease(value, self._release)
        if self._reloads is not None:
            self._reloads.serving(self._version(value))

    async def _open_whole(self) -> Value:
        """Open what belongs together: files that were replaced while they were read are read again."""
        for _ in range(_ATTEMPTS):
            self._tried = self._signature()
            try:
                value = await self._open()
            except GroundwireError:
                if self._signature() == self._tried:
                    raise
                continue
            if self._signature() == self._tried:
                return value
            await self._close(value)
        raise GroundwireError(f"{self._path} changes faster than it can be read; replace it less often")

    def _signature(self) -> Signature | None:
        """What tells one state of the files from another; none while there are none, as for an instant in a rename."""
        if self._path is None:
            return None
        found: list[int] = []
        try:
            for path in (self._path, self._path / self._marker) if self._marker else (self._path,):
                status = path.stat()
                found += (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            return None
        return tuple(found)

    def _report(self, *, accepted: bool) -> None:
        if self._reloads is not None:
            self._reloads.reloaded(accepted=accepted)

    def _release(self, value: Value) -> None:
        task = asyncio.get_running_loop().create_task(self._end(value))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _end(self, value: Any) -> None:
        await self._close(value)
        left = weakref.ref(value)
        del value
        await asyncio.sleep(0)  # the caller's own reference ends meanwhile
        if left() is not None:
            gc.collect()  # a cycle would keep its files mapped until some other day


@asynccontextmanager
async def open_live(live: Live[Value], seconds: float) -> AsyncIterator[Live[Value]]:
    """Open a value, and watch its files every `seconds` until the block ends; 0: only look when told to `reload`."""
    await live.start()
    watcher = asyncio.create_task(live.watch(seconds)) if seconds else None
    try:
        yield live
    finally:
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        await live.close()
