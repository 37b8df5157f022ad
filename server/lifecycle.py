"""What is in flight, and the way to stop: refuse what is new, answer what was accepted."""

import asyncio
from collections.abc import Callable
from typing import Any

from groundwire.server.errors import ShuttingDownError


class Gate:
    """Counts the calls that were accepted. For one event loop."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.in_flight = 0
        self.unheard: Callable[[], int] = lambda: 0  # calls that a transport knows of and that are not inside yet
        self._refused_at = float("-inf")
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> "Gate":
        """Hold one call open, to the end of a `with` block.

        Raises:
            ShuttingDownError: on entering the block: the gate is closed.
        """
        return self

    def __enter__(self) -> None:
        if self.closing.is_set():
            self._refused_at = asyncio.get_running_loop().time()
            raise ShuttingDownError("the server is shutting down; try again, or another server")
        self.in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def alone(self) -> bool:
        """Whether at most one call is inside, the one that asks, and none is known to be coming."""
        return self.in_flight <= 1 and not self.unheard()

    def hold(self, context: Any) -> None:
        """Count a call until gRPC has sent its answer, or given it up. Called from within its `with` block."""
        self.in_flight += 1
        context.add_done_callback(lambda _: self.__exit__())

    async def close(self, seconds: float) -> int:
        """Let nobody in any more, and wait at most `seconds` for those inside. Returns how many are left."""
        self.closing.set()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.in_flight

    async def quiet(self, pause: float, seconds: float) -> None:
        """Wait until no call was refused for `pause` seconds, at most `seconds`.

        A pause that took twice as long does not count: the process had no processor, so calls may wait unheard.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            started = loop.time()
            await asyncio.sleep(pause)
            now = loop.time()
            if (self._refused_at < started and now - started < 2 * pause) or now > end:
                return
