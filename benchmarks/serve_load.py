"""Servers in processes of their own, and the load on them, for bench_serve.py."""

import asyncio
import os
import pickle
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ANSWER_BYTES = 1400  # of one text's answer
TICKS = os.sysconf("SC_CLK_TCK")

# `groundwire serve`, which also notes when each batch was run, what rows it held and what ONNX Runtime took for it, and
# writes that down at its end.
NOTED = """
import atexit, pickle, sys, time
from pathlib import Path
from groundwire.cli.serve import serve
from groundwire.server import runtime

batches, seconds, run, run_session = [], [], runtime.Runtime.run, runtime.run_session

def noted(self, rows):
    batches.append((time.time(), rows))
    return run(self, rows)

def timed(*args, **kwargs):
    started = time.perf_counter()
    found = run_session(*args, **kwargs)
    seconds.append(time.perf_counter() - started)
    return found

def write():
    plain = [
        (when, [(row.ids, row.type_ids) for row in rows], took)
        for (when, rows), took in zip(batches, seconds, strict=True)
    ]
    Path(path).write_bytes(pickle.dumps(plain))

runtime.Runtime.run, runtime.run_session = noted, timed
path = sys.argv.pop(1)
atexit.register(write)
serve()
"""
# The least that a server of this library does: no model, no parsing. It waits so long, and answers with so many bytes.
ECHO = """
import asyncio, sys

wait, size = float(sys.argv[1]), int(sys.argv[2])

async def answer(content, context):
    if wait:
        await asyncio.sleep(wait)
    return b"x" * size
"""
# What follows the `answer` of such a server.
ANSWERING = """
import asyncio, grpc, uvloop

async def main():
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()

uvloop.run(main())
"""
Row = tuple[list[int], list[int]]  # token ids, type ids


def cpu_of(pid: int) -> float:
    """Seconds of all threads of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Serving:
    """`groundwire serve` in a process of its own, and the batches that it ran, once it was stopped."""

    def __init__(self, bundle: Path, graph: Path, notes: Path, transport: str, options: Sequence[str]) -> None:
        served = ("--bundle", str(bundle), "--graph", str(graph), "--listen", "127.0.0.1:0", "--transport", transport)
        self._notes = notes
        command = [sys.executable, "-c", NOTED, str(notes), *served, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()

    def cpu(self) -> float:
        """Seconds of all its threads, user and system."""
        return cpu_of(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def batches(self, start: float, end: float) -> list[list[Row]]:
        """Those run between two moments, in seconds since 1970."""
        return [rows for when, rows, _ in self._noted() if start <= when <= end]

    def run_seconds(self, start: float, end: float) -> list[float]:
        """What ONNX Runtime took for each of them."""
        return [took for when, _, took in self._noted() if start <= when <= end]

    def _noted(self) -> list[tuple[float, list[Row], float]]:
        found: list[tuple[float, list[Row], float]] = pickle.loads(self._notes.read_bytes())
        return found


async def ask(address: str, texts: list[str], clients: int, together: int = 1) -> list[float]:
    """Ask for the texts, so many in a request, `clients` at a time. Latencies in seconds."""
    from groundwire.server.client import AsyncClient

    waiting = iter([texts[start : start + together] for start in range(0, len(texts), together)])
    latencies: list[float] = []
    async with AsyncClient(address) as client:

        async def work() -> None:
            for some in waiting:
                started = time.perf_counter()
                await client.predict(some)
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(work() for _ in range(clients)))
    return latencies


def ask_in_turn(address: str, texts: list[str]) -> list[float]:
    """Ask for one text after the other, with the client that blocks. Latencies in seconds."""
    from groundwire.server.client import Client

    latencies: list[float] = []
    with Client(address) as client:
        for text in texts:
            started = time.perf_counter()
            client.predict([text])
            latencies.append(time.perf_counter() - started)
    return latencies


async def ask_at(address: str, texts: list[str], rate: float) -> list[float]:
    """Ask at random moments, `rate` a second on the average. Latencies in seconds from when each was due."""
    from groundwire.server.client import AsyncClient

    chance = random.Random(0)
    latencies: list[float] = []
    async with AsyncClient(address) as client:

        async def one(text: str, due: float) -> None:
            await client.predict([text])
            latencies.append(time.perf_counter() - due)

        due, tasks = time.perf_counter(), []
        for text in texts:
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(text, due)))
        await asyncio.gather(*tasks)
    return latencies


@contextmanager
def answering(code: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """The address and the process id of a server that answers with the `answer` of `code`; see `ask_echo`."""
    command = [sys.executable, "-c", code + ANSWERING, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


def echo(wait: float, clients: int, calls: int) -> tuple[float, float]:
    """What gRPC takes alone: median latency in seconds beyond `wait`, and CPU seconds of the server for a call."""
    with answering(ECHO, str(wait), str(ANSWER_BYTES)) as (address, pid):
        asyncio.run(ask_echo(address, clients, 3 * clients))
        before = cpu_of(pid)
        answers = asyncio.run(ask_echo(address, clients, calls))
        latency = statistics.median(seconds for seconds, _ in answers)
        return latency - wait, (cpu_of(pid) - before) / len(answers)


async def ask_echo(address: str, clients: int, calls: int) -> list[tuple[float, bytes]]:
    """Latencies in seconds, and answers."""
    answers: list[tuple[float, bytes]] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/Echo/Echo")

        async def work() -> None:
            for _ in range(calls // clients):
                started = time.perf_counter()
                answer = await call(b"y" * 80, timeout=30)
                answers.append((time.perf_counter() - started, answer))

        await asyncio.gather(*(work() for _ in range(clients)))
    return answers


class Bare:
    """The model alone, on rows encoded beforehand."""

    def __init__(self, bundle: Path, graph: Path, texts: list[str]) -> None:
        from groundwire.bundle import open_bundle
        from groundwire.kg import open_graph
        from groundwire.server.providers import open_session, session_options

        opened = open_bundle(bundle)
        self._session, _, _ = open_session(opened.model, session_options(1), "cpu")
        encoder = opened.encoder()
        self._pad = encoder.pad_id
        retriever = open_graph(graph)
        top_k = opened.manifest.inputs.top_k
        self.rows = [
            (row.ids, row.type_ids)
            for row in (encoder.encode(text, retriever.ground(text, top_k).evidence) for text in texts)
        ]
        retriever.close()

    def batch(self, rows: list[Row]) -> dict[str, np.ndarray]:
        from groundwire.bundle import INPUTS

        feed = np.zeros((3, len(rows), max(len(ids) for ids, _ in rows)), np.int64)
        feed[0] = self._pad
        for at, (ids, type_ids) in enumerate(rows):
            size = len(ids)
            feed[0, at, :size], feed[1, at, :size], feed[2, at, :size] = ids, 1, type_ids
        return dict(zip(INPUTS, feed, strict=True))

    def run(self, feed: dict[str, np.ndarray]) -> float:
        from groundwire.bundle import OUTPUTS

        started = time.perf_counter()
        self._session.run(list(OUTPUTS), feed)
        return time.perf_counter() - started

    def probabilities(self, rows: list[Row]) -> np.ndarray:
        """[rows, labels]"""
        found: np.ndarray = self._session.run(["probabilities"], self.batch(rows))[0]
        return found

    def cpu_of_all(self, batches: list[list[Row]]) -> float:
        """CPU seconds for all batches."""
        feeds = [self.batch(rows) for rows in batches]
        for feed in feeds[:5]:
            self.run(feed)
        before = time.process_time()
        for feed in feeds:
            self.run(feed)
        return time.process_time() - before
