"""Interceptors that put something around the handlers of methods."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc

Handler = Any  # grpc.RpcMethodHandler, whose four functions grpc's types leave open
Context = Any
One = Callable[[Any, Context], Awaitable[Any]]
Many = Callable[[Any, Context], AsyncIterator[Any]]

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Interceptor(grpc.aio.ServerInterceptor, ABC):
    """Wraps each method's handler once, when it is first called."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        """The wrapped handler. A method that does not exist has none: anybody can name some."""
        path: str = handler_call_details.method
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[path] = self.wrap(path, handler)
        return self._wrapped[path]

    @abstractmethod
    def wrap(self, path: str, handler: Handler) -> Handler:
        """Put something around the handler of `/package.Service/Method`."""


def around(handler: Handler, one: Callable[[One], One], many: Callable[[Many], Many]) -> Handler:
    """The handler with its function inside another: made by `many` if it generates answers, else by `one`.

    A method with a stream of answers may also be a coroutine that writes them itself.
    """
    kind = _KINDS[2 * handler.request_streaming + handler.response_streaming]
    inner = getattr(handler, kind)
    return handler._replace(**{kind: many(inner) if inspect.isasyncgenfunction(inner) else one(inner)})


def within(handler: Handler, scope: Callable[[Context], AbstractContextManager[None]]) -> Handler:
    """The handler with each call, from its first to its last message, inside `scope(context)`."""

    def one(inner: One) -> One:
        async def handle(request: Any, context: Context) -> Any:
            with scope(context):
                return await inner(request, context)

        return handle

    def many(inner: Many) -> Many:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            with scope(context):
                async for response in inner(request, context):
                    yield response

        return handle

    return around(handler, one, many)
