"""An interceptor that counts and times every call, of every service, by its gRPC status."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from groundwire.server.interceptor import Context, Handler, Interceptor, within
from groundwire.server.metrics import Metrics

_CODES = {status.value[0]: status for status in grpc.StatusCode}


class Observer(Interceptor):
    """Counts calls however they end."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def wrap(self, path: str, handler: Handler) -> Handler:
        """The handler, observed."""
        _, service, method = path.split("/")
        seconds = self._metrics.request_seconds.labels(service, method)
        requests = self._metrics.requests

        @contextmanager
        def observed(context: Context) -> Iterator[None]:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                yield
            except BaseException as error:
                code = call_code(error, context)
                raise
            finally:
                seconds.observe(time.perf_counter() - started)
                requests.labels(service, method, code.name).inc()

        return within(handler, observed)


def call_code(error: BaseException, context: Context) -> grpc.StatusCode:
    """Status of a call that ended with `error`."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.CANCELLED
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    # An exception that set no status is sent as UNKNOWN.
    return _CODES[number] if number else grpc.StatusCode.UNKNOWN
