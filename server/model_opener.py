"""Versions of the repository's models as `Servable`s: opened off the event loop, closed when the last lease ends."""

import asyncio
import gc
import logging
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from groundwire.bundle import open_bundle
from groundwire.kg import Retriever
from groundwire.server.config import Limits, Provider
from groundwire.server.detached import run_detached
from groundwire.server.errors import ConfigurationError
from groundwire.server.live import Lease, Live
from groundwire.server.memory import release_memory
from groundwire.server.metrics import Metrics, ModelMetrics
from groundwire.server.pipeline import Pipeline
from groundwire.server.repository import ModelVersion, Repository, Signature
from groundwire.server.servable import Servable
from groundwire.server.tensor_model import TensorModel
from groundwire.server.text_model import TextModel

_ATTEMPTS = 5  # to open files that are replaced meanwhile
_Made = tuple[Servable, AbstractAsyncContextManager[object]]

_log = logging.getLogger("groundwire.server")


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """A version that can answer. `signature` is that of the files it was made from; dropping `lease` closes it."""

    signature: Signature
    lease: Lease[Servable]


class Opener:
    """Opens and closes versions. For one event loop.

    Args:
        repository: where they lie.
        limits, provider, threads: as of `TensorModel` and `Pipeline`.
        graph: what bundles answer with; without one they are refused.
        metrics: where they count, under the name NAME/VERSION.
        alone: as of `Pipeline`.
    """

    def __init__(
        self,
        repository: Repository,
        limits: Limits,
        provider: Provider = "auto",
        threads: int = 0,
        graph: Live[Retriever] | None = None,
        metrics: Metrics | None = None,
        alone: Callable[[], bool] | None = None,
    ) -> None:
        self._repository = repository
        self._settings = (limits, provider, threads)
        self._graph = graph
        self._metrics = metrics
        self._alone = alone
        self._abandoned = False
        self._leaving: Counter[tuple[str, int]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread for all, so that what they leave in the C library's heap is in one place; see `release_memory`.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="open-models")

    async def open(self, version: ModelVersion) -> OpenVersion:
        """Open what belongs together: a version that was replaced while it was read is read again.

        ONNX Runtime lets go of the interpreter lock while it makes a session from 1.31 on, so that the event loop
        goes on answering; earlier releases hold it for some 100 ms for each 100 MB of weights.

        Raises:
            ConfigurationError, BundleError, ProviderError: the version can't be served.
        """
        for _ in range(_ATTEMPTS):
            model, stack = await self._open(version)
            try:
                again = (await asyncio.to_thread(self._repository.find, version.name) or {}).get(version.number)
            except BaseException:
                await stack.aclose()
                raise
            if again is not None and again.signature == version.signature:
                close = partial(self._close, (version.name, version.number), stack)
                return OpenVersion(version.signature, Lease(model, close))
            await stack.aclose()
            if again is None:
                raise ConfigurationError("it was removed while it was read")
            version = again
        raise ConfigurationError("it changes faster than it can be read; copy it beside, and rename it")

    def drop(self, name: str, number: int, version: OpenVersion) -> None:
        """Close a version that answers no more, when the last call that uses it has ended."""
        self._leaving[name, number] += 1
        version.lease.drop()

    def leaving(self, name: str, number: int) -> bool:
        """Whether a version that was dropped is still open."""
        return self._leaving[name, number] > 0

    def abandon(self) -> None:
        """Wait no more for the thread: what it is opening is wanted no longer, and what it has to do last is left."""
        self._abandoned = True

    async def close(self) -> None:
        """Close what was dropped, and end the thread. Nothing can be opened any more."""
        await self.closed()
        self._thread.shutdown(wait=not self._abandoned)

    async def closed(self) -> None:
        """Wait until what nobody uses any more is closed. What a call still uses is not waited for."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _open(self, version: ModelVersion) -> tuple[Servable, AsyncExitStack]:
        """The model, and what closes it."""
        if version.problem:
            raise ConfigurationError(version.problem)
        model, opened = await run_detached(self._thread, partial(self._make, version))
        stack = AsyncExitStack()
        await stack.enter_async_context(opened)
        return model, stack

    def _make(self, version: ModelVersion) -> _Made:
        try:
            return self._text_model(version) if version.bundle else self._tensor_model(version)
        finally:
            release_memory()  # what reading took: about as much again as the weights

    def _tensor_model(self, version: ModelVersion) -> _Made:
        sink = self._sink(version)
        model = TensorModel(version.name, version.path, *self._settings, sink, version=str(version.number))
        return model, model

    def _text_model(self, version: ModelVersion) -> _Made:
        if self._graph is None:
            raise ConfigurationError("it is a bundle, which answers with a graph: give --graph")
        bundle = open_bundle(version.path)
        pipeline = Pipeline(bundle, self._graph, *self._settings, self._sink(version), self._alone)
        return TextModel(pipeline, version.name, str(version.number)), pipeline

    def _sink(self, version: ModelVersion) -> ModelMetrics | None:
        return ModelMetrics(self._metrics, f"{version.name}/{version.number}") if self._metrics else None

    def _close(self, key: tuple[str, int], stack: AsyncExitStack, model: Servable) -> None:
        task = asyncio.get_running_loop().create_task(self._end(key, stack, model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, key: tuple[str, int], stack: AsyncExitStack, model: Any) -> None:
        try:
            await stack.aclose()
            left = weakref.ref(model)
            del model, stack
            await asyncio.sleep(0)  # the caller's own references end meanwhile
            if left() is not None:
                gc.collect()
            if not self._abandoned:
                await asyncio.get_running_loop().run_in_executor(self._thread, release_memory)
        finally:
            self._leaving[key] -= 1
        _log.info("model closed", extra={"fields": {"model": key[0], "version": key[1]}})
