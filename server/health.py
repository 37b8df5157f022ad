"""grpc.health.v1: whether each service can answer.

Specification: the gRPC health checking protocol. Not the servicer of grpcio-health-checking: with that one a watcher
who does not read keeps the status from changing for everybody, so that the server could not even stop, and of two
watchers of a service the second hears nothing more when the first has left.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from groundwire.server.errors import QueueFullError, UnknownServiceError
from groundwire.server.rpc import Deadline, unary, unary_stream

NAME = "grpc.health.v1.Health"

# Anybody may ask for health, also without a token: what an open watch may hold is little, and there may not be many.
_LONGEST, _MOST_WATCHES, _RETRY_SECONDS = 1024, 1000, 5.0
_Response = health_pb2.HealthCheckResponse


class Health:
    """The status of each service by its name; the empty name stands for the server. For one event loop."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()  # a new one after each change
        self._closed = False
        self._watches = 0

    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name. Answers while the server drains."""
        return {
            "Check": unary(None, health_pb2.HealthCheckRequest, self._check, longest=_LONGEST),
            "Watch": unary_stream(health_pb2.HealthCheckRequest, self._watch, longest=_LONGEST),
        }

    def set(self, service: str, *, serving: bool) -> None:
        """Say from now on that a service can answer, or can't."""
        if not self._closed:
            self._serving[service] = serving
            self._tell()

    def close(self) -> None:
        """Say for good that none can answer any more."""
        self._closed = True
        self._serving = dict.fromkeys(self._serving, False)
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check(
        self, request: health_pb2.HealthCheckRequest, _deadline: Deadline
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._serving:
            raise UnknownServiceError(f"this server offers no service {request.service[:128]!r}")
        return _Response(status=self._status(request.service))

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, _deadline: Deadline
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now, and each other one from then on. What comes and goes while the client reads is left out.

        Raises:
            QueueFullError: too many watch already.
        """
        if self._watches >= _MOST_WATCHES:
            raise QueueFullError(f"{_MOST_WATCHES} watch the health of this server; use Check", _RETRY_SECONDS)
        self._watches += 1
        try:
            told = None
            while True:
                changed, status = self._changed, self._status(request.service)
                if status != told:
                    told = status
                    yield _Response(status=status)
                await changed.wait()
        finally:
            self._watches -= 1

    def _status(self, service: str) -> Any:  # a ServingStatus; the package has no types
        if service not in self._serving:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._serving[service] else _Response.NOT_SERVING
