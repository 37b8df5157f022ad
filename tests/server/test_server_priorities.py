"""Priorities and the delay of batches on the wire, and for plain tensor models."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from asking import refused
from hypothesis import given
from hypothesis import strategies as st
from repositories import WIDTH, write_version
from serving import TEXTS, until
from test_server_tensors import arrays, request

from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client, RemoteError
from groundwire.server.config import Limits, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.server.priorities import PriorityQueue
from groundwire.server.statistics import Record, Statistics
from groundwire.server.tensor_batcher import TensorBatcher, Tensors
from groundwire.v1 import prediction_pb2

Stub = service_pb2_grpc.GRPCInferenceServiceStub
LONG = 3_600.0


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version(tmp_path_factory.mktemp("priorities"), "adder", 1)


@pytest.fixture(scope="module")
def levels(config: ServerConfig, adder: Path) -> Iterator[BackgroundServer]:
    """A server with three priorities and a delay, a text model and a plain one."""
    limits = Limits(priority_levels=3, batch_delay=0.002)
    with BackgroundServer(dataclasses.replace(config, models=(("adder", adder),), limits=limits)) as server:
        yield server


def asked(model: str) -> service_pb2.ModelInferRequest:
    array = np.array([[b"Peru"]], object) if model == "tiny" else np.zeros((1, WIDTH), np.float32)
    return request(model, **{"text" if model == "tiny" else "x": array})


def test_every_level_answers_and_others_are_refused(levels: BackgroundServer) -> None:
    with Client(levels.address) as client:
        for priority in range(4):
            options = prediction_pb2.PredictOptions(priority=priority)
            assert len(client.predict(TEXTS, options=options).predictions) == len(TEXTS)
        with pytest.raises(RemoteError, match=r"1 \(first\) to 3") as error:
            client.predict(TEXTS, options=prediction_pb2.PredictOptions(priority=4))
        assert (error.value.code, error.value.fields) == ("INVALID_ARGUMENT", ["options.priority"])


@pytest.mark.parametrize("model", ["tiny", "adder"])
def test_the_parameter_of_triton_is_the_priority(levels: BackgroundServer, model: str) -> None:
    with grpc.insecure_channel(levels.address) as channel:
        stub = Stub(channel)
        for kind in ("uint64_param", "int64_param"):
            for priority in range(4):
                message = asked(model)
                setattr(message.parameters["priority"], kind, priority)
                assert stub.ModelInfer(message, timeout=60).model_name == model
        message = asked(model)
        message.parameters["priority"].uint64_param = 4
        with refused("INVALID_ARGUMENT", "parameters.priority", "1 (first) to 3"):
            stub.ModelInfer(message, timeout=60)
        message.parameters["priority"].int64_param = -1
        with refused("INVALID_ARGUMENT", "parameters.priority"):
            stub.ModelInfer(message, timeout=60)
        message.parameters["priority"].string_param = "1"
        with refused("INVALID_ARGUMENT", "uint64_param"):
            stub.ModelInfer(message, timeout=60)
        batching = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=60).config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    assert batching.max_queue_delay_microseconds == 2_000


def test_with_one_level_the_parameter_is_ignored_and_the_option_refused(server: BackgroundServer) -> None:
    message = asked("tiny")
    message.parameters["priority"].uint64_param = 9
    with grpc.insecure_channel(server.address) as channel:
        stub = Stub(channel)
        assert arrays(stub.ModelInfer(message, timeout=60))["label"].size == 1
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="tiny"), timeout=60).config
    assert (config.dynamic_batching.priority_levels, config.dynamic_batching.max_queue_delay_microseconds) == (0, 0)
    with Client(server.address) as client:
        client.predict(TEXTS[:1], options=prediction_pb2.PredictOptions(priority=1))
        with pytest.raises(RemoteError, match="one level"):
            client.predict(TEXTS[:1], options=prediction_pb2.PredictOptions(priority=2))


@pytest.mark.parametrize("wrong", [{"priority_levels": 0}, {"priority_levels": 65}, {"batch_delay": -1.0}])
def test_limits_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Limits(**wrong)


@asynccontextmanager
async def batching(file: Path, **limits: float) -> AsyncIterator[tuple[TensorBatcher, asyncio.Event, list[int]]]:
    """A batcher on a real model that waits for the event before its first run, and the rows of each run."""
    session = ort.InferenceSession(file / "model.onnx", providers=["CPUExecutionProvider"])
    opened = asyncio.Event()
    runs: list[int] = []

    async def run(inputs: Tensors) -> dict[str, np.ndarray]:
        runs.append(len(inputs["x"]))
        await opened.wait()
        return {"y": session.run(["y"], dict(inputs))[0]}

    batcher = TensorBatcher(run, Limits(**limits), Statistics(), batched=True)  # type: ignore[arg-type]
    try:
        yield batcher, opened, runs
    finally:
        opened.set()
        await batcher.close()


def rows(value: float, count: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((count, WIDTH), value, np.float32)}


async def test_tensors_of_higher_priority_run_first_and_get_their_own_answer(adder: Path) -> None:
    order: list[int] = []
    async with batching(adder, priority_levels=2, batch_rows=1) as (batcher, opened, runs):

        async def ask(value: int, priority: int) -> None:
            answer = await batcher.infer(rows(value), None, Record(), priority)
            np.testing.assert_array_equal(answer["y"], rows(value + 1)["x"])
            order.append(value)

        tasks = [asyncio.create_task(ask(0, 1))]
        await until(lambda: bool(runs))
        tasks += [asyncio.create_task(ask(value, priority)) for value, priority in ((1, 2), (2, 0), (3, 2), (4, 1))]
        await asyncio.sleep(0)
        opened.set()
        await asyncio.gather(*tasks)
    assert order == [0, 2, 4, 1, 3]


async def test_tensors_wait_for_company_until_the_batch_is_full(adder: Path) -> None:
    async with batching(adder, batch_delay=LONG, batch_rows=4) as (batcher, opened, runs):
        opened.set()
        tasks = [asyncio.create_task(batcher.infer(rows(value), None, Record())) for value in (1, 2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not runs
        tasks.append(asyncio.create_task(batcher.infer(rows(3, 2), None, Record())))
        answers = await asyncio.gather(*tasks)
        assert runs == [4]
        now = asyncio.get_running_loop().time()
        await batcher.infer(rows(4), now + 4.0, Record())
        last = asyncio.create_task(batcher.infer(rows(5), None, Record()))
        await asyncio.sleep(0)
        await batcher.close()
        await last
    assert runs == [4, 1, 1]
    assert [float(answer["y"][0, 0]) for answer in answers] == [2.0, 3.0, 4.0]


@given(st.integers(1, 5), st.lists(st.none() | st.integers(0, 5), max_size=60))
def test_nobody_starves_is_lost_or_runs_twice(levels: int, steps: list[int | None]) -> None:
    """Requests come with a priority, or (none) one runs. All are overdue, so the oldest runs within two turns."""
    queue: PriorityQueue[int] = PriorityQueue(levels, lambda number: float(number) - 1e9)
    came: list[int] = []
    ran: list[int] = []
    passed_over = 0

    def run() -> None:
        nonlocal passed_over
        oldest = queue.oldest()
        turn = queue.turn()
        if oldest is None:
            assert not turn
            return
        ran.append(turn[0].popleft())
        passed_over = 0 if ran[-1] == oldest else passed_over + 1
        assert passed_over <= 1

    for priority in steps:
        if priority is None:
            run()
        else:
            queue.of(min(priority, levels)).append(len(came))
            came.append(len(came))
    while len(queue):
        run()
    assert sorted(ran) == came


def test_what_is_dead_leaves_every_level() -> None:
    queue: PriorityQueue[int] = PriorityQueue(3, float)
    for number in range(9):
        queue.of(1 + number % 3).append(number)
    assert sorted(queue.drop(lambda number: number % 2 == 0)) == [0, 2, 4, 6, 8]
    assert [list(queue.of(priority)) for priority in (1, 2, 3)] == [[3], [1, 7], [5]]
    assert queue.drop(lambda number: False) == []
