"""gRPC carried by pygrpc-native: HTTP/2 in Rust, outside the GIL. The handlers are the same, and run on the event loop.

Through its public low-level interface, which hands over each call as an event. Methods that take one message go that
way; the others it passes on to a grpcio server behind it, over a Unix socket. What it lacks, `ServerConfig` refuses.
"""

import asyncio
import functools
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NoReturn

import grpc
from pygrpc_native import EVENT_CALL, STREAM_CLOSED, STREAM_FULL, NativeGrpcFront

from groundwire.server.interceptor import Handler, Interceptor

_EVENTS_AT_ONCE = 64
_POLL_SECONDS = 0.02  # how often to look whether answers have left, or a slow reader has read
# Between a handler that wants to send and a client that does not read, the pause doubles up to this.
_LONGEST_PAUSE = 0.5

_log = logging.getLogger("groundwire.server")


class NativeServer:
    """What `grpc.aio.server` gives, as far as a server here needs it. For one event loop.

    Args:
        methods: the handlers, by `/package.Service/Method`.
        interceptors: what is around each of them, the outermost first.
        longest: most bytes of a request.
        reuse_port: whether other processes may listen on the same port.
        options: of the grpcio server behind it.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        interceptors: Sequence[Interceptor],
        *,
        longest: int,
        reuse_port: bool,
        options: Sequence[tuple[str, Any]],
    ) -> None:
        self._methods = [
            (path, functools.reduce(lambda inner, outer: outer.wrap(path, inner), reversed(interceptors), handler))
            for path, handler in methods.items()
            if not handler.request_streaming
        ]
        self._longest = longest
        self._reuse_port = reuse_port
        self._behind = grpc.aio.server(interceptors=interceptors, options=options)
        self._socket = tempfile.TemporaryDirectory(prefix="groundwire-")
        self._front: NativeGrpcFront
        self._loop: asyncio.AbstractEventLoop
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unheard = 0
        self._sending: list[_Call] = []  # answered, and somebody waits for the answer to leave
        self._watcher: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are being answered, but for those that the server behind answers."""
        return len(self._tasks)

    @property
    def unheard(self) -> int:
        """Calls that came and whose handlers have not begun."""
        return self._unheard

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add methods that the server behind answers."""
        self._behind.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Generated code calls this too; the generic handlers hold the same methods."""

    def add_insecure_port(self, address: str) -> int:
        """Bind `HOST:PORT` and return the port.

        Raises:
            RuntimeError: the address is in use, or not of this machine.
        """
        try:
            self._front = NativeGrpcFront(
                address,
                [(path, handler.response_streaming) for path, handler in self._methods],
                call_details=True,
                io_threads=1,  # it keeps up with many times what Python answers, and a second one takes its time
                delay_stream_headers=True,  # so that a refusal has a status and no beginning of an answer before it
                keepalive_permit_without_calls=False,
                metrics=True,
                reuse_port=self._reuse_port,
            )
        except OSError as error:
            raise RuntimeError(str(error)) from error
        return self._front.bound_port

    async def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        path = f"{self._socket.name}/grpc"
        self._behind.add_insecure_port(f"unix:{path}")
        await self._behind.start()
        self._front.set_fallback(path)
        self._front.start()
        threading.Thread(target=self._receive, name="native-calls", daemon=True).start()

    async def stop(self, grace: float) -> None:
        """Wait at most `grace` seconds for calls to end and their answers to leave, and end the others."""
        behind = asyncio.ensure_future(self._behind.stop(grace))
        end = self._loop.time() + grace
        while (self._tasks or not self._all_sent()) and self._loop.time() < end:  # noqa: ASYNC110 - the library does not say
            await asyncio.sleep(_POLL_SECONDS)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await behind
        await asyncio.to_thread(self._front.close)
        if self._watcher is not None:  # for a client that did not read its answer in time
            self._watcher.cancel()
        self._tell_sent()
        self._socket.cleanup()

    def _receive(self) -> None:
        """Hand events to the event loop, on a thread that waits for them outside the GIL."""
        with suppress(RuntimeError):  # the loop was closed, and nobody is left to answer
            while (events := self._front.recv_batch_details(_EVENTS_AT_ONCE)) is not None:
                self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: Sequence[tuple[Any, ...]]) -> None:
        for kind, number, method, content, _, details in events:
            if kind == EVENT_CALL:
                call = _Call(number, details, self._loop)
                self._unheard += 1
                handler = self._methods[method][1]
                serve = self._stream if handler.response_streaming else self._answer
                task = self._tasks[number] = self._loop.create_task(self._serve(serve, handler, content, call))
                # Not at the end of `_serve`: a task that is cancelled before its first step runs nothing of it.
                task.add_done_callback(functools.partial(self._ended, call))
            elif number in self._tasks:  # the client left, or its deadline passed
                self._tasks[number].cancel()

    async def _serve(
        self, serve: Callable[[Handler, bytes, "_Call"], Any], handler: Handler, content: bytes, call: "_Call"
    ) -> None:
        """Answer a call, whatever happens. To answer one whose client left does nothing."""
        self._hear(call)
        try:
            if len(content) > self._longest:
                await call.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the request has {len(content)} bytes; at most {self._longest} are taken",
                )
            await serve(handler, content, call)
        except asyncio.CancelledError:
            call.fail(self._front, grpc.StatusCode.CANCELLED, "the call was cancelled")
        except grpc.aio.AbortError:
            call.fail(self._front, *call.status)
        except Exception as error:  # handlers turn theirs into statuses, so this is a bug
            _log.error("bug", exc_info=error)
            call.fail(self._front, grpc.StatusCode.UNKNOWN, "internal error; the server's log has the details")

    def _hear(self, call: "_Call") -> None:
        self._unheard -= not call.heard
        call.heard = True

    def _ended(self, call: "_Call", _task: asyncio.Task[None]) -> None:
        self._hear(call)
        del self._tasks[call.number]
        if call.callbacks:
            self._sending.append(call)
            if self._watcher is None:
                self._watcher = self._loop.create_task(self._watch())

    async def _answer(self, handler: Handler, content: bytes, call: "_Call") -> None:
        self._front.respond(call.number, await handler.unary_unary(content, call))

    async def _stream(self, handler: Handler, content: bytes, call: "_Call") -> None:
        async with aclosing(handler.unary_stream(content, call)) as answers:
            async for answer in answers:
                pause = _POLL_SECONDS
                while (sent := self._front.stream_try_send(call.number, answer)) == STREAM_FULL:
                    # Not `stream_send`, which would keep a thread for as long as the client does not read.
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                if sent == STREAM_CLOSED:
                    return
        self._front.stream_end(call.number)

    async def _watch(self) -> None:
        """Tell calls that their answers have left. Which of them have is not known, only that all have."""
        while self._sending:
            await asyncio.sleep(_POLL_SECONDS)
            if self._all_sent():
                self._tell_sent()
        self._watcher = None

    def _tell_sent(self) -> None:
        sent, self._sending = self._sending, []
        for call in sent:
            call.done()

    def _all_sent(self) -> bool:
        """Whether every call that came has ended on the wire too, but for those that are being answered."""
        methods = (self._front.metrics() or {"methods": {}})["methods"].values()
        open_ = sum(
            method["started"] - sum(ended["count"] for ended in method["status"].values()) for method in methods
        )
        return bool(open_ <= len(self._tasks))


