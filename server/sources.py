"""What a server answers from: the graph, the query store, and models, those of a repository included."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from groundwire.bundle import open_bundle
from groundwire.kg import LiveOptions, Retriever, open_graph
from groundwire.kg import format as compiled_format
from groundwire.kg import store as query_store
from groundwire.server.catalog import Catalog
from groundwire.server.config import QueryLimits, ServerConfig
from groundwire.server.detached import run_detached
from groundwire.server.live import Live
from groundwire.server.metrics import GraphMetrics, Metrics, ModelMetrics
from groundwire.server.model_control import ModelControl
from groundwire.server.model_opener import Opener
from groundwire.server.peers import Peers
from groundwire.server.pipeline import Pipeline
from groundwire.server.query_pool import QueryPool
from groundwire.server.repository import Repository
from groundwire.server.servable import Servable
from groundwire.server.service_repository import LocalChanger, RepositoryService
from groundwire.server.tensor_model import TensorModel
from groundwire.server.text_model import TextModel


def live_graph(path: Path | str, options: LiveOptions | None = None, metrics: Metrics | None = None) -> Live[Retriever]:
    """The graph in a compiled folder, in an RDF file, or behind the URL of an endpoint, which is a string."""

    async def open_() -> Retriever:
        return await run_detached(None, partial(open_graph, path, options=options))

    async def close(retriever: Retriever) -> None:
        retriever.close()

    files = path if isinstance(path, Path) else None
    marker = compiled_format.META if files is not None and files.is_dir() else ""
    reloads = GraphMetrics(metrics, "graph") if metrics else None
    return Live("graph", files, marker, open_, close, lambda retriever: retriever.info.version, reloads)


def live_queries(path: Path, limits: QueryLimits, metrics: Metrics | None = None) -> Live[QueryPool]:
    """The processes that answer queries from a store."""

    async def open_() -> QueryPool:
        return await QueryPool(path, limits).open()

    reloads = GraphMetrics(metrics, "query store") if metrics else None
    return Live("query store", path, query_store.META, open_, QueryPool.close, lambda pool: pool.info.version, reloads)


async def open_models(
    stack: AsyncExitStack,
    config: ServerConfig,
    graph: Live[Retriever] | None,
    metrics: Metrics | None,
    alone: Callable[[], bool],
) -> Catalog:
    """The models that were given one by one, open until `stack` ends. `alone` is as of `Pipeline`.

    Raises:
        BundleError, ProviderError: a bundle can't be used.
        ConfigurationError: a plain model can't be used, or two models have the same name.
    """
    settings = (config.limits, config.provider, config.threads)
    models: list[Servable] = []

    def sink(name: str) -> ModelMetrics | None:
        return ModelMetrics(metrics, name) if metrics else None

    if graph is not None:
        for path in config.bundles:
            bundle = open_bundle(path)
            pipeline = Pipeline(bundle, graph, *settings, sink(bundle.manifest.name), alone)
            models.append(TextModel(await stack.enter_async_context(pipeline)))
    for name, path in config.models:
        model = TensorModel(name, path, *settings, sink(name))
        models.append(await stack.enter_async_context(model))
    return Catalog(models)


async def open_repository(
    stack: AsyncExitStack,
    config: ServerConfig,
    catalog: Catalog,
    graph: Live[Retriever] | None,
    metrics: Metrics | None,
    peers: Peers | None,
    alone: Callable[[], bool],
) -> RepositoryService:
    """The models of the repository, if there is one, in `catalog` until `stack` ends, and what answers for them.

    `alone` is as of `Pipeline`.

    Raises:
        ConfigurationError: its folder can't be read.
    """
    if config.repository is None:
        return RepositoryService(catalog)
    repository = Repository(config.repository.folder)
    opener = Opener(repository, config.limits, config.provider, config.threads, graph, metrics, alone)
    control = ModelControl(config.repository, repository, catalog, opener, config.reload_seconds)
    await stack.enter_async_context(control)
    return RepositoryService(catalog, control, peers.attach(control) if peers else LocalChanger(control))
