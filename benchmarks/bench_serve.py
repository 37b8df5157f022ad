"""Measure what serving costs beyond the model. JSON results go to benchmarks/results/serve.json.

    python benchmarks/bench_serve.py --bundle DIR --graph DIR --texts FILE.jsonl [--requests 2000] [--clients 32]

Two questions are answered against bare ONNX Runtime on rows that were encoded before the clock starts:

- Saturation: CPU time of the bare runs over CPU time of the server process for the same texts. CPU time, so that the
  load generator, in a process of its own, does not blur it. The bare runs get batches of the size that the server
  formed on the average, sorted by length within the window in which the server sorts.
- One client: median latency of the call, minus the median time of the model on the same text alone.

A third needs no other side:

- Open loop: requests come at random (a Poisson process) at shares of the throughput that saturation showed, whether
  or not the earlier ones were answered, and latency counts from the moment that one was due. `--plot` draws it.

Both sides use one thread of ONNX Runtime. `busy` is the share of the machine's processors that others used meanwhile.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

RESULTS = Path(__file__).parent / "results" / "serve.json"
WARM_UP = 100
TICKS = os.sysconf("SC_CLK_TCK")


class Serving:
    """`groundwire serve` in a process of its own."""

    def __init__(self, bundle: str, graph: str) -> None:
        options = ("--bundle", bundle, "--graph", graph, "--listen", "127.0.0.1:0", "--threads", "1")
        command = [sys.executable, "-c", "from groundwire.cli.serve import serve; serve()", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()

    def cpu(self) -> float:
        """Seconds of all its threads, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rows_and_runs(self) -> tuple[int, int]:
        from groundwire.inference import service_pb2, service_pb2_grpc

        with grpc.insecure_channel(self.address) as channel:
            stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            [found] = stub.ModelStatistics(service_pb2.ModelStatisticsRequest()).model_stats
        return found.inference_count, found.execution_count

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


async def ask(address: str, texts: list[str], clients: int) -> list[float]:
    """Ask for each text in a request of its own, `clients` at a time. Latencies in seconds."""
    from groundwire.server.client import AsyncClient

    waiting = iter(texts)
    latencies: list[float] = []
    async with AsyncClient(address) as client:

        async def work() -> None:
            for text in waiting:
                started = time.perf_counter()
                await client.predict([text])
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(work() for _ in range(clients)))
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


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Milliseconds."""
    found = {f"p{share}_ms": float(np.percentile(latencies, share)) * 1000 for share in (50, 90, 99)}
    return {name: round(value, 2) for name, value in found.items()}


def open_loop(address: str, texts: list[str], throughput: float, loads: list[float]) -> dict[str, Any]:
    """Latencies at shares of the throughput, each for at most the given texts and some 20 seconds."""
    found = {}
    for load in loads:
        rate = load * throughput
        some = texts[: max(200, round(20 * rate))]
        figures = percentiles(asyncio.run(ask_at(address, some, rate)))
        found[f"{load:.0%}"] = {
            "requests_per_second": round(rate, 1), "requests": len(some), **figures,
            "p99_over_p50": round(figures["p99_ms"] / figures["p50_ms"], 2),
        }  # fmt: skip
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = results["open_loop"]
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in ("p50_ms", "p90_ms", "p99_ms"):
        axes.plot([row["requests_per_second"] for row in found.values()], [row[name] for row in found.values()], "o-",
                  label=name.removesuffix("_ms"))  # fmt: skip
    axes.set_xlabel("requests a second, Poisson arrivals")
    axes.set_ylabel("latency, ms")
    axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def machine_cpu() -> tuple[float, float]:
    """Seconds that all processors were busy, and were there."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS, sum(fields) / TICKS


