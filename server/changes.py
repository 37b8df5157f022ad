"""Changes that go on to their end, also when the call that asked for one is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Changes:
    """Those that are under way. For one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish

    @property
    def under_way(self) -> bool:
        """Whether there are any."""
        return bool(self._tasks)

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one to its end. Raises what it raises."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    async def cancel(self) -> None:
        """Cancel all, and wait until they have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio need not complain where the call that waited for it is gone
