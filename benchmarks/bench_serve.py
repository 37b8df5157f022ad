"""Measure what serving costs beyond the model. JSON results go to benchmarks/results/serve.json.

    python benchmarks/bench_serve.py --bundle DIR --graph DIR --texts FILE.jsonl [--requests 2000] [--clients 32]

Two questions are answered against bare ONNX Runtime on rows that were encoded before the clock starts:

- Saturation: CPU time of the bare runs over CPU time of the server process for the same texts. CPU time, so that the
  load generator, in a process of its own, does not blur it. The bare runs get the very batches that the server formed,
  which it notes down; `padding` is the share of them that is padding, which both sides pay for.
  Once with a text a request, once with `TOGETHER` of them.
- One client: median latency of the call, minus the median time of the model on the same text alone. The model is also
  timed after pauses as long as those between a client's calls, since a processor that slept is slower at first.

Beside both stands what gRPC takes alone: a server of the same library that answers with as many bytes, at once, or
after a wait when 32 clients ask.

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
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from serve_load import TICKS, Row, Serving, ask, ask_at, echo

RESULTS = Path(__file__).parent / "results" / "serve.json"
WARM_UP = 100
PAUSE = 0.002  # seconds; about what one client and the server need between two runs of the model
TOGETHER = 4  # texts of a request, in the second measurement at saturation


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

    def cpu_of_all(self, batches: list[list[Row]]) -> float:
        """CPU seconds for all batches."""
        feeds = [self.batch(rows) for rows in batches]
        for feed in feeds[:5]:
            self.run(feed)
        before = time.process_time()
        for feed in feeds:
            self.run(feed)
        return time.process_time() - before


def padding(batches: list[list[Row]]) -> float:
    """Share of the tokens of all batches that is padding."""
    whole = sum(len(rows) * max(len(ids) for ids, _ in rows) for rows in batches)
    return 1 - sum(len(ids) for rows in batches for ids, _ in rows) / whole


@dataclass(frozen=True, slots=True)
class Saturated:
    """One run at saturation: when, and what it took. `cpu` is the server's seconds; `busy` the share of others."""

    texts: int
    started: float
    ended: float
    cpu: float
    busy: float

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / (self.ended - self.started)


def saturate(server: Serving, texts: list[str], clients: int, together: int) -> Saturated:
    """Ask with all clients at once."""
    busy, there = machine_cpu()
    mine = server.cpu() + time.process_time()
    cpu, started = server.cpu(), time.time()
    asyncio.run(ask(server.address, texts, clients, together))
    ended, cpu = time.time(), server.cpu() - cpu
    busy_after, there_after = machine_cpu()
    others = (busy_after - busy) - (server.cpu() + time.process_time() - mine)
    return Saturated(len(texts), started, ended, cpu, max(others, 0) / (there_after - there))


def judged(run: Saturated, batches: list[list[Row]], bare: Bare) -> dict[str, float]:
    """A run beside the bare model on the same batches."""
    bare_cpu = bare.cpu_of_all(batches)
    return {
        "texts_per_second": round(run.rate, 1),
        "batch_rows_mean": round(statistics.mean(len(rows) for rows in batches), 2),
        "padding": round(padding(batches), 3),
        "server_cpu_ms_per_text": round(1000 * run.cpu / run.texts, 3),
        "bare_cpu_ms_per_text": round(1000 * bare_cpu / run.texts, 3),
        "bare_over_server": round(bare_cpu / run.cpu, 3),
        "busy": round(run.busy, 3),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    lines = Path(arguments.texts).read_text(encoding="utf-8").splitlines()
    known = [json.loads(line)["text"] for line in lines]
    texts = [known[number % len(known)] for number in range(arguments.requests)]
    bare = Bare(arguments.bundle, arguments.graph, texts)
    notes = tempfile.NamedTemporaryFile(suffix=".batches")  # noqa: SIM115 - closed, and gone, with the measurement
    server = Serving(arguments.bundle, arguments.graph, Path(notes.name))
    try:
        asyncio.run(ask(server.address, texts[:WARM_UP], arguments.clients))
        singles = saturate(server, texts, arguments.clients, 1)
        several = saturate(server, texts, max(1, arguments.clients // TOGETHER), TOGETHER)
        loaded = open_loop(server.address, texts, singles.rate, [0.2, 0.4, 0.6, 0.8])
        alone = texts[:WARM_UP]
        asyncio.run(ask(server.address, alone, 1))
        latencies = asyncio.run(ask(server.address, alone, 1))
    finally:
        server.stop()
    saturated = {
        name: judged(some, server.batches(some.started, some.ended), bare)
        for name, some in (("saturation", singles), (f"saturation_{TOGETHER}_texts_a_request", several))
    }
    notes.close()
    feeds = [bare.batch([row]) for row in bare.rows[: len(alone)]]
    model = statistics.median(map(bare.run, feeds))
    rested = statistics.median(bare.run(feed) for feed in feeds if not time.sleep(PAUSE))
    floor, _ = echo(0.0, 1, 600)
    _, floor_cpu = echo(0.1, arguments.clients, 60 * arguments.clients)
    lengths = [len(ids) for ids, _ in bare.rows]
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
        **saturated,
        "open_loop": loaded,
        "one_client": {
            "latency_p50_ms": round(1000 * statistics.median(latencies), 3),
            "model_p50_ms": round(1000 * model, 3),
            "model_after_pauses_p50_ms": round(1000 * rested, 3),
            "beyond_model_p50_ms": round(1000 * (statistics.median(latencies) - model), 3),
            "beyond_model_after_pauses_p50_ms": round(1000 * (statistics.median(latencies) - rested), 3),
        },
        "grpc_alone": {
            "one_client_p50_ms": round(1000 * floor, 3),
            "server_cpu_ms_per_call": round(1000 * floor_cpu, 3),
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
