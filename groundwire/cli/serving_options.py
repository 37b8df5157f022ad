"""Options of `groundwire serve` that belong together: who may call, how requests share runs, how they are traced."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from groundwire.cli.numbers import FiniteRange
from groundwire.server.config import MAX_INSTANCES, MAX_PRIORITY_LEVELS, Limits, Security, TracingConfig

_LIMITS = Limits()
_FILE = click.Path(path_type=Path)


def security_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as `security`: a `Security`."""

    @functools.wraps(command)
    def secured(
        *args: Any,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_client_ca: Path | None,
        token_file: Path | None,
        rate: float,
        **kwargs: Any,
    ) -> Any:
        return command(*args, security=Security(tls_cert, tls_key, tls_client_ca, token_file, rate), **kwargs)

    options = (
        click.option(
            "--tls-cert", type=_FILE, help="PEM file of the server's certificate; read again when it changes."
        ),
        click.option("--tls-key", type=_FILE, help="PEM file of its key."),
        click.option(
            "--tls-client-ca", type=_FILE, help="PEM file of authorities; clients then need a certificate of one."
        ),
        click.option("--token-file", type=_FILE, help="Bearer tokens, one a line; read again when it changes."),
        click.option(
            "--rate",
            default=0.0,
            show_default=True,
            type=FiniteRange(0),
            help="Calls a second of one client to one process; 0: any number.",
        ),
    )
    for option in reversed(options):
        secured = option(secured)
    return secured


def batching_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as `batching`: fields of `Limits`."""

    @functools.wraps(command)
    def batched(
        *args: Any, instances: int, batch_delay_ms: int, priority_levels: int, warm_up: bool, **kwargs: Any
    ) -> Any:
        batching = {
            "instances": instances,
            "batch_delay": batch_delay_ms / 1e3,
            "priority_levels": priority_levels,
            "warm_up_seconds": _LIMITS.warm_up_seconds if warm_up else 0.0,
        }
        return command(*args, batching=batching, **kwargs)

    options = (
        click.option(
            "--instances",
            default=_LIMITS.instances,
            show_default=True,
            type=click.IntRange(1, MAX_INSTANCES),
            help="How many batches of a model run at once; without --threads they share the cores.",
        ),
        click.option(
            "--batch-delay-ms",
            default=round(1e3 * _LIMITS.batch_delay),
            show_default=True,
            type=click.IntRange(0, 10_000),
            help="How long an idle model waits for more rows to share a run.",
        ),
        click.option(
            "--priority-levels",
            default=_LIMITS.priority_levels,
            show_default=True,
            type=click.IntRange(1, MAX_PRIORITY_LEVELS),
            help="How many priorities a request may have, 1 being the first.",
        ),
        click.option(
            "--warm-up/--no-warm-up", default=True, show_default=True, help="Run the shapes of batches at the start."
        ),
    )
    for option in reversed(options):
        batched = option(batched)
    return batched


def tracing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as `tracing`: a `TracingConfig`, or none."""

    @functools.wraps(command)
    def traced(*args: Any, otlp_endpoint: str, trace_ratio: float, **kwargs: Any) -> Any:
        tracing = TracingConfig(otlp_endpoint, trace_ratio) if otlp_endpoint else None
        return command(*args, tracing=tracing, **kwargs)

    options = (
        click.option(
            "--otlp-endpoint",
            default="",
            metavar="URL",
            help="Send traces to this OpenTelemetry collector over gRPC, such as http://127.0.0.1:4317.",
        ),
        click.option(
            "--trace-ratio",
            default=1.0,
            show_default=True,
            type=FiniteRange(0, 1),
            help="Share of calls that are traced, of those whose caller has not decided.",
        ),
    )
    for option in reversed(options):
        traced = option(traced)
    return traced
