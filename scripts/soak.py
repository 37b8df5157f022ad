"""Ask a server for a long time, with all that clients do, and see that its memory stays and its answers are right.

    python scripts/soak.py [--requests 200000] [--clients 24] [--seed 0] [--out FILE] [--plot FILE]

Mixed: predictions of one to 32 texts with and without contributions and probes, streams, tensors, linking, grounding,
SPARQL, descriptions, requests that are wrong, calls that their client cancels, and connections that come and go. A
message of a stream counts as a request. Every answer is compared with that of the model asked directly.

It prints JSON with the requests by kind and how they ended, the throughput, and the resident memory of the server and
its processes. `growth` is that of the second half: the median of its last tenth over the median of its first. The
exit code is 1 when it is over 2 %, or an answer was wrong, missing or of an unexpected status. The plot needs
matplotlib.
"""

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from fuzz_cases import QUERIES
from small_server import ADDER, LOOKUP, ROWS, TABLE, TEXTS, WIDTH, SmallServer, finish, tensor_request, text_request

from groundwire.inference import service_pb2 as oip
from groundwire.inference import service_pb2_grpc
from groundwire.server.client import AsyncClient, RemoteError
from groundwire.server.config import CARRIERS
from groundwire.v1 import prediction_pb2

GROWTH = 0.02
SAMPLE_SECONDS = 0.5
PATIENCE = 600.0  # seconds for an answer: a machine that was paused meanwhile is no failure
VARIANTS = 40  # of each text: as many different rows as the server may remember something of
MIB = 1 << 20
# Share of each kind among the calls.
SHARES = {
    "predict": 30, "explain": 4, "stream": 3, "tensors": 20, "text tensors": 12, "tensor stream": 2, "link": 6,
    "ground": 6, "query": 2, "describe": 3, "wrong": 8, "cancelled": 4,
}  # fmt: skip


@dataclass
class Tally:
    """What happened so far."""

    wanted: int
    done: Counter[str] = field(default_factory=Counter)  # requests by kind
    ended: Counter[str] = field(default_factory=Counter)  # calls by status
    failures: list[str] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, requests, bytes
    count: int = 0

    def add(self, kind: str, requests: int = 1) -> None:
        """Count requests that were answered as they should."""
        self.done[kind] += requests
        self.count += requests

    def check(self, right: bool, what: str) -> None:
        """Note an answer that is wrong."""
        if not right:
            self.failures.append(f"wrong answer: {what}")


