"""Stop a server under load with SIGTERM, again and again, and count the requests that were lost.

    python scripts/drain_runs.py [--runs 20] [--clients 12] [--workers 1 2] [--transport native] [--out FILE]

Clients predict, stream and send tensors, each request at once after the answer to the one before, until they are
refused. A request is answered, its answer being compared with that of the model asked directly; or refused, with
UNAVAILABLE and words that say that the server is stopping or is gone; or lost: broken off in any other way. It prints
JSON; the exit code is 1 when a request was lost or wrongly answered, when the server says that it left a call
unanswered, or when it did not exit with 0.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from small_server import ADDER, TEXTS, WIDTH, SmallServer, finish, tensor_request, text_request, until

from groundwire.inference import service_pb2_grpc
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.config import CARRIERS
from groundwire.v1 import prediction_pb2

# What a client reads when its request was not accepted: by the server's word, by the connection's end (GOAWAY names the
# streams that were accepted), or because nobody listens any more.
REFUSALS = ("shutting down", "GOAWAY", "draining", "Connection refused")
WARM = 3  # requests of each client before the signal
STREAM = 12  # messages of a stream


@dataclass
class Run:
    """What happened in one run. `in_flight` is how many requests waited for an answer when the signal was sent."""

    workers: int
    answered: int = 0
    answered_after_signal: int = 0
    in_flight: int = 0
    refused: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    unanswered: int = 0  # by the server's own count
    exit_code: int = 0
    drain_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and there was something to lose."""
        failed = self.wrong or self.lost or self.unanswered or self.exit_code
        return not failed and self.in_flight > 0


class Load:
    """Clients that ask until they are refused."""

    def __init__(self, server: SmallServer, run: Run) -> None:
        self._server = server
        self._run = run
        self.signalled = False
        self.waiting = 0  # requests without an answer
        self.counts: list[int] = []

    def start(self, clients: int) -> list["asyncio.Task[None]"]:
        """Start them, each with a way of its own to ask."""
        self.counts = [0] * clients
        kinds = (self._predict, self._stream, self._tensors)
        return [asyncio.create_task(self._client(kinds[number % len(kinds)], number)) for number in range(clients)]

    async def _client(self, ask: Any, number: int) -> None:
        rng = random.Random(number)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with (
            AsyncClient(self._server.address, timeout=120) as client,
            grpc.aio.insecure_channel(self._server.address, options) as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[arg-type]
            while True:
                try:
                    await ask(client, stub, rng, number)
                except (RemoteError, grpc.aio.AioRpcError) as error:
                    code = error.code if isinstance(error, RemoteError) else error.code().name
                    if code == "UNAVAILABLE" and any(words in str(error) for words in REFUSALS):
                        self._run.refused += 1
                    else:
                        self._run.lost.append(f"{ask.__name__}: {error}"[:400])
                    return

    def _answered(self, right: bool, number: int) -> None:
        self._run.answered += 1
        self._run.answered_after_signal += self.signalled
        self._run.wrong += not right
        self.counts[number] += 1

    async def _predict(self, client: AsyncClient, _stub: Any, rng: random.Random, number: int) -> None:
        texts = [f"{rng.choice(TEXTS)} {number}" for _ in range(rng.randint(1, 16))]
        options = prediction_pb2.PredictOptions(contributions=rng.random() < 0.5, probes=rng.randrange(4))
        with self._request():
            response = await client.predict(texts, options=options)
        right = [self._server.is_prediction(t, p.scores) for t, p in zip(texts, response.predictions, strict=True)]
        self._answered(all(right), number)

    async def _tensors(self, _client: AsyncClient, stub: Any, rng: random.Random, number: int) -> None:
        texts = [f"{rng.choice(TEXTS)} {number}" for _ in range(rng.randint(1, 16))]
        x = np.full((rng.randint(1, 8), WIDTH), rng.randrange(1000), np.float32)
        with self._request():
            if rng.random() < 0.5:
                right = self._server.is_text_answer(texts, await stub.ModelInfer(text_request(texts), timeout=120))
            else:
                response = await stub.ModelInfer(tensor_request(ADDER, x), timeout=120)
                right = response.raw_output_contents[0] == (x + 1).tobytes()
        self._answered(right, number)

    async def _stream(self, _client: AsyncClient, _stub: Any, rng: random.Random, number: int) -> None:
        """One stream. What is unanswered when the server ends it with a refusal was not accepted.

        From a thread: when a stream ends while it is still being sent, grpc.aio's client may say INTERNAL, whatever the
        server said; the blocking client tells.
        """
        texts = [f"{rng.choice(TEXTS)} {number} {k}" for k in range(STREAM)]
        items = [prediction_pb2.PredictInput(text=text) for text in texts]
        requests = [prediction_pb2.PredictStreamRequest(id=str(k), input=item) for k, item in enumerate(items)]
        missing = set(range(STREAM))

        def stream() -> None:
            with Client(self._server.address) as client:
                for answer in client.predict_stream(requests):
                    missing.remove(int(answer.id))
                    self._answered(self._server.is_prediction(texts[int(answer.id)], answer.prediction.scores), number)

        with self._request():
            await asyncio.to_thread(stream)
        if missing:
            self._run.lost.append(f"a stream ended well without an answer to {sorted(missing)}")

    @contextmanager
    def _request(self) -> Iterator[None]:
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


async def drain(server: SmallServer, clients: int, workers: int) -> Run:
    """Put a server under load, stop it, and see how every request ended."""
    run = Run(workers)
    load = Load(server, run)
    tasks = load.start(clients)
    await until(lambda: min(load.counts) >= WARM or any(task.done() for task in tasks))
    run.in_flight, load.signalled = load.waiting, True
    started = time.monotonic()
    server.process.terminate()
    await asyncio.gather(*tasks)
    run.exit_code = await asyncio.to_thread(server.process.wait)
    run.drain_seconds = round(time.monotonic() - started, 3)
    run.unanswered = sum(event["unanswered"] for event in server.process.events("stopped"))
    run.lost += [f"the server logged a bug: {line}"[:2_000] for line in server.bugs()]
    return run


def drain_runs(runs: int, clients: int = 12, workers: Sequence[int] = (1, 2), transport: str = "grpcio") -> list[Run]:
    """Make so many runs, the numbers of worker processes taking turns."""
    found = []
    for number in range(runs):
        count = workers[number % len(workers)]
        with SmallServer("--workers", str(count), "--transport", transport) as server:
            found.append(asyncio.run(drain(server, clients, count)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--transport", default="grpcio", choices=CARRIERS)
    parser.add_argument("--out", type=Path, help="file for the JSON, beside stdout")
    given = parser.parse_args()
    found = drain_runs(given.runs, given.clients, given.workers, given.transport)
    result = {
        "ok": all(run.ok for run in found),
        "transport": given.transport,
        "runs": len(found),
        "lost": sum(len(run.lost) + run.unanswered for run in found),
        "wrong": sum(run.wrong for run in found),
        "answered": sum(run.answered for run in found),
        "answered_after_signal": sum(run.answered_after_signal for run in found),
        "refused": sum(run.refused for run in found),
        "each": [asdict(run) for run in found],
    }
    return finish(result, given.out)


if __name__ == "__main__":
    sys.exit(main())
