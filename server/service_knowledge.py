"""KnowledgeService: mentions and evidence without a model, and SPARQL."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from groundwire.kg.errors import StoreError
from groundwire.kg.types import Retriever
from groundwire.server.config import DEFAULT_TOP_K, Limits
from groundwire.server.convert import add_evidence, add_mentions, to_graph_info
from groundwire.server.errors import UnsupportedError
from groundwire.server.lifecycle import Gate
from groundwire.server.live import Live
from groundwire.server.pipeline import LIVE_THREADS
from groundwire.server.query_pool import QueryPool
from groundwire.server.room import Room
from groundwire.server.rpc import Deadline, unary
from groundwire.server.validate import check_texts, check_top_k
from groundwire.v1 import knowledge_pb2

NAME = "groundwire.v1.KnowledgeService"

_log = logging.getLogger("groundwire.server")


class KnowledgeService:
    """Asks the graph in threads of its own, so that predictions go on meanwhile."""

    def __init__(self, graph: Live[Retriever], limits: Limits, queries: Live[QueryPool] | None = None) -> None:
        self._graph = graph
        self._queries = queries
        self._limits = limits
        workers = 1 if graph.value.info.retriever == "compiled" else LIVE_THREADS
        self._thread = ThreadPoolExecutor(workers, thread_name_prefix="knowledge")
        self._room = Room(limits.queue_rows, "texts wait for the graph")

    def handlers(self, gate: Gate) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        return {
            "Link": unary(gate, knowledge_pb2.LinkRequest, self.link),
            "Ground": unary(gate, knowledge_pb2.GroundRequest, self.ground),
            "GetGraph": unary(gate, knowledge_pb2.GetGraphRequest, self.get_graph),
            "Query": unary(gate, knowledge_pb2.QueryRequest, self.query),
        }

    def close(self) -> None:
        """Release the thread."""
        self._thread.shutdown()

    async def link(self, request: knowledge_pb2.LinkRequest, _deadline: Deadline) -> knowledge_pb2.LinkResponse:
        """Mentions of each text.

        Raises:
            InvalidRequestError: a text breaks a rule.
            QueueFullError: too many texts wait already.
        """
        check_texts(request.texts, self._limits)
        with self._room.take(len(request.texts)), self._graph.lease() as lease:
            response = knowledge_pb2.LinkResponse(graph_version=lease.value.info.version)
            for text in request.texts:  # one at a time: a call that is cancelled stops at the next text
                mentions = await lease.run(self._thread, lease.value.link, text)
                add_mentions(response.results.add().mentions, mentions)
        return response

    async def ground(self, request: knowledge_pb2.GroundRequest, _deadline: Deadline) -> knowledge_pb2.GroundResponse:
        """Mentions and evidence of each text.

        Raises:
            InvalidRequestError: a text breaks a rule, or `top_k` is out of range.
            QueueFullError: too many texts wait already.
        """
        check_texts(request.texts, self._limits)
        check_top_k(request.top_k, "top_k")
        top_k = request.top_k or DEFAULT_TOP_K
        with self._room.take(len(request.texts)), self._graph.lease() as lease:
            response = knowledge_pb2.GroundResponse(graph_version=lease.value.info.version)
            for text in request.texts:
                grounding = await lease.run(self._thread, lease.value.ground, text, top_k)
                result = response.results.add(coverage=grounding.coverage)
                add_mentions(result.mentions, grounding.mentions)
                add_evidence(result.evidence, grounding.evidence)
        return response

    async def get_graph(
        self, _request: knowledge_pb2.GetGraphRequest, _deadline: Deadline
    ) -> knowledge_pb2.GetGraphResponse:
        """The graph in numbers."""
        return knowledge_pb2.GetGraphResponse(graph=to_graph_info(self._graph.value.info))

    async def query(self, request: knowledge_pb2.QueryRequest, deadline: Deadline) -> knowledge_pb2.QueryResponse:
        """The answer to a SPARQL query, from one version of the query store.

        Raises:
            UnsupportedError: the server has no query store.
            StoreError: the store can't be read. Where it lies is for the log alone.
            GroundwireError: as `QueryPool.query`.
        """
        if self._queries is None:
            raise UnsupportedError(
                "this server answers no queries: make a store with `groundwire kg store SOURCE... --out DIR`, and "
                "start the server with --query-store DIR"
            )
        try:
            with self._queries.lease() as lease:
                return await lease.value.query(request, deadline)
        except StoreError as error:
            _log.error("query store unreadable", extra={"fields": {"error": str(error)}})
            raise StoreError("the query store can't be read; the server's log has the details") from error
