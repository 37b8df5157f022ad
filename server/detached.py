"""Work on threads that the process does not wait for when it ends: to open large files takes as long as it takes."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

Result = TypeVar("Result")

_log = logging.getLogger("groundwire.server")
_running: set[object] = set()  # of the whole process, as its threads are


async def run_detached(executor: Executor | None, work: Callable[[], Result]) -> Result:
    """Run `work`, which only reads, on a thread of `executor`; without one, on one of the event loop's.

    When the call that waits is cancelled, a thread that has begun goes on, and what it gives is dropped.
    """

    def tracked() -> Result:
        token = object()
        _running.add(token)
        try:
            return work()
        finally:
            _running.discard(token)

    return await asyncio.get_running_loop().run_in_executor(executor, tracked)


def is_running() -> bool:
    """Whether such work is under way."""
    return bool(_running)


def exit_if_running(code: int) -> None:
    """End the process with `code` if such work is under way; else do nothing. An interpreter that ends waits for it."""
    if is_running():
        _log.info("reload abandoned")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
