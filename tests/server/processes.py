"""`groundwire serve` as a process of its own, for the tests that send it signals."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_MAIN = "from groundwire.cli.serve import serve; serve()"


class ServeProcess:
    """Serves a bundle with a graph, or what the options say when there is none; over grpcio, unless they say else.

    Starts on entering, waits for the line that says where it listens, and is killed on leaving if it still runs."""

    def __init__(self, bundle: Path | None, graph: Path | None, *options: str, prelude: str = "") -> None:
        arguments = ["--listen", "127.0.0.1:0", "--threads", "1"]
        arguments += ["--bundle", str(bundle)] if bundle else []
        arguments += ["--graph", str(graph)] if graph else []
        arguments += [] if "--transport" in options else ["--transport", "grpcio"]
        self._command = [sys.executable, "-c", prelude + _MAIN, *arguments, *options]
        self._log: list[dict[str, Any]] = []
        self._grew = threading.Condition()

    def start(self) -> "subprocess.Popen[str]":
        """Start it, and wait for nothing."""
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=dict(os.environ),
            errors="backslashreplace",  # gRPC prints what hostile clients send as it is
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self.process

    def __enter__(self) -> Self:
        self.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), (line, self._log)
        self.address = line.removeprefix("listening on ").strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def lines(self) -> list[dict[str, Any]]:
        with self._grew:
            return list(self._log)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the log holds `count` such events."""
        with self._grew:
            found = self._grew.wait_for(lambda: sum(line["event"] == event for line in self._log) >= count, 60)
            assert found, (event, self._log)
        return self.events(event)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grew:
                try:
                    self._log.append(json.loads(line))
                except json.JSONDecodeError:
                    self._log.append({"event": "other", "line": line})
                self._grew.notify_all()