class Caller:
    """One client. Each method named as a kind of `SHARES` makes one call of it."""

    def __init__(self, server: SmallServer, tally: Tally, seed: int) -> None:
        self._server = server
        self._tally = tally
        self._rng = random.Random(seed)
        self._client: AsyncClient
        self._stub: Any
        self._calls: dict[str, Callable[[], Awaitable[None]]] = {
            kind: getattr(self, f"_{kind.replace(' ', '_')}") for kind in SHARES
        }

    async def run(self) -> None:
        """Call until enough was asked, on a new connection now and then."""
        kinds, shares = list(SHARES), list(SHARES.values())
        options = (("grpc.use_local_subchannel_pool", 1),)
        while self._tally.count < self._tally.wanted:
            async with (
                AsyncClient(self._server.address, timeout=PATIENCE) as self._client,
                grpc.aio.insecure_channel(self._server.address, options) as channel,
            ):
                self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                for kind in self._rng.choices(kinds, shares, k=self._rng.choice((20, 400))):
                    if self._tally.count >= self._tally.wanted:
                        return
                    await self._call(kind)

    async def _call(self, kind: str) -> None:
        try:
            await self._calls[kind]()
            self._tally.ended["OK"] += 1
        except (RemoteError, grpc.aio.AioRpcError) as error:
            code = error.code if isinstance(error, RemoteError) else error.code().name
            self._tally.ended[code] += 1
            if (kind, code) not in {("wrong", "INVALID_ARGUMENT"), ("wrong", "NOT_FOUND")}:
                self._tally.failures.append(f"{kind}: {error}"[:500])
            self._tally.add(kind)

    def _texts(self, most: int) -> list[str]:
        choose = self._rng
        return [f"{choose.choice(TEXTS)} {choose.randrange(VARIANTS)}" for _ in range(choose.randint(1, most))]

    async def _predict(self, **options: Any) -> None:
        texts = self._texts(self._rng.choice((1, 1, 1, 4, 32)))
        response = await self._client.predict(
            texts, options=prediction_pb2.PredictOptions(**options) if options else None
        )
        right = [self._server.is_prediction(t, p.scores) for t, p in zip(texts, response.predictions, strict=True)]
        self._tally.check(all(right), f"predict {texts}")
        self._tally.add("explain" if options else "predict")

    async def _explain(self) -> None:
        await self._predict(contributions=self._rng.random() < 0.5, probes=self._rng.randrange(5), coverage=0.8)

    async def _stream(self) -> None:
        texts = self._texts(30)

        async def ask() -> AsyncIterator[prediction_pb2.PredictStreamRequest]:
            for number, text in enumerate(texts):
                yield prediction_pb2.PredictStreamRequest(id=str(number), input=prediction_pb2.PredictInput(text=text))

        missing = set(range(len(texts)))
        async for answer in self._client.predict_stream(ask()):
            missing.remove(int(answer.id))
            right = self._server.is_prediction(texts[int(answer.id)], answer.prediction.scores)
            self._tally.check(right, f"stream {answer}")
        self._tally.check(not missing, f"stream: no answer to {missing}")
        self._tally.add("stream", len(texts))

    def _tensor(self) -> tuple[oip.ModelInferRequest, bytes]:
        """A request, and the content of the answer."""
        rows, choose = self._rng.choice((1, 1, 2, 16)), np.random.default_rng(self._rng.randrange(1 << 30))
        if self._rng.random() < 0.5:
            x = choose.normal(size=(rows, WIDTH)).astype(np.float32)
            return tensor_request(ADDER, x), (x + np.float32(1)).tobytes()
        index = choose.integers(0, ROWS, (rows, self._rng.randint(1, 3)))
        return tensor_request(LOOKUP, index), TABLE[index].tobytes()

    async def _tensors(self) -> None:
        asked, expected = self._tensor()
        response = await self._stub.ModelInfer(asked, timeout=PATIENCE)
        self._tally.check(response.raw_output_contents[0] == expected, f"tensors {asked}")
        self._tally.add("tensors")

    async def _tensor_stream(self) -> None:
        pairs = [self._tensor() for _ in range(self._rng.randint(1, 30))]
        stream = self._stub.ModelStreamInfer(iter([asked for asked, _ in pairs]), timeout=PATIENCE)
        for asked, expected in pairs:
            answer = await stream.read()
            right = answer is not grpc.aio.EOF and list(answer.infer_response.raw_output_contents) == [expected]
            self._tally.check(right, f"tensor stream {asked}")
        self._tally.add("tensor stream", len(pairs))

    async def _text_tensors(self) -> None:
        texts = self._texts(4)
        response = await self._stub.ModelInfer(text_request(texts), timeout=PATIENCE)
        self._tally.check(self._server.is_text_answer(texts, response), f"text tensors {texts}")
        self._tally.add("text tensors")

    async def _link(self) -> None:
        texts = self._texts(4)
        results = (await self._client.link(texts)).results
        self._tally.check(
            len(results) == len(texts)
            and all(r.mentions or "Nothing" in t for t, r in zip(texts, results, strict=True)),
            "link",
        )
        self._tally.add("link")

    async def _ground(self) -> None:
        texts = self._texts(4)
        results = (await self._client.ground(texts, top_k=self._rng.randrange(9))).results
        right = [bool(result.evidence) or "Nothing" in text for text, result in zip(texts, results, strict=True)]
        self._tally.check(all(right), f"ground {texts}")
        self._tally.add("ground")

    async def _query(self) -> None:
        self._tally.check(bool((await self._client.query(self._rng.choice(QUERIES[:3]))).graph_version), "query")
        self._tally.add("query")

    async def _describe(self) -> None:
        stub, client = self._stub, self._client
        call = self._rng.choice(
            (
                client.get_graph, client.list_models, client.get_model,
                lambda: stub.ModelMetadata(oip.ModelMetadataRequest(name=ADDER)),
                lambda: stub.ModelStatistics(oip.ModelStatisticsRequest()),
                lambda: stub.RepositoryIndex(oip.RepositoryIndexRequest()),
                lambda: stub.ServerMetadata(oip.ServerMetadataRequest()),
            )
        )  # fmt: skip
        await call()
        self._tally.add("describe")

    async def _wrong(self) -> None:
        """Ends in an error; one that does not is a failure."""
        number = self._rng.randrange(1 << 20)
        call = self._rng.choice(
            (
                lambda: self._client.predict([f"fine {number}", " "]),
                lambda: self._client.predict(["fine"], model=f"model {number}"),
                lambda: self._client.query(f"SELECT {number}"),
                lambda: self._stub.ModelInfer(oip.ModelInferRequest(model_name=f"model {number}")),
                lambda: self._stub.ModelInfer(tensor_request(LOOKUP, np.array([[ROWS + number]], np.int64))),
                lambda: self._stub.ModelInfer(tensor_request(ADDER, np.zeros((1, WIDTH + 1), np.float32))),
            )
        )
        await call()
        self._tally.failures.append("a wrong request was answered OK")

    async def _cancelled(self) -> None:
        call = asyncio.ensure_future(self._client.predict(self._texts(32)))
        await asyncio.sleep(self._rng.choice((0, 0, 0.0005, 0.003)))
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            self._tally.ended["CANCELLED"] += 1
        self._tally.add("cancelled")


