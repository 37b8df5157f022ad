"""KnowledgeService: mentions and evidence without a model."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from groundwire.kg.types import Retriever
from groundwire.server.config import DEFAULT_TOP_K, Limits
from groundwire.server.convert import to_evidence, to_graph_info, to_mentions
from groundwire.server.lifecycle import Gate
from groundwire.server.pipeline import LIVE_THREADS
from groundwire.server.rpc import Deadline, unary
from groundwire.server.validate import check_texts, check_top_k
from groundwire.v1 import knowledge_pb2

NAME = "groundwire.v1.KnowledgeService"


class KnowledgeService:
    """Asks the graph in threads of its own, so that predictions go on meanwhile."""

    def __init__(self, retriever: Retriever, limits: Limits) -> None:
        self._retriever = retriever
        self._limits = limits
        workers = 1 if retriever.info.retriever == "compiled" else LIVE_THREADS
        self._thread = ThreadPoolExecutor(workers, thread_name_prefix="knowledge")

    def handlers(self, gate: Gate) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        return {
            "Link": unary(gate, knowledge_pb2.LinkRequest, self.link),
            "Ground": unary(gate, knowledge_pb2.GroundRequest, self.ground),
            "GetGraph": unary(gate, knowledge_pb2.GetGraphRequest, self.get_graph),
        }

    def close(self) -> None:
        """Release the thread."""
        self._thread.shutdown()

    async def link(self, request: knowledge_pb2.LinkRequest, _deadline: Deadline) -> knowledge_pb2.LinkResponse:
        """Mentions of each text.

        Raises:
            InvalidRequestError: a text breaks a rule.
        """
        check_texts(request.texts, self._limits)
        loop = asyncio.get_running_loop()
        response = knowledge_pb2.LinkResponse(graph_version=self._retriever.info.version)
        for text in request.texts:  # one at a time: a call that is cancelled stops at the next text
            mentions = await loop.run_in_executor(self._thread, self._retriever.link, text)
            response.results.add(mentions=to_mentions(mentions))
        return response

    async def ground(self, request: knowledge_pb2.GroundRequest, _deadline: Deadline) -> knowledge_pb2.GroundResponse:
        """Mentions and evidence of each text.

        Raises:
            InvalidRequestError: a text breaks a rule, or `top_k` is out of range.
        """
        check_texts(request.texts, self._limits)
        check_top_k(request.top_k, "top_k")
        loop = asyncio.get_running_loop()
        top_k = request.top_k or DEFAULT_TOP_K
        response = knowledge_pb2.GroundResponse(graph_version=self._retriever.info.version)
        for text in request.texts:
            grounding = await loop.run_in_executor(self._thread, self._retriever.ground, text, top_k)
            response.results.add(
                mentions=to_mentions(grounding.mentions),
                evidence=to_evidence(grounding.evidence),
                coverage=grounding.coverage,
            )
        return response

    async def get_graph(
        self, _request: knowledge_pb2.GetGraphRequest, _deadline: Deadline
    ) -> knowledge_pb2.GetGraphResponse:
        """The graph in numbers."""
        return knowledge_pb2.GetGraphResponse(graph=to_graph_info(self._retriever.info))
