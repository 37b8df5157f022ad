"""Prometheus metrics: what a server counts, and the port on which it tells.

One process keeps its numbers in memory. Several worker processes keep them in files that the supervisor adds up when it
is asked, so a worker that dies takes none of its counts with it. That mode of prometheus_client is chosen by the
environment variable `MULTIPROCESS_DIR`, which it reads when it is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from groundwire.server.config import split_address
from groundwire.server.errors import ConfigurationError
from groundwire.server.statistics import Record
from groundwire.v1 import prediction_pb2

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
STAGES = ("ground", "encode", "queue", "infer", "decide")

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The instruments of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "groundwire_requests",
            "Calls that ended, by gRPC status.",
            ["service", "method", "code"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "groundwire_request_seconds",
            "Time from the handler's start to its end; of a stream, to the end of the stream.",
            ["service", "method"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stage_seconds = Histogram(
            "groundwire_stage_seconds",
            "Time of an answered request in each stage of the pipeline.",
            ["model", "stage"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.batch_rows = Histogram(
            "groundwire_batch_rows", "Rows of a run of the model.", ["model"], registry=self.registry, buckets=_ROWS
        )
        self.tokens = Counter(
            "groundwire_tokens", "Tokens that the model read, without padding.", ["model"], registry=self.registry
        )
        self.queue_rows = Gauge(
            "groundwire_queue_rows",
            "Rows that wait for the model.",
            ["model"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.predictions = Counter(
            "groundwire_predictions", "Predictions, by decision.", ["model", "decision"], registry=self.registry
        )
        self.abstentions = Counter(
            "groundwire_abstentions",
            "Reasons to abstain; a prediction may have several.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.coverage = Histogram(
            "groundwire_coverage",
            "Share of a text's content words that the graph accounts for.",
            ["model"],
            registry=self.registry,
            buckets=_SHARES,
        )
        self.versions = Gauge(
            "groundwire_graph_serving",
            "Processes that answer from this version of the graph, or of the query store.",
            ["source", "version"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(
            "groundwire_graph_reloads",
            "Changed graphs and query stores, by whether they were accepted or refused.",
            ["source", "outcome"],
            registry=self.registry,
        )


class GraphMetrics:
    """The instruments of what is replaced while the server runs: `source` is graph or query store."""

    def __init__(self, metrics: Metrics, source: str) -> None:
        self._versions = metrics.versions
        self._source = source
        self._current = ""
        self._outcomes = {
            accepted: metrics.reloads.labels(source, "accepted" if accepted else "refused")
            for accepted in (True, False)
        }

    def serving(self, version: str) -> None:
        """This version answers from now on."""
        if self._current:
            # Not removed: what another process counts under it must stay.
            self._versions.labels(self._source, self._current).set(0)
        self._current = version
        self._versions.labels(self._source, version).set(1)

    def reloaded(self, *, accepted: bool) -> None:
        """Count a changed graph."""
        self._outcomes[accepted].inc()


class ModelMetrics:
    """The instruments of one model; looked up by label once, and not at every request."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._stages = {stage: metrics.stage_seconds.labels(model, stage) for stage in STAGES}
        self._batch_rows = metrics.batch_rows.labels(model)
        self._tokens = metrics.tokens.labels(model)
        self._queue_rows = metrics.queue_rows.labels(model)
        self._coverage = metrics.coverage.labels(model)
        self._decisions = {
            value: metrics.predictions.labels(model, name.removeprefix("DECISION_").lower())
            for name, value in prediction_pb2.Decision.items()
            if value
        }
        self._reasons = {
            value: metrics.abstentions.labels(model, name.removeprefix("ABSTAIN_REASON_").lower())
            for name, value in prediction_pb2.AbstainReason.items()
            if value
        }

    def answered(self, record: Record) -> None:
        """Count the stages of a request that was answered."""
        for stage, instrument in self._stages.items():
            instrument.observe(getattr(record, stage))

    def ran(self, rows: int, tokens: int) -> None:
        """Count a run of the model."""
        self._batch_rows.observe(rows)
        self._tokens.inc(tokens)

    def waiting(self, rows: int) -> None:
        """Say how many rows wait."""
        self._queue_rows.set(rows)

    def predicted(self, prediction: prediction_pb2.Prediction) -> None:
        """Count one prediction, its reasons to abstain, and what the graph knows of its text."""
        self._decisions[prediction.decision].inc()
        for reason in prediction.abstain_reasons:
            self._reasons[reason].inc()
        self._coverage.observe(prediction.uncertainty.knowledge.coverage)


def collect_files(folder: str) -> CollectorRegistry:
    """A registry that adds up what worker processes write to `folder`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return registry


@contextmanager
def exposed(registry: CollectorRegistry, listen: str) -> Iterator[str]:
    """Answer GET /metrics on `HOST:PORT` from a thread. Gives the address, with the real port.

    Raises:
        ConfigurationError: the address is in use, or none.
    """
    host, port = split_address(listen)
    server: WSGIServer
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except OSError as error:
        raise ConfigurationError(
            f"can't serve metrics on {listen}: {error.strerror or error}. Choose another with --metrics HOST:PORT."
        ) from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
