"""The batcher on a real model: nobody gets another's answer, and what nobody waits for is not run."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest
from batching import batching, by_row, rows_of

from groundwire.kg.encode import EncodedPair, PairEncoder
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
from groundwire.server.runtime import Runtime

OVERHEAD = 10.0  # seconds of a run, where a token takes one


def priced(overhead: float) -> RunCost:
    """A token takes a second; runs teach it nothing."""
    cost = RunCost()
    cost.overhead, cost.per_token = overhead, 1.0
    cost.learn = lambda tokens, seconds: None  # type: ignore[method-assign]
    return cost


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
