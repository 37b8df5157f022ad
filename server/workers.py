"""Several server processes on one port, and the supervisor that keeps them alive.

The kernel spreads connections over the processes (SO_REUSEPORT). Each is started afresh and never forked, because gRPC
and ONNX Runtime have threads that would not survive a fork. They share the compiled graph through the page cache.
"""

import asyncio
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE, Process
from contextlib import ExitStack, suppress

from prometheus_client.multiprocess import mark_process_dead

from groundwire.errors import GroundwireError
from groundwire.server.config import ServerConfig, split_address
from groundwire.server.errors import ConfigurationError
from groundwire.server.logs import configure_logging
from groundwire.server.main import serve
from groundwire.server.metrics import MULTIPROCESS_DIR, collect_files, exposed
from groundwire.server.peers import Hub, Peers

# A worker that dies again and again is started again after this pause, which doubles up to the longest one.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# A worker that lived this long, in seconds, was healthy.
HEALTHY = 10.0

_log = logging.getLogger("groundwire.server")


def supervise(config: ServerConfig, workers: int) -> int:
    """Serve with `workers` processes until SIGTERM or SIGINT, which every worker answers by draining.

    Prints `listening on HOST:PORT` to stdout once all are ready. A worker that dies is replaced. A second signal ends
    all at once. Returns the exit code: 0 when every worker answered all that it had accepted.

    Raises:
        ConfigurationError: the address is in use, or a worker can't start; its own message is on stderr.
    """
    holder, address = _reserve(config.listen)
    with ExitStack() as stack:
        stack.enter_context(holder)
        folder = ""
        if config.metrics:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="groundwire-metrics-"))
            at = stack.enter_context(exposed(collect_files(folder), config.metrics))
            _log.info("metrics", extra={"fields": {"address": at}})
        at_once = workers * config.limits.instances
        threads = config.threads or max(1, len(os.sched_getaffinity(0)) // at_once)
        config = dataclasses.replace(config, listen=address, threads=threads, reuse_port=True)
        return asyncio.run(_Supervisor(config, workers, folder).run())


class _Supervisor:
    def __init__(self, config: ServerConfig, workers: int, metrics: str) -> None:
        self._config = config
        self._metrics = metrics  # folder of the workers' metrics, or empty
        self._workers = workers
        self._processes: dict[int, Process] = {}
        self._listening: set[int] = set()  # by process id
        self._stale: set[int] = set()  # those that are starting, and may have read files that changed since
        self._stopping = asyncio.Event()
        self._hub = Hub(config.repository)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        ready = [asyncio.Event() for _ in range(self._workers)]
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(slot, event)) for slot, event in enumerate(ready)]
                for event in ready:
                    await event.wait()
                if not self._stopping.is_set():
                    print(f"listening on {self._config.listen}", flush=True)
        except* ConfigurationError as errors:
            raise errors.exceptions[0] from None
        finally:
            for process in self._processes.values():
                _send(process, signal.SIGKILL)
        return max(keeper.result() for keeper in keepers)

    def _stop(self, number: int) -> None:
        second = self._stopping.is_set()
        self._stopping.set()
        for process in self._processes.values():
            _send(process, signal.SIGKILL if second else signal.SIGTERM)
        if second:
            os._exit(128 + number)
        _log.info("draining", extra={"fields": {"signal": signal.Signals(number).name}})

    def _reload(self) -> None:
        """Pass the signal on, to a worker that is starting when it listens: before, the signal would end it."""
        for process in self._processes.values():
            if process.pid in self._listening:
                _send(process, signal.SIGHUP)
            else:
                self._stale.add(process.pid)

    async def _keep(self, slot: int, ready: asyncio.Event) -> int:
        """Keep one worker alive until the supervisor stops. Returns the exit code of the last one."""
        pause = 0.0
        while True:
            started = time.monotonic()
            try:
                process = await self._start(slot, ready)
            except OSError as error:  # no memory, process or file left for it now
                why = error.strerror or str(error)
                if not ready.is_set():
                    raise ConfigurationError(f"a worker can't be started: {why}.") from error
                pause = _longer(pause)
                _log.error("worker can't be started", extra={"fields": {"error": why, "restart_in": pause}})
                if await self._stops_within(pause):
                    return 0
                continue
            code = await process.wait()
            del self._processes[slot]
            if self._metrics:
                # Its queue is gone; what it counted stays.
                mark_process_dead(process.pid, self._metrics)  # type: ignore[no-untyped-call]
            if self._stopping.is_set():
                ready.set()
                # One that the signal ended while it was starting had accepted nothing.
                return int(code != 0 and (code != -signal.SIGTERM or process.pid in self._listening))
            if not ready.is_set():
                raise ConfigurationError("a worker could not start; its message is above.")
            self._listening.discard(process.pid)
            self._stale.discard(process.pid)
            healthy = time.monotonic() - started > HEALTHY
            pause = SHORTEST_PAUSE if healthy else _longer(pause)
            _log.error("worker died", extra={"fields": {"worker": process.pid, "exit": code, "restart_in": pause}})
            if await self._stops_within(pause):
                return 0

    async def _stops_within(self, seconds: float) -> bool:
        """Wait so long; whether the supervisor stops before that."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _start(self, slot: int, ready: asyncio.Event) -> Process:
        """Start a worker and read its output to the end; `ready` is set when it listens."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "groundwire.server.workers",
            stdin=PIPE,
            stdout=PIPE,
            # Ctrl-C in a terminal reaches the supervisor alone; it tells the workers once.
            start_new_session=True,
            env=os.environ | ({MULTIPROCESS_DIR: self._metrics} if self._metrics else {}),
        )
        self._processes[slot] = process
        if self._stopping.is_set():  # the signal came while the process was made
            process.terminate()
        assert process.stdin is not None
        assert process.stdout is not None
        # The pipe stays open: a worker that reads its end knows that the supervisor is gone.
        stdin = process.stdin
        config = dataclasses.replace(self._config, repository=self._hub.config())
        stdin.write(config.to_json().encode() + b"\n")
        self._hub.join(process.pid, lambda message: stdin.write(json.dumps(message).encode() + b"\n"))
        try:
            async for line in process.stdout:
                if line.startswith(b"listening on "):
                    self._heard_listening(process)
                    ready.set()
                else:
                    self._hub.heard(process.pid, line)
        except (ValueError, KeyError, TypeError) as error:  # a line that is too long, or not what a worker says
            _log.error("worker misspoke", exc_info=error, extra={"fields": {"worker": process.pid}})
            _send(process, signal.SIGKILL)
        self._hub.leave(process.pid)
        return process

    def _heard_listening(self, process: Process) -> None:
        _log.info("worker ready", extra={"fields": {"worker": process.pid}})
        self._listening.add(process.pid)
        if process.pid in self._stale:
            self._stale.discard(process.pid)
            _send(process, signal.SIGHUP)


def _longer(pause: float) -> float:
    return min(max(2 * pause, SHORTEST_PAUSE), LONGEST_PAUSE)


def _send(process: Process, number: signal.Signals) -> None:
    """Send a signal, if the process is still there."""
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _reserve(listen: str) -> tuple[socket.socket, str]:
    """Take the port, to hold it while workers come and go. Returns its holder, and the address with the real port."""
    host, port = split_address(listen)
    holder = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        # A server of another start would share the port without a word, so make sure that it is free.
        socket.create_server(address[:2], family=family).close()
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        if holder is not None:
            holder.close()
        raise ConfigurationError(
            f"can't listen on {listen}: {error.strerror or error}. Choose another with --listen; 0 takes a free port."
        ) from error
    return holder, f"{host}:{holder.getsockname()[1]}"


def _worker() -> int:
    """The main program of a worker: settings on the first line of stdin, then serve until told, or left alone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it
    configure_logging()
    config = ServerConfig.from_json(sys.stdin.readline())
    peers = Peers(sys.stdout.buffer)

    def watch() -> None:
        for line in sys.stdin:
            peers.received(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-supervisor", daemon=True).start()
    try:
        return serve(config, peers)
    except GroundwireError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(_worker())
