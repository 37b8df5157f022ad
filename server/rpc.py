"""Methods as gRPC handlers: parse, let in, run, and turn every error into its status.

Messages are parsed here and not by gRPC, which answers bytes that are no message with UNKNOWN and logs a traceback.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from groundwire.server.errors import InvalidRequestError
from groundwire.server.lifecycle import Gate
from groundwire.server.status import abort
from groundwire.server.wire import MOST_FIELDS, has_too_many_fields

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
# The deadline of a call in the time of the event loop, or none.
Deadline = float | None
_LARGE = 1 << 16  # bytes of an answer that may not leave at once
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, Any]"


def parse(kind: type[Request], content: bytes) -> Request:
    """Parse a message.

    Raises:
        InvalidRequestError: `content` is not one, or has too many fields to be read.
    """
    if has_too_many_fields(content, kind):
        raise InvalidRequestError(
            "", f"the request has more than {MOST_FIELDS} fields; send fewer at once, and tensors as raw_input_contents"
        )
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise InvalidRequestError(
            "", f"the request is not a valid {kind.DESCRIPTOR.full_name}; note that strings must be UTF-8"
        ) from error


def unary(
    gate: Gate | None,
    kind: type[Request],
    method: Callable[[Request, Deadline], Awaitable[Response]],
    longest: int = 0,
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A handler that answers one message of `kind` with one message; without a gate, also while the server drains.

    Messages of more than `longest` bytes are refused, unless that is 0.
    """

    entry = gate.enter() if gate else nullcontext()

    async def handle(content: bytes, context: Context) -> bytes | None:
        try:
            _check_length(content, longest)
            with entry:
                answer = (await method(parse(kind, content), _deadline(context))).SerializeToString()
                if gate and len(answer) > _LARGE:  # to be sent takes time, which a server that stops must wait
                    gate.hold(context)
                return answer
        except Exception as error:  # the one place where errors become statuses
            await abort(context, error)
            return None

    return grpc.unary_unary_rpc_method_handler(handle)


def unary_stream(
    kind: type[Request], method: Callable[[Request, Deadline], AsyncIterator[Response]], longest: int
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A handler that answers one message of `kind` with a stream of messages, also while the server drains.

    A message of more than `longest` bytes is refused: gRPC keeps it as long as the stream lasts.
    """

    async def handle(content: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            _check_length(content, longest)
            async for response in method(parse(kind, content), _deadline(context)):
                yield response.SerializeToString()
        except Exception as error:  # as above
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


def stream(
    gate: Gate, method: Callable[[AsyncIterator[bytes], Deadline], AsyncIterator[Response]]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A handler that answers a stream of messages, which `method` parses itself, with a stream of messages."""

    async def handle(contents: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            with gate.enter():
                async for response in method(contents, _deadline(context)):
                    yield response.SerializeToString()
        except Exception as error:  # as above
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


def _check_length(content: bytes, longest: int) -> None:
    if longest and len(content) > longest:
        raise InvalidRequestError("", f"the request has {len(content)} bytes; at most {longest} are taken")


def _deadline(context: Context) -> Deadline:
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining
