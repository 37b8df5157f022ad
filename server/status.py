"""The one table from errors to gRPC status codes, with the details of google.rpc that clients act on."""

import logging
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from groundwire.errors import BundleError, GroundwireError
from groundwire.kg.errors import (
    CompiledGraphError,
    GraphError,
    GraphTimeoutError,
    SourceError,
    StoreError,
    UnknownEntityError,
)
from groundwire.server.errors import (
    ConfigurationError,
    DeadlineExceededError,
    FixedModelsError,
    ForbiddenQueryError,
    InferenceError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotReadyError,
    ProviderError,
    QueryFailedError,
    QueryTooLargeError,
    QueueFullError,
    RateLimitedError,
    ShuttingDownError,
    UnauthenticatedError,
    UnknownModelError,
    UnknownServiceError,
    UnsupportedError,
)

_LONGEST = 1000  # bytes of a message, and of a field or its description
DETAILS_KEY = "grpc-status-details-bin"

# An error takes the code of its own class, or of the nearest ancestor that is listed.
CODES: Mapping[type[Exception], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnknownServiceError: grpc.StatusCode.NOT_FOUND,
    ModelNotReadyError: grpc.StatusCode.UNAVAILABLE,
    ModelLoadError: grpc.StatusCode.FAILED_PRECONDITION,
    UnknownEntityError: grpc.StatusCode.NOT_FOUND,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    FixedModelsError: grpc.StatusCode.UNAVAILABLE,  # as Triton answers without explicit model control
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    RateLimitedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ForbiddenQueryError: grpc.StatusCode.PERMISSION_DENIED,
    QueryTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QueryFailedError: grpc.StatusCode.INTERNAL,
    ShuttingDownError: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    SourceError: grpc.StatusCode.FAILED_PRECONDITION,
    CompiledGraphError: grpc.StatusCode.FAILED_PRECONDITION,
    StoreError: grpc.StatusCode.FAILED_PRECONDITION,
    ProviderError: grpc.StatusCode.FAILED_PRECONDITION,
    ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
    GraphTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    GraphError: grpc.StatusCode.UNAVAILABLE,  # a remote store that did not answer
    InferenceError: grpc.StatusCode.INTERNAL,
    GroundwireError: grpc.StatusCode.INTERNAL,
}

_log = logging.getLogger("groundwire.server")


def status_code(error: Exception) -> grpc.StatusCode:
    """Status code of `error`; INTERNAL for an exception that is not ours."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.INTERNAL)


def to_status(error: Exception) -> status_pb2.Status:
    """`error` as a google.rpc.Status with its details.

    An exception that is not ours is a bug of the server: it is logged with its traceback, and the client learns no more
    than that, because its message may tell of the machine.
    """
    code = status_code(error)
    if not isinstance(error, GroundwireError):
        _log.error("bug", exc_info=error)
        return status_pb2.Status(code=code.value[0], message="internal error; the server's log has the details")
    status = status_pb2.Status(code=code.value[0], message=_short(str(error)))
    status.details.extend(_packed(detail) for detail in _details(error))
    return status


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: Exception) -> None:
    """End the call with the status of `error`. Never returns: `context.abort` raises."""
    status = to_status(error)
    await context.abort(
        status_code(error), status.message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),)
    )


def _details(error: GroundwireError) -> list[Message]:
    match error:
        case InvalidRequestError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=_short(error.field), description=_short(error.description)
            )
            return [error_details_pb2.BadRequest(field_violations=[violation])]
        case QueueFullError() | RateLimitedError():
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(error.retry_after * 1e9))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
        case _:
            return []


def _short(text: str) -> str:
    """The text in so few bytes that clients take them: a status travels in headers, which they bound."""
    content = text.encode("utf-8", "replace")
    if len(content) <= _LONGEST:
        return content.decode()
    return content[:_LONGEST].decode("utf-8", "ignore") + "…"


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
