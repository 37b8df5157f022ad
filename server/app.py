"""The server: start, serve, drain."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import uvloop
from grpc_channelz.v1 import channelz, channelz_pb2  # type: ignore[import-untyped]  # no stubs are published
from grpc_reflection.v1alpha import reflection

from groundwire.kg import Retriever
from groundwire.server import health, service_inference, service_knowledge, service_model, service_prediction
from groundwire.server.access import Access, RateLimit, Tokens
from groundwire.server.config import Security, ServerConfig, is_loopback, split_address
from groundwire.server.errors import ConfigurationError
from groundwire.server.interceptor import Interceptor
from groundwire.server.lifecycle import Gate
from groundwire.server.live import Live, open_live
from groundwire.server.metrics import Metrics, exposed
from groundwire.server.models import Models
from groundwire.server.observe import Observer
from groundwire.server.peers import Peers
from groundwire.server.service_repository import RepositoryService
from groundwire.server.sources import live_graph, live_queries, open_models, open_repository
from groundwire.server.threads import yielding
from groundwire.server.tls import Certificates
from groundwire.server.trace import open_telemetry
from groundwire.server.transport import choose_transport, open_transport

if TYPE_CHECKING:
    from groundwire.server.native import NativeServer

SERVICES = (service_prediction.NAME, service_knowledge.NAME, service_model.NAME, service_inference.NAME)
CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
# gRPC cancels the calls that it holds and has not handed over when it stops, which says less to a client than our
# refusal. So the server goes on refusing until no call came for the pause, at most for the farewell.
PAUSE_SECONDS, FAREWELL_SECONDS = 0.1, 5.0
SEND_SECONDS = 1.0  # for the last answers to leave

Handlers = Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]

_log = logging.getLogger("groundwire.server")


class Server:
    """A server on the running event loop: `async with Server(config) as server`. Leaving the block drains it.

    `peers` is the way to the other processes that serve the same port, if there are.

    Raises, on entering:
        BundleError, GraphError: a bundle or the graph can't be used.
        ProviderError: the provider asked for is missing.
        ConfigurationError: two bundles of one name, an address can't be bound, or a file of `security` can't be used.
    """

    def __init__(self, config: ServerConfig, peers: Peers | None = None) -> None:
        self.config = config
        self._peers = peers
        self.address = ""
        self.metrics_address = ""
        self.models: Models
        self._repository: RepositoryService
        self.gate: Gate
        self._live: list[Live[Any]] = []
        self._health: health.Health
        self._grpc: grpc.aio.Server | NativeServer
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drain()

    async def drain(self) -> int:
        """Stop: health says so first, new calls are refused, what is in flight is answered. Returns how many were not.

        Calling it again does nothing.
        """
        self._health.close()
        unanswered = await self.gate.close(self.config.limits.drain_seconds)
        await self.gate.quiet(PAUSE_SECONDS, FAREWELL_SECONDS)
        await self._closing.aclose()
        return unanswered

    async def reload(self) -> bool:
        """Open graph and query store again, beside the old ones, and answer from them. Whether all could be used.

        A repository that is polled is looked at too; what it can't use is in its index.
        What can't be used is refused with a line in the log, and what was there goes on serving.
        """
        await self._repository.poll()
        return all([await live.reload() for live in self._live])

    async def _start(self, stack: AsyncExitStack) -> None:
        """Load everything, then listen: a client that can connect can be answered."""
        config = self.config
        host, port = split_address(config.listen)
        if config.security.tls_cert is None and not is_loopback(host):
            _log.warning(
                "not encrypted: other machines can reach this address, and can read and change what is sent; "
                "give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that encrypts",
                extra={"fields": {"address": config.listen}},
            )
        telemetry = open_telemetry(config.tracing, SERVICES) if config.tracing else None
        if telemetry is not None:
            stack.push_async_callback(telemetry.close)
        metrics = Metrics() if config.metrics else None
        self.gate = Gate()
        self._health = health.Health()
        handlers = await self._open(stack, metrics)
        handlers[health.NAME] = self._health.handlers()
        with yielding():  # gRPC starts its threads with its first server
            methods = {f"/{service}/{name}": one for service, held in handlers.items() for name, one in held.items()}
            transport = choose_transport(config)
            around = _interceptors(config.security, metrics, telemetry)
            server = self._grpc = open_transport(transport, config, methods, around)
        if not isinstance(server, grpc.aio.Server):
            self.gate.unheard = lambda: server.unheard
        reflected = [*handlers, reflection.SERVICE_NAME]
        if config.channelz:
            channelz.add_channelz_servicer(self._grpc)
            reflected.append(CHANNELZ)
        reflection.enable_server_reflection(reflected, self._grpc)
        try:
            if config.security.tls_cert is None:
                port = self._grpc.add_insecure_port(config.listen)
            elif isinstance(self._grpc, grpc.aio.Server):
                port = self._grpc.add_secure_port(config.listen, Certificates(config.security).credentials())
        except RuntimeError as error:
            raise ConfigurationError(
                f"can't listen on {config.listen}: the address is in use or not of this machine. "
                "Choose another with --listen; port 0 takes a free one."
            ) from error
        self.address = f"{host}:{port}"
        if metrics and not config.reuse_port:
            self.metrics_address = stack.enter_context(exposed(metrics.registry, config.metrics))
            _log.info("metrics", extra={"fields": {"address": self.metrics_address}})
        await self._grpc.start()
        stack.push_async_callback(self._grpc.stop, SEND_SECONDS)
        fields = {"address": self.address, "transport": transport.name, "why": transport.why}
        _log.info("ready", extra={"fields": fields})

    async def _open(self, stack: AsyncExitStack, metrics: Metrics | None) -> dict[str, Handlers]:
        """Open graph and models. Returns the methods of each service that can be offered with them."""
        config, gate = self.config, self.gate
        if not config.bundles and not config.models and config.repository is None:
            raise ConfigurationError(
                "nothing to serve: give --bundle DIR with --graph, --model NAME=FILE.onnx, or --models FOLDER."
            )
        handlers: dict[str, Handlers] = {}
        graph: Live[Retriever] | None = None
        if config.graph is not None:
            graph = live_graph(config.graph, config.live, metrics)
            await stack.enter_async_context(open_live(graph, config.reload_seconds))
            self._live.append(graph)
            queries = None
            if config.query_store is not None:
                queries = live_queries(config.query_store, config.query, metrics)
                await stack.enter_async_context(open_live(queries, config.reload_seconds))
                self._live.append(queries)
            knowledge = service_knowledge.KnowledgeService(graph, config.limits, queries)
            stack.callback(knowledge.close)
            handlers[service_knowledge.NAME] = knowledge.handlers(gate)
        elif config.query_store is not None:
            raise ConfigurationError("--query-store needs --graph: the service that answers queries links texts too.")
        elif config.bundles:
            raise ConfigurationError("a bundle answers with a graph: give --graph, a compiled graph or an RDF file.")
        catalog = await open_models(stack, config, graph, metrics, gate.alone)
        self.models = Models(catalog)
        self._repository = await open_repository(stack, config, catalog, graph, metrics, self._peers, gate.alone)
        if graph is not None and (config.bundles or config.repository is not None):
            prediction = service_prediction.PredictionService(self.models, config.limits, gate)
            handlers[service_prediction.NAME] = prediction.handlers()
            handlers[service_model.NAME] = service_model.ModelService(self.models).handlers(gate)
        inference = service_inference.InferenceService(catalog, self._repository, config.limits, gate)
        handlers[service_inference.NAME] = inference.handlers()
        for service in ("", *handlers):
            self._health.set(service, serving=True)
        if service_prediction.NAME in handlers:
            catalog.on_change(lambda: self._health.set(service_prediction.NAME, serving=bool(self.models.all())))
        return handlers


def _interceptors(
    security: Security, metrics: Metrics | None, telemetry: Interceptor | None
) -> tuple[Interceptor, ...]:
    """What is around every call: first the one that counts, so that it counts refusals too.

    The one that traces comes last: what a caller that is refused says of its trace is not read.
    """
    tokens = Tokens(security.token_file) if security.token_file is not None else None
    limit = RateLimit(security.rate) if security.rate else None
    all_ = (Observer(metrics) if metrics else None, Access(tokens, limit) if tokens or limit else None, telemetry)
    return tuple(interceptor for interceptor in all_ if interceptor is not None)


class BackgroundServer:
    """A server on a thread of its own, for tests, notebooks and the demo: `with BackgroundServer(config) as server`.

    `address` is where it listens, `metrics_address` where it answers Prometheus, if it does. Raises on entering what
    `Server` raises.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.address = ""
        self.metrics_address = ""
        self._config = config
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="groundwire-server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # handed to the thread that started this one
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        async with Server(self._config) as server:
            self.address, self.metrics_address = server.address, server.metrics_address
            self._ready.set()
            await self._stopped.wait()
