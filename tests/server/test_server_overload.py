"""Full queue, clients that leave, deadlines, shutdown: with the model held up, so that time decides nothing."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import TEXTS, Direct, only_pipeline, until

from groundwire.kg.encode import EncodedPair
from groundwire.server.app import Server
from groundwire.server.client import AsyncClient, RemoteError
from groundwire.server.config import Limits, ServerConfig
from groundwire.server.runtime import Outputs
from groundwire.v1 import prediction_pb2


class Held:
    """A server whose model thread waits before each run, and notes what it ran."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.open = threading.Event()
        self.started = threading.Event()
        self.rows = 0
        pipeline = only_pipeline(server)
        self.run: Callable[[Sequence[EncodedPair]], Outputs] = pipeline.runtime.run
        pipeline.runtime.run = self._run  # the real one behind a gate

    def _run(self, rows: Sequence[EncodedPair]) -> Outputs:
        self.started.set()
        assert self.open.wait(60)
        self.rows += len(rows)
        return self.run(rows)

    async def in_flight(self, count: int) -> None:
        await until(lambda: self.server.gate.in_flight == count)

    async def running(self) -> None:
        await until(self.started.is_set)


@asynccontextmanager
async def holding(config: ServerConfig, **limits: float) -> AsyncIterator[tuple[Held, AsyncClient]]:
    limited = dataclasses.replace(config, limits=Limits(**limits))
    async with Server(limited) as server, AsyncClient(server.address) as client:
        held = Held(server)
        try:
            yield held, client
        finally:
            held.open.set()


async def test_a_full_queue_gives_resource_exhausted_and_a_hint(config: ServerConfig, direct: Direct) -> None:
    async with holding(config, queue_rows=4) as (held, client):
        first = asyncio.create_task(client.predict([TEXTS[0]]))
        await held.running()
        waiting = [asyncio.create_task(client.predict([text])) for text in TEXTS[1:5]]
        await held.in_flight(5)
        with pytest.raises(RemoteError) as refused:
            await client.predict([TEXTS[5]])
        assert refused.value.code == "RESOURCE_EXHAUSTED"
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 30
        with pytest.raises(RemoteError) as hopeless:  # no retry can help
            await client.predict([TEXTS[0]] * 5)
        assert hopeless.value.code == "INVALID_ARGUMENT"
        held.open.set()
        for text, response in zip(TEXTS[:5], await asyncio.gather(first, *waiting), strict=True):
            scores = [score.probability for score in response.predictions[0].scores]
            np.testing.assert_allclose(scores, direct(text)["probabilities"], atol=1e-6)
        assert (await client.predict([TEXTS[5]])).predictions[0].label
    assert held.rows == 6


async def test_what_a_client_no_longer_waits_for_is_not_run(config: ServerConfig) -> None:
    async with holding(config) as (held, client):
        first = asyncio.create_task(client.predict([TEXTS[0]]))
        await held.running()
        leaver = asyncio.create_task(client.predict(TEXTS[1:4]))
        stayer = asyncio.create_task(client.predict([TEXTS[4]]))
        await held.in_flight(3)
        leaver.cancel()
        await held.in_flight(2)
        held.open.set()
        await asyncio.gather(first, stayer)
    assert held.rows == 2


async def test_what_is_past_its_deadline_is_not_run(config: ServerConfig) -> None:
    async with holding(config) as (held, client), AsyncClient(held.server.address, timeout=0.3) as hasty:
        first = asyncio.create_task(client.predict([TEXTS[0]]))
        await held.running()
        with pytest.raises(RemoteError) as late:
            await hasty.predict(TEXTS)
        assert late.value.code == "DEADLINE_EXCEEDED"
        await held.in_flight(1)
        held.open.set()
        await first
    assert held.rows == 1


async def test_a_failing_model_is_internal_and_passes(config: ServerConfig) -> None:
    async with holding(config) as (held, client):
        held.open.set()
        real = held.run

        def not_a_number(rows: Sequence[EncodedPair]) -> Outputs:
            outputs = real(rows)
            outputs.probabilities[:] = np.nan
            return outputs

        held.run = not_a_number
        with pytest.raises(RemoteError, match="not a number") as failed:
            await client.predict([TEXTS[0]])
        assert failed.value.code == "INTERNAL"

        def bug(_rows: Sequence[EncodedPair]) -> Outputs:
            raise ZeroDivisionError("secret of the machine")

        held.run = bug
        with pytest.raises(RemoteError) as failed:
            await client.predict([TEXTS[0]])
        assert failed.value.code == "INTERNAL"
        assert "secret" not in str(failed.value)
        held.run = real
        assert (await client.predict([TEXTS[0]])).predictions[0].label


async def test_a_shutdown_flips_health_refuses_and_answers_what_it_holds(config: ServerConfig, direct: Direct) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with holding(config) as (held, client), grpc.aio.insecure_channel(held.server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == serving
        unary = asyncio.create_task(client.predict([TEXTS[0]]))
        await held.running()
        read = 0

        async def ask() -> AsyncIterator[prediction_pb2.PredictStreamRequest]:
            nonlocal read
            for number in range(3):
                read += 1
                yield prediction_pb2.PredictStreamRequest(
                    id=str(number), input=prediction_pb2.PredictInput(text=TEXTS[number])
                )
            await asyncio.Event().wait()  # a stream that its client keeps open

        answers: list[prediction_pb2.PredictStreamResponse] = []

        async def stream() -> None:
            async for answer in client.predict_stream(ask()):
                answers.append(answer)

        streaming = asyncio.create_task(stream())
        await held.in_flight(2)
        pipeline = only_pipeline(held.server)
        await until(lambda: len(pipeline.batcher) == 3)  # all three were read
        draining = asyncio.create_task(held.server.drain())
        assert (await watch.read()).status == not_serving
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == not_serving
        with pytest.raises(RemoteError, match="shutting down") as refused:
            await client.predict([TEXTS[1]])
        assert refused.value.code == "UNAVAILABLE"
        assert not draining.done()
        held.open.set()
        response = await unary
        scores = [score.probability for score in response.predictions[0].scores]
        np.testing.assert_allclose(scores, direct(TEXTS[0])["probabilities"], atol=1e-6)
        with pytest.raises(RemoteError, match="shutting down") as ended:
            await streaming
        assert ended.value.code == "UNAVAILABLE"
        assert sorted(answer.id for answer in answers) == ["0", "1", "2"]
        assert all(answer.HasField("prediction") for answer in answers)
        assert await draining == 0


async def test_a_drain_gives_up_after_its_time(config: ServerConfig) -> None:
    async with holding(config, drain_seconds=0.05) as (held, client):
        stuck = asyncio.create_task(client.predict([TEXTS[0]]))
        await held.running()
        draining = asyncio.create_task(held.server.drain())
        with pytest.raises(RemoteError):
            await stuck
        held.open.set()
        assert await draining == 1
