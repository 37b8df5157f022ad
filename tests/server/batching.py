"""A batcher on a real model behind a gate, and rows for it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields

import numpy as np
from serving import TEXTS

from groundwire.kg.encode import EncodedPair, PairEncoder
from groundwire.server.batcher import Batcher
from groundwire.server.config import Limits
from groundwire.server.run_cost import RunCost
from groundwire.server.runtime import Outputs, Runtime


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


def rows_of(encoder: PairEncoder, count: int, seed: int) -> list[EncodedPair]:
    rng = random.Random(seed)
    words = " ".join(TEXTS).split()
    return [encoder.encode(" ".join(rng.choices(words, k=rng.randint(1, 30))), ()) for _ in range(count)]
