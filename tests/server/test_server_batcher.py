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
from groundwire.server.batcher import Batcher
from groundwire.server.config import Limits
from groundwire.server.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from groundwire.server.runtime import Outputs, Runtime


@pytest.fixture(scope="module")
def encoder(tiny: Bundle) -> PairEncoder:
    return PairEncoder(tiny.tokenizer, tiny.manifest.inputs.max_tokens)


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
async def batching(runtime: Runtime, **limits: int) -> AsyncIterator[tuple[Batcher[dict[str, np.ndarray]], Gated]]:
    gated = Gated(runtime)
    batcher = Batcher(gated, Limits(**limits))
    try:
        yield batcher, gated
    finally:
        gated.open.set()
        await batcher.close()


def rows_of(encoder: PairEncoder, count: int, seed: int) -> list[EncodedPair]:
    rng = random.Random(seed)
    words = " ".join(TEXTS).split()
    return [encoder.encode(" ".join(rng.choices(words, k=rng.randint(1, 30))), ()) for _ in range(count)]


@pytest.mark.parametrize("limits", [{}, {"batch_rows": 3}, {"batch_tokens": 200}, {"batch_rows": 1}])
async def test_every_row_gets_its_own_answer(runtime: Runtime, encoder: PairEncoder, limits: dict[str, int]) -> None:
    rng = random.Random(1)
    jobs = [rows_of(encoder, rng.randint(1, 12), seed) for seed in range(60)]
    async with batching(runtime, **limits) as (batcher, gated):
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
        assert sum(len(row.ids) for row in batch) >= 0.75 * longest * len(batch)


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
