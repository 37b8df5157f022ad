"""`groundwire serve`: bundles and a graph over gRPC."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from groundwire.cli.graph import GRAPH, GRAPH_HELP, graph_refresh, graph_seconds
from groundwire.cli.numbers import FiniteRange
from groundwire.cli.serving_options import batching_options, security_options, tracing_options
from groundwire.server.config import (
    MODEL_CONTROLS,
    PROVIDERS,
    RELOAD_SECONDS,
    TRANSPORTS,
    Limits,
    ModelControlMode,
    Provider,
    QueryLimits,
    RepositoryConfig,
    Security,
    ServerConfig,
    TracingConfig,
    Transport,
)

_LIMITS = Limits()
_QUERY = QueryLimits()
_FILE = click.Path(path_type=Path)


def _named(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """Split each NAME=FILE."""
    models = []
    for item in given:
        name, _, path = item.partition("=")
        if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name) is None or not path:
            raise click.BadParameter(f"{item!r} is not NAME=FILE, with a name of A-Z a-z 0-9 . _ -")
        models.append((name, Path(path)))
    return tuple(models)


@click.command()
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=_FILE,
    help="Folder of a bundle; may be given several times.",
)
@click.option("--graph", type=GRAPH, help=GRAPH_HELP + " Bundles need one.")
@graph_seconds
@graph_refresh
@click.option("--query-store", type=_FILE, help="A folder made by `groundwire kg store`: answer SPARQL queries.")
@click.option(
    "--query-seconds",
    default=_QUERY.seconds,
    show_default=True,
    type=FiniteRange(0, min_open=True),
    help="Most time of a query, its wait included.",
)
@click.option("--query-rows", default=_QUERY.rows, show_default=True, type=click.IntRange(1), help="Most rows of one.")
@click.option(
    "--query-bytes", default=_QUERY.answer_bytes, show_default=True, type=click.IntRange(1), help="Largest answer."
)
@click.option(
    "--query-workers",
    default=_QUERY.workers,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes that evaluate queries, for each process on the port.",
)
@click.option(
    "--query-memory",
    default=_QUERY.memory_bytes,
    show_default=True,
    type=click.IntRange(1 << 26),
    help="Memory of one of them, in bytes.",
)
@click.option(
    "--reload-seconds",
    default=RELOAD_SECONDS,
    show_default=True,
    type=FiniteRange(0),
    help="How often to look whether graph, query store and a polled repository were replaced; 0: only on SIGHUP.",
)
@click.option("--channelz", is_flag=True, help="Tell of gRPC's connections, clients' addresses included, by channelz.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=FILE",
    callback=_named,
    help="A plain ONNX file, or a folder with model.onnx, and its name; may be given several times.",
)
@click.option(
    "--models", "repository", type=_FILE, help="A model repository: NAME/VERSION/model.onnx, or a bundle there."
)
@click.option(
    "--model-versions",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="How many versions of a model of the repository answer, the latest ones.",
)
@click.option(
    "--model-control",
    default="none",
    show_default=True,
    type=click.Choice(MODEL_CONTROLS),
    help="Who changes the repository's models while the server runs: nobody, its folder, or clients.",
)
@click.option(
    "--load-model",
    "load",
    multiple=True,
    metavar="NAME",
    help="With --model-control explicit: load it at the start; * for all; may be given several times.",
)
@click.option("--listen", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option(
    "--transport",
    default="auto",
    show_default=True,
    type=click.Choice(TRANSPORTS),
    help="What carries gRPC: native is pygrpc-native, faster, without TLS, channelz and rate limits. auto takes it "
    "where it is installed and can do what is asked, and says why.",
)
@click.option("--metrics", default="", metavar="HOST:PORT", help="Answer Prometheus there; not given: nowhere.")
@security_options
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes on the port.")
@click.option(
    "--provider",
    default="auto",
    show_default=True,
    type=click.Choice(PROVIDERS),
    help="What runs the models; auto says what it picked and why.",
)
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="Of a model's run; 0: all cores.")
@click.option(
    "--max-text",
    default=_LIMITS.text_length,
    show_default=True,
    type=click.IntRange(1),
    help="Longest text, in code points.",
)
@click.option(
    "--max-inputs", default=_LIMITS.inputs, show_default=True, type=click.IntRange(1), help="Most inputs of a request."
)
@click.option(
    "--max-message",
    default=_LIMITS.message_bytes,
    show_default=True,
    type=click.IntRange(1),
    help="Largest request, in bytes.",
)
@click.option(
    "--max-stream",
    default=_LIMITS.stream_in_flight,
    show_default=True,
    type=click.IntRange(1),
    help="Most inputs of a stream in flight.",
)
@click.option(
    "--batch-rows", default=_LIMITS.batch_rows, show_default=True, type=click.IntRange(1), help="Most rows of a batch."
)
@click.option(
    "--batch-tokens",
    default=_LIMITS.batch_tokens,
    show_default=True,
    type=click.IntRange(1),
    help="Most tokens of a batch, padding included.",
)
@click.option(
    "--queue-rows",
    default=_LIMITS.queue_rows,
    show_default=True,
    type=click.IntRange(1),
    help="Most rows that wait for a model.",
)
@click.option(
    "--queue-bytes",
    default=_LIMITS.queue_bytes,
    show_default=True,
    type=click.IntRange(1),
    help="Most bytes of tensors that wait for a plain model.",
)
@batching_options
@tracing_options
@click.option(
    "--drain-seconds",
    default=_LIMITS.drain_seconds,
    show_default=True,
    type=FiniteRange(0, min_open=True),
    help="How long a shutdown waits for what is in flight.",
)
def serve(
    bundles: tuple[Path, ...],
    graph: Path | str | None,
    graph_seconds: float,
    graph_refresh: float,
    query_store: Path | None,
    query_seconds: float,
    query_rows: int,
    query_bytes: int,
    query_workers: int,
    query_memory: int,
    reload_seconds: float,
    channelz: bool,
    models: tuple[tuple[str, Path], ...],
    repository: Path | None,
    model_versions: int,
    model_control: ModelControlMode,
    load: tuple[str, ...],
    listen: str,
    transport: Transport,
    metrics: str,
    security: Security,
    workers: int,
    provider: Provider,
    threads: int,
    max_text: int,
    max_inputs: int,
    max_message: int,
    max_stream: int,
    batch_rows: int,
    batch_tokens: int,
    queue_rows: int,
    queue_bytes: int,
    batching: dict[str, Any],
    tracing: TracingConfig | None,
    drain_seconds: float,
) -> None:
    """Serve bundles with a graph over gRPC until SIGTERM or Ctrl-C.

    Prints "listening on HOST:PORT" to stdout once ready; logs are JSON lines on stderr. The first signal drains: health
    says NOT_SERVING, new calls are refused, accepted ones are answered. A second one ends at once. SIGHUP reads graph
    and query store again.
    """
    # gRPC core reads this when it is imported. Its own lines are no structured ones, and clients choose what they say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from groundwire.kg import LiveOptions
    from groundwire.server import main
    from groundwire.server import workers as processes
    from groundwire.server.logs import configure_logging

    if repository is None and (load or model_control != "none"):
        raise click.UsageError("--model-control and --load-model need --models FOLDER")
    if not bundles and not models and repository is None:
        raise click.UsageError(
            "nothing to serve: give --bundle DIR with --graph, --model NAME=FILE.onnx, or --models FOLDER"
        )
    if bundles and graph is None:
        raise click.UsageError("a bundle answers with a graph: give --graph, a compiled graph or an RDF file")
    configure_logging()
    limits = Limits(
        text_length=max_text,
        inputs=max_inputs,
        message_bytes=max_message,
        stream_in_flight=max_stream,
        batch_rows=batch_rows,
        batch_tokens=batch_tokens,
        queue_rows=queue_rows,
        queue_bytes=queue_bytes,
        drain_seconds=drain_seconds,
        **batching,
    )
    query = QueryLimits(
        seconds=query_seconds,
        rows=query_rows,
        answer_bytes=query_bytes,
        workers=query_workers,
        memory_bytes=query_memory,
    )
    config = ServerConfig(
        bundles,
        graph,
        listen,
        provider,
        threads,
        metrics=metrics,
        models=models,
        security=security,
        limits=limits,
        query_store=query_store,
        query=query,
        reload_seconds=reload_seconds,
        channelz=channelz,
        repository=None if repository is None else RepositoryConfig(repository, model_versions, model_control, load),
        live=LiveOptions(graph_seconds, refresh_seconds=graph_refresh),
        tracing=tracing,
        transport=transport,
    )
    sys.exit(processes.supervise(config, workers) if workers > 1 else main.serve(config))
