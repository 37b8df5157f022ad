"""A process that serves until it is told to stop."""

import asyncio
import gc
import logging
import os
import signal

import uvloop

from groundwire.server.app import Server
from groundwire.server.config import ServerConfig
from groundwire.server.detached import exit_if_running
from groundwire.server.peers import Peers

# Allocations before the collector of cycles looks at what is young. A request leaves no cycles, so nearly all that it
# made is gone by then; at Python's 700 every other request would pay for a look at what is still in use.
YOUNG_OBJECTS = 10_000

_log = logging.getLogger("groundwire.server")


def serve(config: ServerConfig, peers: Peers | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Prints `listening on HOST:PORT` to stdout once ready.

    A second signal ends the process at once, unless it has `peers`: then a supervisor does that. Returns the exit code:
    0 when every accepted call was answered.

    Raises:
        GroundwireError: the server can't start; see `Server`.
    """
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is handled: what it asks for is read at the start anyway
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(config, peers))
        exit_if_running(code)
        return code


async def _serve(config: ServerConfig, peers: Peers | None) -> int:
    stopped = asyncio.Event()

    def stop(signal_number: int) -> None:
        if stopped.is_set():
            # Who stops a service signals every process of it, and the supervisor passes its own on: that is one stop.
            if peers is not None:
                return
            os._exit(128 + signal_number)
        _log.info("draining", extra={"fields": {"signal": signal.Signals(signal_number).name}})
        stopped.set()

    reloading: set[asyncio.Task[bool]] = set()  # a task that nobody holds may vanish

    def reload(server: Server) -> None:
        task = loop.create_task(server.reload())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    async with Server(config, peers) as server:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, reload, server)
        print(f"listening on {server.address}", flush=True)
        await stopped.wait()
        for task in reloading:
            task.cancel()
        unanswered = await server.drain()
    _log.info("stopped", extra={"fields": {"unanswered": unanswered}})
    return 1 if unanswered else 0
