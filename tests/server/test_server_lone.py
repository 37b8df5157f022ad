"""A request that is alone runs on the event loop itself; any company, and it goes through the queue as ever."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from batching import Gated, by_row, rows_of
from serving import TEXTS, Direct

from groundwire.bundle import Bundle
from groundwire.kg.encode import EncodedPair, PairEncoder
from groundwire.kg.types import Retriever
from groundwire.server import batcher as batcher_module
from groundwire.server import pipeline
from groundwire.server.app import BackgroundServer
from groundwire.server.batcher import ALONE_IN_A_ROW, QUIET_IN_A_ROW, Batcher
from groundwire.server.client import Client
from groundwire.server.config import Limits, ServerConfig
from groundwire.server.errors import DeadlineExceededError, InferenceError
from groundwire.server.pace import TRUST_AFTER
from groundwire.server.pipeline import Pipeline
from groundwire.server.runtime import Outputs, Runtime
from groundwire.v1 import prediction_pb2

Rows = Sequence[EncodedPair]


class AtOnce:
    """Runs the real model on the event loop while it may."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.may = True
        self.failure: Exception | None = None
        self.ran: list[EncodedPair] = []

    def __call__(self, rows: Rows) -> list[dict[str, np.ndarray]] | None:
        if not self.may:
            return None
        self.ran += rows
        if self.failure is not None:
            raise self.failure
        return by_row(self.runtime.run(rows))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is alone runs on the event loop however much company those before it had."""
    monkeypatch.setattr(batcher_module, "QUIET_IN_A_ROW", 0)


@pytest.mark.usefixtures("at_once")
async def test_one_row_runs_at_once_and_what_has_company_does_not(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 5, 1)
    gated, now = Gated(runtime), AtOnce(runtime)
    batcher = Batcher(gated, Limits(), run_now=now, alone=lambda: True)
    [result] = await batcher.infer([rows[0]])
    np.testing.assert_allclose(result["logits"], runtime.run([rows[0]]).logits[0], atol=1e-5)
    assert (now.ran, gated.ran) == ([rows[0]], [])
    together = asyncio.create_task(batcher.infer(rows[1:3]))  # more than a row
    await gated.started.wait()
    beside = asyncio.create_task(batcher.infer([rows[3]]))  # a batch runs
    await asyncio.sleep(0)
    behind = asyncio.create_task(batcher.infer([rows[4]]))  # and one waits
    await asyncio.sleep(0)
    gated.open.set()
    await asyncio.gather(together, beside, behind)
    assert now.ran == [rows[0]]
    assert sorted(map(id, gated.ran)) == sorted(map(id, rows[1:]))
    now.may = False
    await batcher.infer([rows[0]])
    assert gated.ran[-1] is rows[0]
    await batcher.close()


@pytest.mark.usefixtures("at_once")
async def test_who_may_wait_for_company_waits(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 2)
    gated, now = Gated(runtime), AtOnce(runtime)
    gated.open.set()
    batcher = Batcher(gated, Limits(batch_delay=0.001), run_now=now, alone=lambda: True)
    await batcher.infer([row])
    assert (now.ran, gated.ran) == ([], [row])
    await batcher.close()


@pytest.mark.usefixtures("at_once")
async def test_what_is_late_does_not_run(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 3)
    gated, now = Gated(runtime), AtOnce(runtime)
    batcher = Batcher(gated, Limits(), run_now=now, alone=lambda: True)
    with pytest.raises(DeadlineExceededError):
        await batcher.infer([row], asyncio.get_running_loop().time() - 0.001)
    assert not (now.ran or gated.ran)
    await batcher.close()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("failure", [InferenceError("out of memory"), ZeroDivisionError("a bug")])
async def test_a_failure_is_its_own_and_the_next_row_runs(
    runtime: Runtime, encoder: PairEncoder, failure: Exception
) -> None:
    first, second = rows_of(encoder, 2, 4)
    now = AtOnce(runtime)
    batcher = Batcher(Gated(runtime), Limits(), run_now=now, alone=lambda: True)
    now.failure = failure
    with pytest.raises(InferenceError, match=r"out of memory|the model failed"):
        await batcher.infer([first])
    now.failure = None
    await batcher.infer([second])
    assert now.ran == [first, second]
    await batcher.close()


@pytest.mark.usefixtures("at_once")
async def test_failures_count_as_runs_in_a_row(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 5)
    gated, now = Gated(runtime), AtOnce(runtime)
    gated.open.set()
    batcher = Batcher(gated, Limits(), run_now=now, alone=lambda: True)
    now.failure = InferenceError("out of memory")
    for _ in range(ALONE_IN_A_ROW):
        with pytest.raises(InferenceError):
            await batcher.infer([row])
    await batcher.infer([row])
    assert (len(now.ran), gated.ran) == (ALONE_IN_A_ROW, [row])
    await batcher.close()


async def test_company_is_remembered_for_some_requests(runtime: Runtime, encoder: PairEncoder) -> None:
    """On a busy server a request looks alone now and then; who comes while it holds the event loop loses by that."""
    [row] = rows_of(encoder, 1, 6)
    gated, now, alone = Gated(runtime), AtOnce(runtime), True
    gated.open.set()
    batcher = Batcher(gated, Limits(), run_now=now, alone=lambda: alone)
    for _ in range(QUIET_IN_A_ROW):
        await batcher.infer([row])
    assert (now.ran, len(gated.ran)) == ([], QUIET_IN_A_ROW)
    await batcher.infer([row])
    assert len(now.ran) == 1
    alone = False
    await batcher.infer([row])
    alone = True
    for _ in range(QUIET_IN_A_ROW):
        await batcher.infer([row])
    assert len(now.ran) == 1
    await batcher.infer([row])
    assert len(now.ran) == 2
    await batcher.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the thread of each run from here on. No run counts as slow, however busy the machine is."""
    seen: list[str] = []
    run = Runtime.run

    def noted(self: Runtime, rows: Rows) -> Outputs:
        seen.append(threading.current_thread().name)
        return run(self, rows)

    monkeypatch.setattr(Runtime, "run", noted)
    monkeypatch.setattr(pipeline, "LONE_SECONDS", 1e6)
    return seen


