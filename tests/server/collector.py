"""A small OpenTelemetry collector: takes traces by OTLP over gRPC, and keeps them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(eq=False)
class Node:
    """A span and those within it, by their beginning."""

    span: Span
    children: list["Node"] = field(default_factory=list)

    @property
    def attributes(self) -> dict[str, object]:
        values = ((item.key, item.value) for item in self.span.attributes)
        return {key: getattr(value, value.WhichOneof("value")) for key, value in values}

    def names(self) -> list[str]:
        return [child.span.name for child in self.children]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a free port of 127.0.0.1 until the block ends. With `mute` it takes spans and never answers."""

    def __init__(self, *, mute: bool = False) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self._over = threading.Event()
        self._mute = mute
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.stop(None).wait()

    def Export(  # noqa: N802 - gRPC's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        if self._mute:
            self._over.wait()
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        scopes = (scope for request in self.requests for part in request.resource_spans for scope in part.scope_spans)
        return [span for scope in scopes for span in scope.spans]

    def calls(self) -> list[Node]:
        """The spans of calls, by their beginning, with what is within them. Every span must be in one of them."""
        nodes = {span.span_id: Node(span) for span in self.spans}
        roots = []
        for node in sorted(nodes.values(), key=lambda node: node.span.start_time_unix_nano):
            if node.span.kind == Span.SPAN_KIND_SERVER:
                roots.append(node)
            else:
                nodes[node.span.parent_span_id].children.append(node)
        return roots
