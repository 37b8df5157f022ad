"""Several batches of a model at once: what waits is shared, every request gets its own answer, none is left behind."""

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from batching import batching, by_row, rows_of
from processes import ServeProcess
from serving import TEXTS, Direct, until

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.kg.encode import EncodedPair, PairEncoder
from groundwire.server.app import BackgroundServer
from groundwire.server.batcher import Batcher
from groundwire.server.client import AsyncClient
from groundwire.server.config import Limits, ServerConfig
from groundwire.server.errors import ConfigurationError, InferenceError, QueueFullError
from groundwire.server.runtime import Runtime
from groundwire.server.statistics import Record, Statistics
from groundwire.server.tensor_batcher import TensorBatcher, Tensors


async def ask_one_by_one(batcher: Batcher[Any], rows: list[EncodedPair]) -> list[asyncio.Task[list[Any]]]:
    """Each is taken up, where an instance is idle, before the next one comes."""
    tasks = []
    for row in rows:
        tasks.append(asyncio.create_task(batcher.infer([row])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


async def test_so_many_batches_run_at_once_and_no_more(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 5, 1)
    async with batching(runtime, instances=2) as (batcher, gated):
        tasks = await ask_one_by_one(batcher, rows)
        assert gated.batches == [[rows[0]], [rows[1]]]
        assert len(batcher) == 3
        gated.open.set()
        answers = await asyncio.gather(*tasks)
    assert len(gated.ran) == len(rows)
    for row, [answer] in zip(rows, answers, strict=True):
        np.testing.assert_allclose(answer["logits"], by_row(runtime.run([row]))[0]["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [({}, [3, 3]), ({"batch_delay": 0.01}, [6]), ({"instances": 4}, [2, 2, 1, 1]), ({"instances": 1}, [6])],
)
async def test_idle_instances_share_what_comes_unless_it_was_to_run_together(
    runtime: Runtime, encoder: PairEncoder, limits: dict[str, float], sizes: list[int]
) -> None:
    [row] = rows_of(encoder, 1, 2)
    async with batching(runtime, **{"instances": 2, **limits}) as (batcher, gated):
        gated.open.set()
        assert len(await batcher.infer([row] * 6)) == 6
    assert [len(batch) for batch in gated.batches] == sizes


async def test_a_failure_concerns_its_batch_alone(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 2, 3)
    async with batching(runtime, instances=2) as (batcher, gated):
        tasks = await ask_one_by_one(batcher, rows)
        gated.failure = InferenceError("broken")  # of whichever comes first
        gated.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, InferenceError) for answer in answers] == [True, False]
        assert await batcher.infer(rows)  # both instances live on


async def test_the_retry_hint_counts_on_all_instances(runtime: Runtime, encoder: PairEncoder) -> None:
    hints = {}
    for instances in (1, 4):
        async with batching(runtime, instances=instances, queue_rows=500, batch_rows=1) as (batcher, gated):
            rows = [encoder.encode("Paris " * 30, ())] * 500
            running = [asyncio.create_task(batcher.infer([rows[0]])) for _ in range(instances)]
            await until(lambda gated=gated, instances=instances: len(gated.batches) == instances)
            waiting = asyncio.create_task(batcher.infer(rows))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError) as refused:
                await batcher.infer([rows[0]])
            hints[instances] = refused.value.retry_after
            waiting.cancel()
            gated.open.set()
            await asyncio.gather(*running)
    assert hints[1] == pytest.approx(4 * hints[4])


@pytest.mark.parametrize("delay", [0.0, 0.01])
async def test_tensors_run_at_once_too(delay: float) -> None:
    go, batches = asyncio.Event(), []

    async def run(inputs: Tensors) -> dict[str, np.ndarray]:
        batches.append(len(inputs["x"]))
        await go.wait()
        return {"y": 2 * inputs["x"]}

    limits = Limits(instances=2, batch_delay=delay)
    batcher = TensorBatcher(run, limits, Statistics(), batched=True)
    tasks = [asyncio.create_task(batcher.infer({"x": np.full((1, 4), number)}, None, Record())) for number in range(6)]
    await until(lambda: len(batches) == (1 if delay else 2))
    late = asyncio.create_task(batcher.infer({"x": np.full((1, 4), 6)}, None, Record()))
    await asyncio.sleep(0)
    go.set()
    answers = await asyncio.gather(*tasks, late)
    assert [answer["y"].tolist() for answer in answers] == [[[2 * number] * 4] for number in range(7)]
    assert batches == ([6, 1] if delay else [3, 3, 1])
    await batcher.close()


async def test_every_client_gets_its_own_answer(config: ServerConfig, direct: Direct) -> None:
    shared = dataclasses.replace(config, limits=Limits(instances=3))

    async def ask(client: AsyncClient, number: int) -> None:
        for turn in range(10):
            text = TEXTS[(number + turn) % len(TEXTS)]
            [found] = (await client.predict([text])).predictions
            expected = direct(text)["probabilities"]
            np.testing.assert_allclose([score.probability for score in found.scores], expected, atol=1e-4)

    with BackgroundServer(shared) as server:
        async with AsyncClient(server.address) as client:
            await asyncio.gather(*(ask(client, number) for number in range(24)))
        async with grpc.aio.insecure_channel(server.address) as channel:
            inference = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            described = await inference.ModelConfig(service_pb2.ModelConfigRequest(name="tiny"), timeout=60)
            assert [group.count for group in described.config.instance_group] == [3]


@pytest.mark.parametrize("workers", [1, 2])
def test_cores_are_shared_out(tiny: Bundle, graph: Path, workers: int) -> None:
    options = ("--threads", "0", "--instances", "2", "--workers", str(workers))
    with ServeProcess(tiny.path, graph, *options) as server:
        loaded = server.wait_for("model loaded", workers)
        server.terminate()
        assert server.wait() == 0
    assert {line["instances"] for line in loaded} == {2}
    assert {line["threads"] for line in loaded} == {max(1, len(os.sched_getaffinity(0)) // (2 * workers))}


@pytest.mark.parametrize("instances", [0, 257])
def test_numbers_that_make_no_sense_are_refused(instances: int) -> None:
    with pytest.raises(ConfigurationError, match="instances must be"):
        Limits(instances=instances)
