"""The batcher on a real model: nobody gets another's answer, and what nobody waits for is not run."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields

import numpy as np
import pytest
from serving import TEXTS

from groundwire.bundle import Bundle
from groundwire.kg.encode import EncodedPair, PairEncoder
from groundwire.server import priorities
from groundwire.server.batcher import Batcher
from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.run_cost import RunCost
from groundwire.server.runtime import Outputs, Runtime


@pytest.fixture(scope="module")
def encoder(tiny: Bundle) -> PairEncoder:
    return tiny.encoder()


@pytest.fixture(scope="module")
def runtime(tiny: Bundle, encoder: PairEncoder):
    opened = Runtime(tiny, encoder.pad_id, "cpu", 1)
    yield opened
    opened.close()


def by_row(outputs: Outputs) -> list[dict[str, np.ndarray]]:
    names = [field.name for field in fields(Outputs)]
    return [dict(zip(names, row, strict=True)) for row in zip(*(getattr(outputs, name) for name in names), strict=True)]


class Gated:
    """The real model behind a gate, with a record of the batches that it ran."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.open = asyncio.Event()
        self.started = asyncio.Event()
        self.batches: list[list[EncodedPair]] = []
        self.failure: Exception | None = None

    async def __call__(self, rows: Sequence[EncodedPair]) -> list[dict[str, np.ndarray]]:
        self.batches.append(list(rows))
        self.started.set()
        await self.open.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        loop = asyncio.get_running_loop()
        return by_row(await loop.run_in_executor(self.runtime.executor, self.runtime.run, rows))

    @property
    def ran(self) -> list[EncodedPair]:
        return [row for batch in self.batches for row in batch]


@asynccontextmanager
async def batching(
    runtime: Runtime, cost: RunCost | None = None, **limits: float
) -> AsyncIterator[tuple[Batcher[dict[str, np.ndarray]], Gated]]:
    gated = Gated(runtime)
    batcher = Batcher(gated, Limits(**limits), cost=cost)  # type: ignore[arg-type]
    try:
        yield batcher, gated
    finally:
        gated.open.set()
        await batcher.close()


OVERHEAD = 10.0  # seconds of a run, where a token takes one


def priced(overhead: float) -> RunCost:
    """A token takes a second; runs teach it nothing."""
    cost = RunCost()
    cost.overhead, cost.per_token = overhead, 1.0
    cost.learn = lambda tokens, seconds: None  # type: ignore[method-assign]
    return cost


def rows_of(encoder: PairEncoder, count: int, seed: int) -> list[EncodedPair]:
    rng = random.Random(seed)
    words = " ".join(TEXTS).split()
    return [encoder.encode(" ".join(rng.choices(words, k=rng.randint(1, 30))), ()) for _ in range(count)]


@pytest.mark.parametrize("limits", [{}, {"batch_rows": 3}, {"batch_tokens": 200}, {"batch_rows": 1}])
async def test_every_row_gets_its_own_answer(runtime: Runtime, encoder: PairEncoder, limits: dict[str, int]) -> None:
    rng = random.Random(1)
    jobs = [rows_of(encoder, rng.randint(1, 12), seed) for seed in range(60)]
    async with batching(runtime, priced(OVERHEAD), **limits) as (batcher, gated):
        gated.open.set()
        answers = await asyncio.gather(*(batcher.infer(rows) for rows in jobs))
    for rows, results in zip(jobs, answers, strict=True):
        for row, result in zip(rows, results, strict=True):
            [alone] = by_row(runtime.run([row]))
            for name in ("logits", "probabilities", "head_probabilities", "entropy", "energy", "distance"):
                np.testing.assert_allclose(result[name], alone[name], atol=1e-4, err_msg=name)
    assert len(gated.ran) == sum(len(rows) for rows in jobs)
    for batch in gated.batches:
        longest = max(len(row.ids) for row in batch)
        assert len(batch) <= limits.get("batch_rows", 64)
        assert len(batch) * longest <= limits.get("batch_tokens", 8192)
        assert [len(row.ids) for row in batch] == sorted(len(row.ids) for row in batch)
        # A row wastes no more in company than alone, where it pays for a run.
        assert OVERHEAD + longest * len(batch) - sum(len(row.ids) for row in batch) <= OVERHEAD * len(batch)


