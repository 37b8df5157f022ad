"""Structured logs: one JSON object a line on stderr. Texts of requests never enter them."""

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType

from grpc._cython.cygrpc import ExecuteBatchError  # type: ignore[import-not-found]  # gRPC names it nowhere else

from groundwire.server.trace import CURRENT

_FOREIGN = {"asyncio", "grpc"}  # their messages and errors quote what a client sent
_QUOTED = re.compile(r"\[/.*|b['\"].*|\(.*|\n.*", re.DOTALL)  # a path, arguments, what follows the first line

_log = logging.getLogger("groundwire.server")


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, event, what the caller passed as `extra={"fields": {...}}`, and the trace of the call."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        foreign = record.name.partition(".")[0] in _FOREIGN
        if record.exc_info and record.exc_info[0] is ExecuteBatchError:
            # Its client has gone, of which gRPC hears only after it tried to answer, and then calls that an error.
            record = logging.makeLogRecord({"created": record.created, "process": record.process, "name": __name__,
                                            "levelname": "INFO", "msg": "client gone before its answer"})  # fmt: skip
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": _QUOTED.sub("", record.getMessage()).rstrip() if foreign else record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        call = CURRENT.get()
        if call is not None:
            line["trace_id"] = call.trace_id
        if record.exc_info and foreign:
            line |= _error(record.exc_info[0], record.exc_info[2])
        elif record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: int = logging.INFO) -> None:
    """Send Groundwire's logs, what gRPC and asyncio warn of, and failures of OpenTelemetry to stderr.

    Errors that Python or gRPC would print there by themselves become lines of the log too, with kind and place of the
    error only. For a process that is a server, not a library.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    least = {"groundwire": level, "grpc": logging.WARNING, "asyncio": logging.WARNING, "opentelemetry": logging.ERROR}
    for name, its_level in least.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(its_level)
        logger.propagate = False
    sys.unraisablehook = _unraisable
    # grpc.aio calls this, after its line of the log, when it can't tell a client of an error.
    traceback.print_exc = _printed


def _error(kind: type[BaseException] | None, trace: TracebackType | None) -> dict[str, str]:
    """What may be said of an error whose message may quote a client: its kind, and where it was raised."""
    said = {"error": kind.__name__ if kind else ""}
    frames = traceback.extract_tb(trace)
    return said | {"at": f"{frames[-1].filename}:{frames[-1].lineno}"} if frames else said


def _unraisable(raised: "sys.UnraisableHookArgs") -> None:
    _log.error("error that nobody can catch", extra={"fields": _error(raised.exc_type, raised.exc_traceback)})


def _printed(*_options: object, **_more: object) -> None:
    kind, _, trace = sys.exc_info()
    _log.error("error printed by a library", extra={"fields": _error(kind, trace)})
