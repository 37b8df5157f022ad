"""Queues of plain tensors: their bound in bytes, and the event loop as the place of models that take microseconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from groundwire.server import tensor_model
from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.pace import MOST, QUICK_SECONDS, TRUST_AFTER, Pace
from groundwire.server.statistics import Record, Statistics
from groundwire.server.tensor_batcher import TensorBatcher, Tensors
from groundwire.server.tensor_model import TensorModel

TABLE = np.array([1.0, 4.0, 7.0, 10.0], np.float32)
BYTES_OF_ONE = 8


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[TensorModel]:
    """y = TABLE[x], [batch, width]."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "width"])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    async with TensorModel("lookup", tmp_path / "m.onnx", Limits(), "cpu", 1) as opened:
        yield opened


def trust(model: TensorModel, size: int) -> None:
    model._pace = Pace()  # how long earlier runs took does not matter
    for _ in range(TRUST_AFTER):
        model._pace.saw(size, 0.0)


def ask(model: TensorModel, *numbers: int, deadline: float | None = None):
    return model.infer({"x": np.array([numbers])}, ["y"], {}, deadline)


async def test_what_waits_is_bounded_in_bytes() -> None:
    go = asyncio.Event()

    async def run(inputs: Tensors) -> dict[str, np.ndarray]:
        await go.wait()
        return {"y": inputs["x"]}

    batcher = TensorBatcher(run, Limits(queue_bytes=100, batch_rows=1), Statistics(), batched=True)
    one = {"x": np.ones((1, 8))}  # 64 bytes
    strings = {"x": np.array([["a" * 100]], object)}
    running = asyncio.create_task(batcher.infer(one, None, Record()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(batcher.infer(one, None, Record()))
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match=r"64 bytes of tensors wait for the model and .* the 100 bytes"):
        await batcher.infer(one, None, Record())
    with pytest.raises(InvalidRequestError, match="take 108 bytes, more than the 100"):
        await batcher.infer(strings, None, Record())
    waiting.cancel()
    await asyncio.sleep(0)
    after = asyncio.create_task(batcher.infer(one, None, Record()))  # what was cancelled makes room
    await asyncio.sleep(0)
    go.set()
    for task in (running, after):
        assert (await task)["y"].tolist() == one["x"].tolist()
    assert (await batcher.infer(one, None, Record()))["y"].shape == (1, 8)
    await batcher.close()


async def test_a_quick_model_answers_without_waiting_for_a_thread(model: TensorModel) -> None:
    assert (await ask(model, 1))["y"].tolist() == [[4.0]]
    trust(model, BYTES_OF_ONE)
    threads, model._threads = model._threads, ThreadPoolExecutor(1)
    model._threads.shutdown()  # whoever needs it fails
    assert (await ask(model, 3))["y"].tolist() == [[10.0]]
    counts = model.statistics
    assert (counts.rows, counts.runs, counts.success.count, counts.batches[1].count) == (2, 2, 2, 2)
    with pytest.raises(InferenceError):  # of a size that is not known
        await ask(model, *[2] * 64)
    model._threads = threads


async def test_refusals_are_those_of_the_queue(model: TensorModel) -> None:
    trust(model, BYTES_OF_ONE)
    with pytest.raises(InvalidRequestError, match="refused them"):
        await ask(model, 9)
    with pytest.raises(DeadlineExceededError):
        await ask(model, 1, deadline=asyncio.get_running_loop().time() - 1)
    assert (model.statistics.success.count, model.statistics.fail.count) == (0, 2)
    await model._batcher.close()  # type: ignore[union-attr]
    with pytest.raises(ShuttingDownError):
        await ask(model, 1)


async def test_a_quick_request_runs_at_once_only_when_it_is_next() -> None:
    go, now = asyncio.Event(), []

    async def run(inputs: Tensors) -> dict[str, np.ndarray]:
        await go.wait()
        return {"y": inputs["x"]}

    def run_now(inputs: Tensors) -> dict[str, np.ndarray] | None:
        if inputs["x"].shape[1] > 1:
            return None
        now.append(inputs["x"].tolist())
        return {"y": inputs["x"]}

    statistics = Statistics()
    batcher = TensorBatcher(run, Limits(), statistics, batched=True, run_now=run_now)
    quick, slow = {"x": np.ones((1, 1))}, {"x": np.ones((1, 2))}
    assert (await batcher.infer(quick, None, Record()))["y"].tolist() == [[1.0]]
    assert now == [[[1.0]]]
    running = asyncio.create_task(batcher.infer(slow, None, Record()))
    await asyncio.sleep(0)
    behind = [asyncio.create_task(batcher.infer(quick, None, Record())) for _ in range(2)]  # before the slow one runs
    await asyncio.sleep(0)
    behind.append(asyncio.create_task(batcher.infer(quick, None, Record())))  # while it runs
    await asyncio.sleep(0)
    assert len(now) == 1
    go.set()
    assert [(await task)["y"].shape for task in (running, *behind)] == [(1, 2), (1, 1), (1, 1), (1, 1)]
    assert (await batcher.infer(quick, None, Record()))["y"].tolist() == [[1.0]]
    assert (now[1:], statistics.rows) == ([[[1.0]] * 3, [[1.0]]], 6)
    await batcher.close()


async def test_a_quick_run_that_goes_wrong_is_its_own_fault_alone() -> None:
    wrong = True

    def run_now(inputs: Tensors) -> dict[str, np.ndarray]:
        if wrong and inputs["x"][0, 0] > 1:
            raise OSError("a bug")
        return {"y": inputs["x"] if inputs["x"][0, 0] <= 1 else np.ones((7, 1))}

    async def run(_: Tensors) -> dict[str, np.ndarray]:
        raise AssertionError

    batcher = TensorBatcher(run, Limits(), Statistics(), batched=True, run_now=run_now)
    with pytest.raises(InferenceError, match="failed on a batch"):
        await batcher.infer({"x": np.full((1, 1), 2.0)}, None, Record())
    wrong = False
    with pytest.raises(InferenceError, match="for 1 rows"):
        await batcher.infer({"x": np.full((1, 1), 2.0)}, None, Record())
    assert (await batcher.infer({"x": np.ones((1, 1))}, None, Record()))["y"].tolist() == [[1.0]]
    await batcher.close()


async def test_runs_that_fail_count_for_trust_too(model: TensorModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(model, BYTES_OF_ONE)

    def fail(*_: object, **__: object) -> None:
        end = time.thread_time() + 40 * QUICK_SECONDS
        while time.thread_time() < end:
            pass
        raise OSError("the device is gone")

    monkeypatch.setattr(tensor_model, "run_session", fail)
    with pytest.raises(InferenceError):
        await ask(model, 1)
    assert model._pace is not None
    assert not model._pace.is_quick(BYTES_OF_ONE)


async def test_more_rows_than_the_queue_can_hold_are_refused_for_good() -> None:
    async def run(_: Tensors) -> dict[str, np.ndarray]:
        raise AssertionError

    batcher = TensorBatcher(run, Limits(queue_rows=4), Statistics(), batched=True)
    with pytest.raises(InvalidRequestError, match="can ever hold"):
        await batcher.infer({"x": np.zeros((5, 1))}, None, Record())
    await batcher.close()


async def test_much_is_joined_off_the_event_loop() -> None:
    go, seen = asyncio.Event(), []

    async def run(inputs: Tensors) -> dict[str, np.ndarray]:
        await go.wait()
        seen.append(inputs["x"].shape)
        return {"y": inputs["x"][:, :1]}

    batcher = TensorBatcher(run, Limits(), Statistics(), batched=True)
    large = [{"x": np.full((2, 80_000), value)} for value in range(4)]
    tasks = [asyncio.create_task(batcher.infer(one, None, Record())) for one in large]
    await asyncio.sleep(0.01)
    go.set()
    assert [(await task)["y"].tolist() for task in tasks] == [[[value], [value]] for value in range(4)]
    assert sum(rows for rows, _ in seen) == 8
    assert len(seen) < 4
    await batcher.close()


def test_trust_is_earned_by_quick_runs_and_lost_by_long_ones() -> None:
    pace = Pace()
    for _ in range(TRUST_AFTER):
        assert not pace.is_quick(100)
        pace.saw(100, QUICK_SECONDS / 2)
    assert pace.is_quick(100) and pace.is_quick(65) and not pace.is_quick(200)
    for _ in range(2 * MOST):
        pace.saw(100, 0.0)
        pace.saw(1000, 0.0)
    pace.saw(100, 3 * QUICK_SECONDS)  # an interruption
    assert pace.is_quick(100)
    pace.saw(100, 1.0)
    assert not pace.is_quick(100) and not pace.is_quick(1000)
    for _ in range(MOST):
        pace.saw(100, 0.0)
    assert not pace.is_quick(100)