async def test_rows_that_gather_while_the_model_runs_share_a_batch(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 0)
    async with batching(runtime) as (batcher, gated):
        tasks = [asyncio.create_task(batcher.infer([row]))]
        await gated.started.wait()
        tasks += [asyncio.create_task(batcher.infer([row])) for _ in range(9)]
        await asyncio.sleep(0)
        gated.open.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in gated.batches] == [1, 9]


async def test_the_oldest_row_is_in_the_next_batch(runtime: Runtime, encoder: PairEncoder) -> None:
    """A long row among ever new short ones would wait for ever if batches were formed by length alone."""
    long, short = encoder.encode("Paris " * 30, ()), encoder.encode("Oslo", ())
    async with batching(runtime, batch_rows=4) as (batcher, gated):
        tasks = [asyncio.create_task(batcher.infer([short]))]
        await gated.started.wait()
        tasks += [asyncio.create_task(batcher.infer([row])) for row in (long, *[short] * 20)]
        await asyncio.sleep(0)
        gated.open.set()
        await asyncio.gather(*tasks)
    assert gated.batches[1] == [long]


@pytest.mark.parametrize(
    ("overhead", "batches"),
    [
        (0.0, [[20, 20], [5, 5], [22], [40]]),  # no padding at all, oldest first
        (30.0, [[20, 20, 22], [5, 5], [40]]),  # 22 joins, as its padding costs 4 seconds and a run 30
        (1e6, [[5, 5, 20, 20, 22, 40]]),
    ],
)
async def test_rows_share_a_batch_when_padding_costs_less_than_a_run(overhead: float, batches: list[list[int]]) -> None:
    ran: list[list[int]] = []

    async def run(rows: Sequence[EncodedPair]) -> list[int]:
        ran.append([len(row.ids) for row in rows])
        return ran[-1]

    batcher = Batcher(run, Limits(), cost=priced(overhead))
    lengths = [20, 5, 22, 5, 40, 20]
    rows = [EncodedPair([1] * length, [0] * length, (), text_truncated=False) for length in lengths]
    assert await batcher.infer(rows) == lengths
    await batcher.close()
    assert ran == batches


