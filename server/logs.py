"""Structured logs: one JSON object a line on stderr. Texts of requests never enter them."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

from groundwire.server.trace import CURRENT

_PATH = re.compile(r"\[/.*|b['\"].*", re.DOTALL)


def _without_path(message: str) -> str:
    return _PATH.sub("", message).rstrip()


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, event, what the caller passed as `extra={"fields": {...}}`, and the trace of the call."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        foreign = record.name.partition(".")[0] == "grpc"  # its messages and errors quote what a client sent
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": _without_path(record.getMessage()) if foreign else record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        call = CURRENT.get()
        if call is not None:
            line["trace_id"] = call.trace_id
        if record.exc_info and foreign:
            line["error"] = getattr(record.exc_info[0], "__name__", "")
        elif record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: int = logging.INFO) -> None:
    """Send Groundwire's logs, what gRPC warns of, and failures of OpenTelemetry to stderr.

    For a process that is a server, not a library.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, least in (("groundwire", level), ("grpc", logging.WARNING), ("opentelemetry", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
