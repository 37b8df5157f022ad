"""What one client waits for beyond the model, for bench_serve.py.

Call by call: latency minus what `session.run` took for it in the server, where it follows a pause and other work, so
that the speed of the machine at that moment counts on both sides. Beside it, in rounds that take turns:

- a server of the same library that does nothing but run the same model on a thread, on rows encoded beforehand, and
  answers with as many bytes;
- the model alone, one run after another, and after pauses.
"""

import asyncio
import pickle
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_load import ANSWER_BYTES, Bare, Serving, answering, ask, ask_echo, ask_in_turn

PAUSE = 0.002  # seconds; about what one client and the server need between two runs of the model
# It answers with the seconds of its run, and as many bytes as were asked for.
MODEL_ALONE = """
import asyncio, itertools, pickle, struct, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import onnxruntime

feeds, size = itertools.cycle(pickle.loads(Path(sys.argv[2]).read_bytes())), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
thread = ThreadPoolExecutor(1)

def run():
    started = time.perf_counter()
    session.run(None, next(feeds))
    return struct.pack("d", time.perf_counter() - started)

async def answer(content, context):
    return (await asyncio.get_running_loop().run_in_executor(thread, run)).ljust(size)
"""


@contextmanager
def model_alone(model: Path, feeds: list[Any]) -> Iterator[str]:
    """The address of a server that does nothing but run the model, on one of the feeds a call, in turn."""
    with tempfile.NamedTemporaryFile(suffix=".feeds") as file:
        file.write(pickle.dumps(feeds))
        file.flush()
        with answering(MODEL_ALONE, str(model), file.name, str(ANSWER_BYTES)) as (address, _):
            yield address


def seconds_in(answer: bytes) -> float:
    """What `MODEL_ALONE` says that its run took."""
    seconds: float = struct.unpack_from("d", answer)[0]
    return seconds


class OneClient:
    """The measurement: `ask` while the server runs, `report` when it was stopped, since it notes its runs to the end.

    Args:
        server: Groundwire, with nobody else asking.
        texts: asked in turn, each alone.
        bare: the model with the rows of `texts`, in their order.
        model: its file.
    """

    def __init__(self, server: Serving, texts: list[str], bare: Bare, model: Path) -> None:
        self._server, self._texts, self._bare, self._model = server, texts, bare, model
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._moments: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def ask(self, rounds: int) -> None:
        """Let all sides take turns."""
        address, texts = self._server.address, self._texts
        feeds = [self._bare.batch([row]) for row in self._bare.rows[: len(texts)]]
        with model_alone(self._model, feeds) as alone:
            asyncio.run(ask(address, texts, 1))
            asyncio.run(ask_echo(alone, 1, len(texts)))
            for _ in range(rounds):
                self._note("asyncio", lambda: asyncio.run(ask(address, texts, 1)))
                self._note("blocking", lambda: ask_in_turn(address, texts))
                answers = asyncio.run(ask_echo(alone, 1, len(texts)))
                self._latencies["model_alone"] += [seconds - seconds_in(answer) for seconds, answer in answers]
                self._latencies["bare"] += map(self._bare.run, feeds)
                self._latencies["rested"] += map(self._rested, feeds)

    def _note(self, client: str, work: Any) -> None:
        started = time.time()
        self._latencies[client] += work()
        self._moments[client].append((started, time.time()))

    def report(self) -> dict[str, float]:
        """Medians in milliseconds."""
        found = {client: self._beyond(client) for client in self._moments}
        figures = {
            "latency_p50_ms": statistics.median(self._latencies["asyncio"]),
            "model_in_server_p50_ms": statistics.median(self._runs("asyncio")),
            "model_p50_ms": statistics.median(self._latencies["bare"]),
            "model_after_pauses_p50_ms": statistics.median(self._latencies["rested"]),
            "beyond_model_in_server_p50_ms": found["asyncio"],
            "blocking_client_beyond_model_in_server_p50_ms": found["blocking"],
            "model_alone_over_grpc_beyond_model_p50_ms": statistics.median(self._latencies["model_alone"]),
        }
        return {name: round(1000 * seconds, 3) for name, seconds in figures.items()}

    def _rested(self, feed: Any) -> float:
        time.sleep(PAUSE)
        return self._bare.run(feed)

    def _runs(self, client: str) -> list[float]:
        """Seconds of the model, of each call."""
        return [seconds for moments in self._moments[client] for seconds in self._server.run_seconds(*moments)]

    def _beyond(self, client: str) -> float:
        return statistics.median(
            latency - run for latency, run in zip(self._latencies[client], self._runs(client), strict=True)
        )
