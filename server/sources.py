"""What a server answers from and may replace while it runs: the graph and the query store."""

import asyncio
from pathlib import Path

from groundwire.kg import LiveOptions, Retriever, open_graph
from groundwire.kg import format as compiled_format
from groundwire.kg import store as query_store
from groundwire.server.config import QueryLimits
from groundwire.server.live import Live
from groundwire.server.metrics import GraphMetrics, Metrics
from groundwire.server.query_pool import QueryPool


def live_graph(path: Path | str, options: LiveOptions | None = None, metrics: Metrics | None = None) -> Live[Retriever]:
    """The graph in a compiled folder, in an RDF file, or behind the URL of an endpoint, which is a string."""

    async def open_() -> Retriever:
        return await asyncio.to_thread(open_graph, path, options=options)

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
