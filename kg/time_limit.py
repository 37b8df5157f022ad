"""A time limit around what a request asks of a store, whatever the store does meanwhile.

Python can't stop a call that waits for a network. So the call is made on a thread of its own, which is left to itself
when the time is up; how many of those there may be at once is bounded, so a dead store costs no more than these.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

from groundwire.kg.errors import GraphError, GraphTimeoutError, GraphUnavailableError

T = TypeVar("T")

_MOST_THREADS = 16  # of one process that wait for stores
_slots = threading.BoundedSemaphore(_MOST_THREADS)
_end: ContextVar[float | None] = ContextVar("_end", default=None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """All calls of `within_limit` in the block together may take `seconds`; a nearer limit around this one stays."""
    end = time.monotonic() + seconds
    outer = _end.get()
    token = _end.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _end.reset(token)


def remaining() -> float | None:
    """Seconds that are left of the limit, at least 0; None without a limit."""
    end = _end.get()
    return None if end is None else max(0.0, end - time.monotonic())


class _Call(threading.Thread, Generic[T]):
    """One call on a daemon thread: one that never ends must not keep the process from ending."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True, name="graph-store")
        self._work = work
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._work())
        except BaseException as error:
            self.error = error
        finally:
            _slots.release()


def within_limit(work: Callable[[], T], name: str) -> T:
    """The result of `work`, which asks the store called `name`.

    Raises:
        GraphTimeoutError: it did not come within the limit that is set around this call.
        GraphUnavailableError: `work` raised something that is no `GraphError`.
    """
    left = remaining()
    if not _slots.acquire(timeout=left):
        raise GraphTimeoutError(f"{name}: {_MOST_THREADS} calls already wait for it; is it overloaded or down?")
    call = _Call(work)
    try:
        call.start()
    except RuntimeError as error:  # no more threads
        _slots.release()
        raise GraphUnavailableError(f"{name} can't be asked: {error}") from error
    call.join(remaining())
    if call.is_alive():
        raise GraphTimeoutError(
            f"{name} did not answer within the time limit; raise the limit, or compile the graph if it is often so slow"
        )
    return _outcome(call, name)


def _outcome(call: "_Call[T]", name: str) -> T:
    if call.error is None:
        return call.result[0]
    if isinstance(call.error, GraphError):
        raise call.error
    raise GraphUnavailableError(f"{name} failed: {type(call.error).__name__}: {call.error}") from call.error