class _Call:
    """A call, and what its handler may ask of it: the part of `grpc.aio.ServicerContext` that handlers here use."""

    __slots__ = ("_deadline", "_details", "_loop", "callbacks", "heard", "number", "status", "trailing")

    def __init__(self, number: int, details: tuple[Any, str, float | None], loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.heard = False
        self.status: tuple[grpc.StatusCode, str] = (grpc.StatusCode.OK, "")
        self.trailing: list[tuple[str, str | bytes]] = []
        self.callbacks: list[Callable[[Any], None]] = []
        self._details = details
        self._loop = loop
        self._deadline = None if details[2] is None else loop.time() + details[2]

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        metadata: tuple[tuple[str, str | bytes], ...] = self._details[0]
        return metadata

    def peer(self) -> str:
        return self._details[1]

    def peer_identities(self) -> None:
        return None

    def code(self) -> grpc.StatusCode:
        return self.status[0]

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        self.status = (code, details)
        self.trailing = list(trailing_metadata)
        raise grpc.aio.AbortError

    def fail(self, front: NativeGrpcFront, code: grpc.StatusCode, message: str) -> None:
        front.fail(self.number, code.value[0], message, trailing_metadata=self.trailing)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def done(self) -> None:
        for callback in self.callbacks:
            callback(self)
