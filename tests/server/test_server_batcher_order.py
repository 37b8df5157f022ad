"""When rows run, and before whom: the delay for company, and priorities."""

import asyncio
from collections.abc import Sequence

import pytest
from batching import Gated, batching, rows_of

from groundwire.kg.encode import EncodedPair, PairEncoder
from groundwire.server import priorities
from groundwire.server.errors import QueueFullError
from groundwire.server.runtime import Runtime

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