async def asked_in_turn(asked: Pipeline, times: int) -> None:
    for _ in range(times):
        await asked.predict([prediction_pb2.PredictInput(text=TEXTS[0])])


async def test_the_pipeline_learns_that_a_model_is_quick_enough(
    tiny: Bundle, retriever: Retriever, threads: list[str]
) -> None:
    alone = True
    here = threading.current_thread().name
    async with Pipeline(tiny, retriever, provider="cpu", alone=lambda: alone) as asked:
        threads.clear()  # of the warm-up
        await asked_in_turn(asked, TRUST_AFTER)
        assert here not in threads
        await asked_in_turn(asked, 3)
        assert threads[-3:] == [here] * 3
        alone = False
        await asked_in_turn(asked, 3)
        assert here not in threads[-3:]


async def test_calls_that_came_meanwhile_share_a_batch(tiny: Bundle, retriever: Retriever, threads: list[str]) -> None:
    """Each of many that are all there looks alone, as long as those before it never give the event loop away."""
    async with Pipeline(tiny, retriever, provider="cpu", alone=lambda: True) as asked:
        await asked_in_turn(asked, TRUST_AFTER)
        await asyncio.gather(*(asked_in_turn(asked, 1) for _ in range(4 * ALONE_IN_A_ROW)))
        runs = {rows: runs.count for rows, runs in asked.statistics.batches.items() if rows > 1}
        assert runs == {3 * ALONE_IN_A_ROW: 1}


@pytest.mark.parametrize(("alone", "longest"), [(None, 1e6), (lambda: True, 1e-9)], ids=["not told", "slow"])
async def test_else_the_models_thread_runs_it(
    tiny: Bundle,
    retriever: Retriever,
    threads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    alone: Callable[[], bool] | None,
    longest: float,
) -> None:
    monkeypatch.setattr(pipeline, "LONE_SECONDS", longest)
    async with Pipeline(tiny, retriever, provider="cpu", alone=alone) as asked:
        threads.clear()
        await asked_in_turn(asked, 2 * TRUST_AFTER)
    assert len(threads) == 2 * TRUST_AFTER
    assert threading.current_thread().name not in threads


def test_a_server_runs_lone_requests_on_its_loop_and_answers_right(
    config: ServerConfig, direct: Direct, threads: list[str]
) -> None:
    with BackgroundServer(config) as server, Client(server.address) as client:
        threads.clear()

        def ask() -> None:
            for text in TEXTS:
                [prediction] = client.predict([text]).predictions
                expected = direct(text)["probabilities"]
                np.testing.assert_allclose([score.probability for score in prediction.scores], expected, atol=1e-6)

        for _ in range(TRUST_AFTER + 1):
            ask()
        assert all(name.startswith("onnx-") for name in threads[: len(TEXTS)])
        here = [not name.startswith("onnx-") for name in threads[-(ALONE_IN_A_ROW + 1) :]]
        assert sum(here) == ALONE_IN_A_ROW

        left = threading.Event()

        def requests() -> Iterator[prediction_pb2.PredictStreamRequest]:
            yield prediction_pb2.PredictStreamRequest(input=prediction_pb2.PredictInput(text=TEXTS[0]))
            left.wait()

        stream = client.predict_stream(requests())
        next(stream)  # another call is there, so nobody is alone
        ask()
        left.set()
        assert all(name.startswith("onnx-") for name in threads[-len(TEXTS) :])
