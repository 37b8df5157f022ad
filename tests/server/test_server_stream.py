"""PredictStream: every answer carries its id, errors stay with their item, slow readers are waited for."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from serving import TEXTS, Direct, only_pipeline, until

from groundwire.server.app import BackgroundServer, Server
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.config import Limits, ServerConfig
from groundwire.v1 import prediction_pb2

Item = prediction_pb2.PredictStreamRequest


def item(number: int, text: str = "", **fields) -> Item:
    text = text or f"{TEXTS[number % len(TEXTS)]} {number}"
    return Item(id=f"request-{number}", input=prediction_pb2.PredictInput(id=str(number), text=text), **fields)


def test_each_answer_is_that_of_its_request(client: Client, direct: Direct) -> None:
    count = 300
    answers = {answer.id: answer for answer in client.predict_stream(item(number) for number in range(count))}
    assert len(answers) == count
    for number in range(count):
        answer = answers[f"request-{number}"]
        assert answer.prediction.id == str(number)
        assert answer.model == "tiny"
        assert answer.model_version
        assert answer.graph_version
        expected = direct(f"{TEXTS[number % len(TEXTS)]} {number}")["probabilities"]
        np.testing.assert_allclose([s.probability for s in answer.prediction.scores], expected, atol=1e-6)


def test_an_error_belongs_to_its_item_and_the_stream_goes_on(client: Client) -> None:
    requests = [
        item(0),
        item(1, text=" "),
        item(2, model="nope"),
        item(3, options=prediction_pb2.PredictOptions(coverage=2)),
        Item(id="no input"),
        item(5),
    ]
    answers = {answer.id: answer for answer in client.predict_stream(iter(requests))}
    codes = {key: answer.error.code for key, answer in answers.items() if answer.HasField("error")}
    invalid, not_found = grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0]
    assert codes == {"request-1": invalid, "request-2": not_found, "request-3": invalid, "no input": invalid}
    assert answers["request-1"].error.message.startswith("input.text")
    assert not answers["request-1"].model
    assert answers["request-0"].prediction.label
    assert answers["request-5"].prediction.label


def test_a_message_that_is_none_is_answered_with_its_id(server: BackgroundServer) -> None:
    def contents() -> Iterator[bytes]:
        yield item(0).SerializeToString()
        yield b"\x0a\x02id\x1a\x04\x12\x02\xff\xfe"  # id "id", and an input whose text is not UTF-8
        yield b"\xff\xff\xff"
        yield item(1).SerializeToString()

    with grpc.insecure_channel(server.address) as channel:
        raw = channel.stream_stream("/groundwire.v1.PredictionService/PredictStream")(contents(), timeout=20)
        answers = {a.id: a for a in map(prediction_pb2.PredictStreamResponse.FromString, raw)}
    assert set(answers) == {"request-0", "request-1", "id", ""}
    assert answers["id"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers[""].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_an_empty_stream_ends_well(client: Client) -> None:
    assert list(client.predict_stream(iter([]))) == []


async def test_answers_come_while_the_client_still_asks(server: BackgroundServer) -> None:
    """Each request is sent only after the answer to the one before: a server that waited for the end would hang."""
    answered: asyncio.Queue[str] = asyncio.Queue()

    async def ask() -> AsyncIterator[Item]:
        for number in range(20):
            yield item(number)
            assert await answered.get() == f"request-{number}"

    async with AsyncClient(server.address) as client, asyncio.timeout(60):
        received = 0
        async for answer in client.predict_stream(ask()):
            answered.put_nowait(answer.id)
            received += 1
    assert received == 20


async def test_a_stream_holds_no_more_in_flight_than_allowed(config: ServerConfig) -> None:
    """With the model held up, the server reads as many messages as may be in flight, and not one more."""
    limit = 5
    held = dataclasses.replace(config, limits=Limits(stream_in_flight=limit))
    release = asyncio.Event()

    async def ask() -> AsyncIterator[Item]:
        for number in range(50):
            yield item(number)

    async with Server(held) as server, AsyncClient(server.address) as client, asyncio.timeout(60):
        pipeline = only_pipeline(server)
        original, most = pipeline.answer, 0
        running = 0

        async def answer_(*arguments):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await release.wait()
            try:
                return await original(*arguments)
            finally:
                running -= 1

        pipeline.answer = answer_  # the real one behind a gate
        answers: list[str] = []

        async def read() -> None:
            async for answer in client.predict_stream(ask()):
                answers.append(answer.id)

        reading = asyncio.create_task(read())
        await until(lambda: running == limit)
        for _ in range(50):  # time enough for a sixth, if the server let it in
            await asyncio.sleep(0.001)
        assert running == limit
        release.set()
        await reading
    assert most == limit
    assert sorted(answers) == sorted(f"request-{number}" for number in range(50))


async def test_a_client_that_vanishes_leaves_nothing_behind(config: ServerConfig) -> None:
    async def ask() -> AsyncIterator[Item]:
        for number in range(10):
            yield item(number)
        await asyncio.Event().wait()  # never ends the stream by itself

    async with Server(config) as server, AsyncClient(server.address) as client, asyncio.timeout(60):
        stream = client.predict_stream(ask())
        assert (await anext(stream)).prediction.label
        assert server.gate.in_flight == 1
        await stream.aclose()
        await until(lambda: server.gate.in_flight == 0)


async def test_a_stream_deadline_ends_it(server: BackgroundServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel, asyncio.timeout(60):
        call = channel.stream_stream("/groundwire.v1.PredictionService/PredictStream")(timeout=0.05)
        with pytest.raises(grpc.RpcError) as ended:
            await call.read()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_to_nowhere_raises_our_error() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(RemoteError, match="groundwire serve") as refused:
        list(client.predict_stream(iter([item(0)])))
    assert refused.value.code == "UNAVAILABLE"