async def test_cancelled_rows_are_dropped_before_they_run(runtime: Runtime, encoder: PairEncoder) -> None:
    first, kept, cancelled = rows_of(encoder, 3, 2)
    async with batching(runtime) as (batcher, gated):
        running = asyncio.create_task(batcher.infer([first]))
        await gated.started.wait()
        leaver = asyncio.create_task(batcher.infer([cancelled] * 5))
        stayer = asyncio.create_task(batcher.infer([kept]))
        await asyncio.sleep(0)
        leaver.cancel()
        gated.open.set()
        answers = await asyncio.gather(running, stayer, leaver, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert gated.ran == [first, kept]


async def test_rows_past_their_deadline_are_dropped_and_say_so(runtime: Runtime, encoder: PairEncoder) -> None:
    first, late = rows_of(encoder, 2, 3)
    async with batching(runtime) as (batcher, gated):
        running = asyncio.create_task(batcher.infer([first]))
        await gated.started.wait()
        with pytest.raises(DeadlineExceededError):
            await batcher.infer([late], asyncio.get_running_loop().time() + 0.02)
        gated.open.set()
        await running
    assert gated.ran == [first]


async def test_a_full_queue_refuses_with_a_hint_and_frees_itself(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 6, 4)
    async with batching(runtime, queue_rows=4) as (batcher, gated):
        tasks = [asyncio.create_task(batcher.infer([rows[0]]))]
        await gated.started.wait()
        waiting = asyncio.create_task(batcher.infer(rows[1:5]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as refused:
            await batcher.infer([rows[5]])
        assert refused.value.retry_after > 0
        waiting.cancel()  # whoever leaves makes room at once
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(batcher.infer([rows[5]])))
        await asyncio.sleep(0)
        gated.open.set()
        await asyncio.gather(*tasks)
    assert gated.ran == [rows[0], rows[5]]


async def test_what_could_never_fit_is_refused_for_good(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = [encoder.encode("Peru", ())] * 5
    async with batching(runtime, queue_rows=4, batch_tokens=100) as (batcher, gated):
        with pytest.raises(InvalidRequestError, match="can ever hold"):
            await batcher.infer(rows)
        with pytest.raises(InvalidRequestError, match="tokens"):
            await batcher.infer([encoder.encode("Paris " * 40, ())])
    assert gated.batches == []


async def test_a_failed_batch_fails_its_rows_and_no_others(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 3, 6)
    async with batching(runtime) as (batcher, gated):
        first = asyncio.create_task(batcher.infer([rows[0]]))
        await gated.started.wait()
        second = asyncio.create_task(batcher.infer([rows[1]]))
        await asyncio.sleep(0)
        gated.failure = InferenceError("out of memory")
        gated.open.set()
        with pytest.raises(InferenceError, match="out of memory"):
            await first
        await second
        gated.failure = ZeroDivisionError("a bug")
        with pytest.raises(InferenceError):
            await batcher.infer([rows[2]])
        [result] = await batcher.infer([rows[2]])
    np.testing.assert_allclose(result["logits"], runtime.run([rows[2]]).logits[0], atol=1e-5)


async def test_a_model_that_loses_rows_fails_their_batch_alone(encoder: PairEncoder) -> None:
    lost = True

    async def run(rows: Sequence[EncodedPair]) -> list[int]:
        return [len(row.ids) for row in rows[lost:]]

    row = encoder.encode("Peru", ())
    batcher = Batcher(run, Limits())
    with pytest.raises(InferenceError, match="0 results for 1 rows"):
        await batcher.infer([row])
    lost = False
    assert await batcher.infer([row]) == [len(row.ids)]
    await batcher.close()


async def test_closing_answers_what_waits_and_refuses_the_rest(runtime: Runtime, encoder: PairEncoder) -> None:
    rows = rows_of(encoder, 3, 7)
    async with batching(runtime) as (batcher, gated):
        running = asyncio.create_task(batcher.infer([rows[0]]))
        await gated.started.wait()
        waiting = asyncio.create_task(batcher.infer([rows[1]]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError):
            await batcher.infer([rows[2]])
        gated.open.set()
        await asyncio.gather(running, waiting, closing)
    assert gated.ran == rows[:2]


async def test_a_row_that_fails_in_the_runtime_leaves_it_usable(runtime: Runtime, encoder: PairEncoder) -> None:
    broken = EncodedPair([10**6] * 4, [0] * 4, (), text_truncated=False)  # no such token
    async with batching(runtime) as (batcher, gated):
        gated.open.set()
        with pytest.raises(InferenceError):
            await batcher.infer([broken])
        [row] = rows_of(encoder, 1, 8)
        [result] = await batcher.infer([row])
    assert np.isfinite(result["probabilities"]).all()


# A delay that no test would sit out: what is answered with it did not wait for its end.
LONG = 3_600.0


async def test_an_idle_model_waits_for_company_until_the_batch_is_full(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 9)
    async with batching(runtime, batch_delay=LONG, batch_rows=3) as (batcher, gated):
        gated.open.set()
        tasks = [asyncio.create_task(batcher.infer([row])) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not gated.batches
        tasks.append(asyncio.create_task(batcher.infer([row])))
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in gated.batches] == [3]


async def test_a_batch_is_full_by_its_tokens_too(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 9)
    async with batching(runtime, batch_delay=LONG, batch_tokens=2 * len(row.ids)) as (batcher, gated):
        gated.open.set()
        await asyncio.gather(batcher.infer([row]), batcher.infer([row]))
    assert [len(batch) for batch in gated.batches] == [2]


async def test_a_lone_row_runs_when_the_delay_is_over(runtime: Runtime, encoder: PairEncoder) -> None:
    async with batching(runtime, batch_delay=0.01) as (batcher, gated):
        gated.open.set()
        await batcher.infer(rows_of(encoder, 1, 9))
    assert [len(batch) for batch in gated.batches] == [1]


async def test_waiting_for_company_leaves_time_for_the_model(runtime: Runtime, encoder: PairEncoder) -> None:
    """The row whose deadline comes first decides, even if it came last."""
    patient, hurried = rows_of(encoder, 2, 10)
    async with batching(runtime, batch_delay=LONG) as (batcher, gated):
        gated.open.set()
        now = asyncio.get_running_loop().time()
        await asyncio.gather(batcher.infer([patient]), batcher.infer([hurried], now + 4.0))
    assert len(gated.ran) == 2


async def test_closing_does_not_wait_for_company(runtime: Runtime, encoder: PairEncoder) -> None:
    async with batching(runtime, batch_delay=LONG) as (batcher, gated):
        gated.open.set()
        waiting = asyncio.create_task(batcher.infer(rows_of(encoder, 1, 11)))
        await asyncio.sleep(0)
        await batcher.close()
        await waiting
    assert len(gated.ran) == 1


async def in_order(
    runtime: Runtime, row: EncodedPair, priority_of: Sequence[int], **limits: float
) -> tuple[list[int], Gated]:
    """Ask with those priorities, in this order, while the model is busy. Returns the order of the answers."""
    answered: list[int] = []

    async with batching(runtime, **limits) as (batcher, gated):

        async def ask(priority: int) -> None:
            await batcher.infer([row], priority=priority)
            answered.append(priority)

        busy = asyncio.create_task(batcher.infer([row]))
        await gated.started.wait()
        tasks = [asyncio.create_task(ask(priority)) for priority in priority_of]
        await asyncio.sleep(0)
        gated.open.set()
        await asyncio.gather(busy, *tasks)
    return answered, gated


async def test_higher_priorities_run_first_and_0_is_the_middle(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 12)
    order, _ = await in_order(runtime, row, [3, 0, 1, 3, 2, 1], priority_levels=3, batch_rows=1)
    assert order == [1, 1, 0, 2, 3, 3]


async def test_lower_priorities_fill_up_a_batch(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 12)
    order, gated = await in_order(runtime, row, [2, 2, 2, 1, 1], priority_levels=2, batch_rows=4)
    assert sorted(order[:4]) == [1, 1, 2, 2]
    assert [len(batch) for batch in gated.batches] == [1, 4, 1]


async def test_whoever_is_overdue_runs_with_every_second_batch(
    runtime: Runtime, encoder: PairEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    [row] = rows_of(encoder, 1, 12)
    asked = [2, 2, 1, 1, 1, 1, 1]
    order, _ = await in_order(runtime, row, asked, priority_levels=2, batch_rows=1)
    assert order == sorted(asked)
    monkeypatch.setattr(priorities, "PATIENCE_SECONDS", 0.0)
    order, _ = await in_order(runtime, row, asked, priority_levels=2, batch_rows=1)
    assert order == [2, 1, 2, 1, 1, 1, 1]


async def test_rows_of_all_priorities_share_one_bounded_queue(runtime: Runtime, encoder: PairEncoder) -> None:
    [row] = rows_of(encoder, 1, 13)
    async with batching(runtime, priority_levels=2, queue_rows=2) as (batcher, gated):
        busy = asyncio.create_task(batcher.infer([row]))
        await gated.started.wait()
        low, high = (asyncio.create_task(batcher.infer([row], priority=priority)) for priority in (2, 1))
        await asyncio.sleep(0)
        assert len(batcher) == 2
        with pytest.raises(QueueFullError):
            await batcher.infer([row], priority=1)
        low.cancel()
        await asyncio.sleep(0)
        more = asyncio.create_task(batcher.infer([row], priority=1))
        await asyncio.sleep(0)
        gated.open.set()
        await asyncio.gather(busy, high, more)
    assert len(gated.ran) == 3
