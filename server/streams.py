"""A stream of requests, answered several at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from groundwire.server.errors import ShuttingDownError
from groundwire.server.lifecycle import Gate

Response = TypeVar("Response")

_CLOSING = b"closing"  # compared by identity, so it can't be mistaken for a message


async def answer_all(
    contents: AsyncIterator[bytes],
    answer: Callable[[bytes], Awaitable[Response]],
    gate: Gate,
    *,
    in_flight: int,
    ordered: bool,
) -> AsyncIterator[Response]:
    """Answer each message of a stream, at most `in_flight` at once.

    Answers come in the order of the messages when `ordered`, else in order of completion. `answer` turns what goes
    wrong with a message into an answer; it does not raise.

    A client that does not read its answers is not read from either: a slot is free once its answer was sent. When
    the server shuts down, what was read is answered and the stream ends.

    Raises:
        ShuttingDownError: after the last answer, when the client had not ended the stream.
    """
    answers: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(in_flight)

    async def run(content: bytes) -> Response:
        return await answer(content)

    async def read() -> bool:
        """Read and answer; whether the client ended the stream, and not the server's shutdown."""
        try:
            async with asyncio.TaskGroup() as group:
                while (content := await _next(contents, slots, gate)) is not None:
                    if content is _CLOSING:
                        return False
                    task = group.create_task(run(content))
                    if ordered:
                        answers.put_nowait(task)
                    else:
                        # The group's own callback came first, so it has this one's answer before it ends.
                        task.add_done_callback(answers.put_nowait)
            return True
        finally:
            answers.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            await asyncio.wait((task,))
            if task.cancelled():  # reading failed, and the reader says below with what
                break
            yield task.result()
            slots.release()
        if not await reader:
            raise ShuttingDownError("the server is shutting down; send what is unanswered to another one")
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _next(contents: AsyncIterator[bytes], slots: asyncio.Semaphore, gate: Gate) -> bytes | None:
    """The next message of a stream once a slot is free; none at its end, `_CLOSING` when the server shuts down."""
    await slots.acquire()
    following = asyncio.create_task(_read(contents))
    closing = asyncio.create_task(gate.closing.wait())
    try:
        await asyncio.wait({following, closing}, return_when=asyncio.FIRST_COMPLETED)
        return following.result() if following.done() else _CLOSING
    finally:
        following.cancel()
        closing.cancel()


async def _read(contents: AsyncIterator[bytes]) -> bytes | None:
    return await anext(contents, None)