async def sample(server: SmallServer, tally: Tally, started: float) -> None:
    """Note the memory, and say how far it is, until cancelled or the server is gone."""
    said = started
    while server.alive:
        now = time.monotonic()
        tally.samples.append((now - started, tally.count, server.resident()))
        if now - said > 15:
            said = now
            print(f"{tally.count} of {tally.wanted}, {tally.samples[-1][2] / MIB:.1f} MiB", file=sys.stderr)
        await asyncio.sleep(SAMPLE_SECONDS)
    tally.failures.append("the server died")


async def soak(server: SmallServer, requests: int, clients: int, seed: int) -> Tally:
    """Ask for so many requests."""
    tally, started = Tally(requests), time.monotonic()
    sampler = asyncio.create_task(sample(server, tally, started))
    callers = asyncio.gather(*(Caller(server, tally, seed * clients + number).run() for number in range(clients)))
    await asyncio.wait({sampler, callers}, return_when=asyncio.FIRST_COMPLETED)
    if not callers.done():
        callers.cancel()  # the server is gone
    for task in (callers, sampler):
        sampler.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome
    tally.samples.append((time.monotonic() - started, tally.count, server.resident()))
    tally.failures += [f"the server logged a bug: {line}"[:2_000] for line in server.bugs()]
    return tally


def growth(samples: list[tuple[float, int, int]], requests: int) -> tuple[float, float, float]:
    """Memory at the beginning and the end of the second half, in bytes, and the share by which it grew."""

    def median(first: float, last: float) -> float:
        inside = [size for _, count, size in samples if first * requests <= count <= last * requests]
        return statistics.median(inside or [size for _, _, size in samples[-1:]])

    half, end = median(0.5, 0.55), median(0.95, 1.1)
    return half, end, end / half - 1


def report(tally: Tally, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The tally as JSON."""
    half, end, grew = growth(tally.samples, tally.wanted)
    return {
        "ok": not tally.failures and grew <= GROWTH,
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "command": [
            "python",
            "scripts/soak.py",
            "--requests",
            str(arguments.requests),
            "--clients",
            str(arguments.clients),
        ],
        "requests": tally.count,
        "seconds": round(seconds, 1),
        "requests_per_second": round(tally.count / seconds, 1),
        "by_kind": dict(tally.done.most_common()),
        "calls_by_status": dict(tally.ended.most_common()),
        "failures": len(tally.failures),
        "first_failures": tally.failures[:10],
        "resident_mib": {
            "start": round(tally.samples[0][2] / MIB, 1),
            "half": round(half / MIB, 1),
            "end": round(end / MIB, 1),
            "most": round(max(size for _, _, size in tally.samples) / MIB, 1),
        },
        "growth": round(grew, 4),
        "curve_mib": [round(size / MIB, 1) for _, _, size in tally.samples[:: max(1, len(tally.samples) // 50)]],
    }


def plot(tally: Tally, path: Path) -> None:
    """Draw the memory over the requests."""
    try:
        from matplotlib import pyplot  # noqa: PLC0415 - optional
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    axes.plot([count for _, count, _ in tally.samples], [size / MIB for _, _, size in tally.samples])
    axes.axvline(tally.wanted / 2, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="requests", ylabel="resident memory, MiB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transport", default="grpcio", choices=CARRIERS)
    parser.add_argument("--out", type=Path, help="file for the JSON, beside stdout")
    parser.add_argument("--plot", type=Path, help="file for the plot, such as soak.png")
    arguments = parser.parse_args()
    started = time.monotonic()
    with (
        SmallServer("--transport", arguments.transport) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        tally = runner.run(soak(server, arguments.requests, arguments.clients, arguments.seed))
    result = report(tally, tally.samples[-1][0], arguments)
    print(f"took {time.monotonic() - started:.0f} s", file=sys.stderr)
    if arguments.plot:
        plot(tally, arguments.plot)
    return finish(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