class Bare:
    """The model alone, on rows encoded beforehand."""

    def __init__(self, bundle: str, graph: str, texts: list[str]) -> None:
        from groundwire.bundle import open_bundle
        from groundwire.kg import open_graph
        from groundwire.server.providers import open_session, session_options

        opened = open_bundle(Path(bundle))
        self._session, _, _ = open_session(opened.model, session_options(1), "cpu")
        encoder = opened.encoder()
        self._pad = encoder.pad_id
        retriever = open_graph(Path(graph))
        top_k = opened.manifest.inputs.top_k
        self.rows = [encoder.encode(text, retriever.ground(text, top_k).evidence) for text in texts]
        retriever.close()

    def batch(self, rows: list[Any]) -> dict[str, np.ndarray]:
        from groundwire.bundle import INPUTS

        feed = np.zeros((3, len(rows), max(len(row.ids) for row in rows)), np.int64)
        feed[0] = self._pad
        for at, row in enumerate(rows):
            size = len(row.ids)
            feed[0, at, :size], feed[1, at, :size], feed[2, at, :size] = row.ids, 1, row.type_ids
        return dict(zip(INPUTS, feed, strict=True))

    def run(self, feed: dict[str, np.ndarray]) -> float:
        from groundwire.bundle import OUTPUTS

        started = time.perf_counter()
        self._session.run(list(OUTPUTS), feed)
        return time.perf_counter() - started

    def cpu_of_all(self, size: int, window: int) -> float:
        """CPU seconds for all rows in batches of `size`, sorted by length within each `window` rows."""
        ordered = [
            row
            for start in range(0, len(self.rows), window)
            for row in sorted(self.rows[start : start + window], key=lambda row: len(row.ids))
        ]
        feeds = [self.batch(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        for feed in feeds[:5]:
            self.run(feed)
        before = time.process_time()
        for feed in feeds:
            self.run(feed)
        return time.process_time() - before


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    lines = Path(arguments.texts).read_text(encoding="utf-8").splitlines()
    known = [json.loads(line)["text"] for line in lines]
    texts = [known[number % len(known)] for number in range(arguments.requests)]
    bare = Bare(arguments.bundle, arguments.graph, texts)
    server = Serving(arguments.bundle, arguments.graph)
    try:
        asyncio.run(ask(server.address, texts[:WARM_UP], arguments.clients))
        busy, there = machine_cpu()
        mine = server.cpu() + time.process_time()
        cpu, (rows, runs), started = server.cpu(), server.rows_and_runs(), time.perf_counter()
        asyncio.run(ask(server.address, texts, arguments.clients))
        wall, cpu = time.perf_counter() - started, server.cpu() - cpu
        rows, runs = (now - before for now, before in zip(server.rows_and_runs(), (rows, runs), strict=True))
        busy_after, there_after = machine_cpu()
        others = (busy_after - busy) - (server.cpu() + time.process_time() - mine)
        size = max(1, round(rows / runs))
        bare_cpu = bare.cpu_of_all(size, arguments.clients)
        loaded = open_loop(server.address, texts, len(texts) / wall, [0.2, 0.4, 0.6, 0.8])
        alone = texts[:WARM_UP]
        asyncio.run(ask(server.address, alone, 1))
        latencies = asyncio.run(ask(server.address, alone, 1))
    finally:
        server.stop()
    model = [bare.run(bare.batch([row])) for row in bare.rows[: len(alone)]]
    lengths = [len(row.ids) for row in bare.rows]
    return {
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "command": [
            "python",
            "benchmarks/bench_serve.py",
            "--requests",
            str(arguments.requests),
            "--clients",
            str(arguments.clients),
        ],
        "texts": {
            "requests": len(texts),
            "different": len(set(texts)),
            "tokens_mean": round(statistics.mean(lengths), 1),
        },
        "busy": round(max(others, 0) / (there_after - there), 3),
        "saturation": {
            "requests_per_second": round(len(texts) / wall, 1),
            "batch_rows_mean": round(rows / runs, 2),
            "server_cpu_ms_per_text": round(1000 * cpu / len(texts), 3),
            "bare_cpu_ms_per_text": round(1000 * bare_cpu / len(texts), 3),
            "bare_over_server": round(bare_cpu / cpu, 3),
        },
        "open_loop": loaded,
        "one_client": {
            "latency_p50_ms": round(1000 * statistics.median(latencies), 3),
            "model_p50_ms": round(1000 * statistics.median(model), 3),
            "beyond_model_p50_ms": round(1000 * (statistics.median(latencies) - statistics.median(model)), 3),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--graph", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, help="where to draw the open loop's latencies")
    arguments = parser.parse_args()
    results = measure(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(results, arguments.plot)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
