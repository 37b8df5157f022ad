"""What the server tells of a call that is traced. It knows nothing of OpenTelemetry: see `groundwire.server.telemetry`.

The call that is under way is in a context variable, so that what counts and what logs find it without being handed it.
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from groundwire.server.config import TracingConfig
from groundwire.server.errors import ConfigurationError

if TYPE_CHECKING:
    from groundwire.server.statistics import Record
    from groundwire.server.telemetry import Telemetry


class Call(Protocol):
    """A call that carries a trace, be it recorded or not."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    def ended(self, model: str, record: "Record", error: str = "") -> None:
        """A request of the call, its only one or one of a stream, was answered, or failed with that kind of error."""


CURRENT: ContextVar[Call | None] = ContextVar("groundwire_call", default=None)


def trace_fields(calls: Iterable[Call | None]) -> dict[str, Any]:
    """Fields of a log line that concerns several calls: the ids of their traces, if there are any."""
    ids = sorted({call.trace_id for call in calls if call is not None})
    return {"trace_ids": ids} if ids else {}


def open_telemetry(config: TracingConfig, services: Sequence[str]) -> "Telemetry":
    """Begin to trace the calls of `services`.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    try:
        from groundwire.server.telemetry import Telemetry  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise ConfigurationError(
            "tracing needs OpenTelemetry: pip install 'groundwire[otel]', or leave --otlp-endpoint away."
        ) from error
    return Telemetry(config, services)
