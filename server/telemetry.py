"""Traces by OpenTelemetry: a span for each call, within it one for each request, and within that one for each stage.

The trace goes on that the caller began, by the call's metadata: W3C Trace Context, https://www.w3.org/TR/trace-context/.
Names and attributes of a call follow OpenTelemetry's conventions for gRPC. Spans hold times, names of methods and
models, and kinds of errors: no text, no entity, no token, no message of an error.

Spans are made when a request has ended, from the times that are taken anyway, and only if the trace is sampled. They
are sent from a thread; when the collector can't be reached, or is slower than they come, they are dropped.
"""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from groundwire import __version__
from groundwire.server.config import TracingConfig
from groundwire.server.interceptor import Context, Handler, Interceptor, within
from groundwire.server.observe import call_code
from groundwire.server.statistics import Record
from groundwire.server.trace import CURRENT

# How long a shutdown waits for the collector to take what is left, in seconds.
FLUSH_SECONDS = 2.0
# Asked by probes every few seconds, and nothing but noise in traces.
_PROBES = frozenset({"ServerLive", "ServerReady", "ModelReady"})
_KEYS = frozenset({"traceparent", "tracestate"})
# The codes that are the server's fault, by the conventions; the others are the client's.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Telemetry(Interceptor):
    """Traces calls of `services`, and sends the spans to the collector of `config` until it is closed.

    OpenTelemetry's own environment variables hold for what the settings leave open: headers, certificates, timeouts,
    sizes of queue and batches, the resource.
    """

    def __init__(self, config: TracingConfig, services: Sequence[str]) -> None:
        super().__init__()
        self._services = frozenset(services)
        self._exporter = OTLPSpanExporter(endpoint=config.endpoint, insecure=config.endpoint.startswith("http:"))
        sampler = ParentBased(TraceIdRatioBased(config.ratio))
        # Not made the process's own: several servers, and whoever embeds one, keep theirs apart.
        self._provider = TracerProvider(sampler=sampler, resource=_resource(), shutdown_on_exit=False)
        processor = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(processor)
        self._emit = _Emit(self._provider, processor)
        self._tracer = self._provider.get_tracer("groundwire", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def wrap(self, path: str, handler: Handler) -> Handler:
        """The handler, traced."""
        _, service, method = path.split("/")
        if service not in self._services or method in _PROBES:
            return handler
        name = f"{service}/{method}"
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}

        @contextmanager
        def traced(context: Context) -> Iterator[None]:
            carrier = {key: value for key, value in context.invocation_metadata() or () if key in _KEYS}
            parent = self._propagator.extract(carrier)
            span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
            # Never set back: gRPC runs each call in a task, and so in a context, of its own.
            CURRENT.set(_Call(span, self._emit))
            code = grpc.StatusCode.OK
            try:
                yield
            except BaseException as error:
                code = call_code(error, context)
                raise
            finally:
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                if code in _FAULTS:
                    span.set_status(Status(StatusCode.ERROR))
                span.end()

        return within(handler, traced)

    async def close(self) -> None:
        """Send what is left, and end the thread. Takes little more than `FLUSH_SECONDS` without a collector."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        flusher = threading.Thread(target=self._provider.force_flush, name="flush-spans", daemon=True)
        flusher.start()
        flusher.join(FLUSH_SECONDS)
        if flusher.is_alive():
            self._exporter.shutdown()  # ends the attempt that is under way, and what is left is dropped
        self._provider.shutdown()


class _Call:
    """A call and its span."""

    __slots__ = ("_emit", "_span", "trace_id")

    def __init__(self, span: Span, emit: "_Emit") -> None:
        self._span = span
        self._emit = emit
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    def ended(self, model: str, record: Record, error: str = "") -> None:
        """Make the spans of a request that ended just now.

        Stages stand in their order. What a request of several inputs does by turns, such as grounding and encoding, is
        added up in one span; of several runs of the model the span has the length, from the first one's beginning.
        """
        if not self._span.is_recording():
            return
        length = _ns(record.since())  # before the clock, so that a pause between the two can't put the start too early
        end = time.time_ns()
        start = at = end - length
        attributes = {"groundwire.model": model} | ({"error.type": error} if error else {})
        request = self._emit(
            "request",
            self._span.get_span_context(),
            start,
            end,
            attributes,
            Status(StatusCode.ERROR if error else StatusCode.UNSET),
        )
        for stage in ("ground", "encode", "queue", "infer"):
            length = _ns(getattr(record, stage))
            if length:
                self._emit(stage, request, at, at + length)
            at += length
        if record.decide:
            self._emit("decide", request, max(at, end - _ns(record.decide)), end)


class _Emit:
    """Makes a span that has ended already, without what a tracer does for one that begins: a seventh of its time."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor) -> None:
        self._processor = processor
        self._resource = provider.resource
        self._new_id = provider.id_generator.generate_span_id
        self._scope = InstrumentationScope("groundwire", __version__)

    def __call__(
        self,
        name: str,
        parent: SpanContext,
        start: int,
        end: int,
        attributes: Mapping[str, str] | None = None,
        status: Status | None = None,
    ) -> SpanContext:
        """Queue a span within `parent`, of times in nanoseconds since 1970. Returns its own context."""
        context = SpanContext(
            parent.trace_id, self._new_id(), is_remote=False, trace_flags=parent.trace_flags,
            trace_state=parent.trace_state,
        )  # fmt: skip
        span = ReadableSpan(
            name, context, parent, self._resource, attributes or {}, status=status or Status(StatusCode.UNSET),
            instrumentation_scope=self._scope, start_time=start, end_time=end,
        )  # fmt: skip
        self._processor.on_end(span)
        return context


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _resource() -> Resource:
    """Who sends: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, or this package, and which process."""
    resource = Resource.create(
        {"service.version": __version__, "service.instance.id": str(uuid.uuid4()), "process.pid": os.getpid()}
    )
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "groundwire"}))
    return resource
