"""Measure what serving costs beyond the model. JSON results go to benchmarks/results/serve.json.

    python benchmarks/bench_serve.py --bundle DIR --graph DIR --texts FILE.jsonl [--requests 2000] [--clients 32]
        [--transport native]
    python benchmarks/bench_serve.py ... --graph FILE.nq.gz --tokens 20 60    # RDF is compiled first

`--tokens LOW HIGH` asks for the texts alone that make rows of so many tokens with their evidence; the bundle is sealed
anew to cut rows at HIGH. How well it predicts then is not asked here.

Two questions are answered against bare ONNX Runtime on rows that were encoded before the clock starts:

- Saturation: CPU time of the bare runs over CPU time of the server process for the same texts. CPU time, so that the
  load generator, in a process of its own, does not blur it. The bare runs get the very batches that the server formed,
  which it notes down; `padding` is the share of them that is padding, which both sides pay for.
  Once with a text a request, once with `TOGETHER` of them; in rounds, a new server each, and bare runs between them,
  since the speed of a shared machine changes within minutes. Ratios are of the sums. `model_share_of_server_cpu` is
  what ONNX Runtime took in the server itself, over the same CPU time, so it does not hang on the machine's speed.
- One client: median latency of the call beyond the model's own time (serve_alone.py), with the client for asyncio, and
  with the one that blocks, as a caller with one request at a time would; beside a server that does nothing else but run
  the model.

Beside both stands what gRPC takes alone: a server of the same library that answers with as many bytes, at once, or
after a wait when 32 clients ask.

A third needs no other side:

- Open loop: requests come at random (a Poisson process) at shares of what the same server answers at saturation, which
  is measured right before each, since a shared machine changes its speed; whether or not the earlier ones were
  answered, and latency counts from the moment that one was due. `--plot` draws it. Once with one thread, which leaves
  the load generator a core of its own, and once with all cores, an instance of one thread on each.

Told besides: how far the company of other rows moves a text's probabilities, as INT8 scales whole batches.

Where sides are compared, both use one thread of ONNX Runtime. `busy` is the share of the machine's processors that
others used meanwhile.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundwire.bundle import MODEL
from groundwire.export.machine import hardware
from groundwire.server.config import CARRIERS

sys.path.insert(0, str(Path(__file__).parent))

from serve_alone import OneClient
from serve_load import TICKS, Bare, Row, Serving, ask, ask_at, echo

RESULTS = Path(__file__).parent / "results" / "serve.json"
WARM_UP = 100
SATURATE_SECONDS = 5.0  # of the throughput that a load of the open loop is a share of
OPEN_SECONDS = 20.0  # of each; longer, and the machine is another one at the end
LOADS = (0.2, 0.4, 0.6, 0.8)
CORES = str(len(os.sched_getaffinity(0)))
WAYS = {
    "open_loop": ("--threads", "1"),
    "open_loop_instances": ("--threads", "1", "--instances", CORES),
}
TOGETHER = 4  # texts of a request, in the second measurement at saturation


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Milliseconds."""
    found = {f"p{share}_ms": float(np.percentile(latencies, share)) * 1000 for share in (50, 90, 99)}
    return {name: round(value, 2) for name, value in found.items()}


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


def padding(batches: list[list[Row]]) -> float:
    """Share of the tokens of all batches that is padding."""
    whole = sum(len(rows) * max(len(ids) for ids, _ in rows) for rows in batches)
    return 1 - sum(len(ids) for rows in batches for ids, _ in rows) / whole


def moved_by_company(bare: Bare, batches: list[list[Row]], most: int = 300) -> dict[str, float]:
    """The largest change of a row's probabilities between the batch that it ran in and a batch of its own."""
    moved: list[float] = []
    for rows in batches:
        if len(rows) > 1 and len(moved) < most:
            alone = np.concatenate([bare.probabilities([row]) for row in rows])
            moved += np.abs(bare.probabilities(rows) - alone).max(axis=1).tolist()
    return {
        "rows": len(moved), "median": round(statistics.median(moved), 4), "largest": round(max(moved), 4)
    }  # fmt: skip


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


def open_loop(server: Serving, texts: list[str], clients: int) -> dict[str, Any]:
    """Latencies at shares of what `clients` at once get."""

    def for_seconds(seconds: float, rate: float) -> list[str]:
        return [texts[number % len(texts)] for number in range(round(seconds * rate))]

    found = {}
    throughput = saturate(server, texts[:WARM_UP], clients, 1).rate
    for load in LOADS:
        saturated = saturate(server, for_seconds(SATURATE_SECONDS, throughput), clients, 1)
        throughput = saturated.rate
        rate = load * throughput
        some = for_seconds(OPEN_SECONDS, rate)
        figures = percentiles(asyncio.run(ask_at(server.address, some, rate)))
        found[f"{load:.0%}"] = {
            "saturation_per_second": round(throughput, 1),
            "saturation_cpu_ms_per_text": round(1000 * saturated.cpu / saturated.texts, 3),
            "requests_per_second": round(rate, 1), "requests": len(some), **figures,
            "p99_over_p50": round(figures["p99_ms"] / figures["p50_ms"], 2),
        }  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Judged:
    """A run beside the bare model on the same batches. `in_model`: seconds of ONNX Runtime in the server."""

    run: Saturated
    batches: list[list[Row]]
    in_model: float
    bare_cpu: float

    @property
    def ratio(self) -> float:
        """CPU of the bare model over that of the server."""
        return self.bare_cpu / self.run.cpu


def report(rounds: list[Judged]) -> dict[str, Any]:
    """What several rounds come to."""
    texts, cpu = sum(one.run.texts for one in rounds), sum(one.run.cpu for one in rounds)
    bare = sum(one.bare_cpu for one in rounds)
    batches = [rows for one in rounds for rows in one.batches]
    return {
        "texts_per_second": round(statistics.median(one.run.rate for one in rounds), 1),
        "batch_rows_mean": round(statistics.mean(len(rows) for rows in batches), 2),
        "padding": round(padding(batches), 3),
        "server_cpu_ms_per_text": round(1000 * cpu / texts, 3),
        "bare_cpu_ms_per_text": round(1000 * bare / texts, 3),
        "model_share_of_server_cpu": round(sum(one.in_model for one in rounds) / cpu, 3),
        "bare_over_server": round(bare / cpu, 3),
        "bare_over_server_by_round": [round(one.ratio, 3) for one in rounds],
        "busy": round(max(one.run.busy for one in rounds), 3),
    }


@contextmanager
def serving(arguments: argparse.Namespace, notes: Path, texts: list[str], *options: str) -> Iterator[Serving]:
    """A server that has answered some texts; with one thread of ONNX Runtime, unless the options say else."""
    given = options or ("--threads", "1")
    server = Serving(arguments.bundle, arguments.graph, notes, arguments.transport, given)
    try:
        asyncio.run(ask(server.address, texts[:WARM_UP], arguments.clients))
        yield server
    finally:
        server.stop()


def one_round(arguments: argparse.Namespace, texts: list[str], bare: Bare) -> list[Judged]:
    """A server at saturation with one text a request and with several, and the bare model on its batches."""
    with tempfile.NamedTemporaryFile(suffix=".batches") as notes:
        with serving(arguments, Path(notes.name), texts) as server:
            runs = [
                saturate(server, texts, max(1, arguments.clients // together), together) for together in (1, TOGETHER)
            ]
        found = [
            (run, server.batches(run.started, run.ended), sum(server.run_seconds(run.started, run.ended)))
            for run in runs
        ]
    return [Judged(run, batches, in_model, bare.cpu_of_all(batches)) for run, batches, in_model in found]


def with_rows_of(arguments: argparse.Namespace, known: list[str], folder: Path) -> list[str]:
    """The texts that make rows of the tokens asked for, with a bundle made for that in `folder`."""
    from groundwire.bundle import open_bundle, seal_bundle

    low, high = arguments.tokens
    opened = open_bundle(arguments.bundle)
    shutil.copytree(arguments.bundle, folder / "staging")
    opened.manifest.inputs.max_tokens = high
    arguments.bundle = seal_bundle(folder / "staging", opened.manifest, folder / "bundle").path
    rows = Bare(arguments.bundle, arguments.graph, known).rows
    return [text for text, (ids, _) in zip(known, rows, strict=True) if low <= len(ids) <= high]


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if arguments.graph.is_file():
        from groundwire.kg import compile_graph

        arguments.graph = compile_graph([arguments.graph], folder / "graph")
    known = [json.loads(line)["text"] for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    if arguments.tokens:
        known = with_rows_of(arguments, known, folder)
    texts = [known[number % len(known)] for number in range(arguments.requests)]
    bare = Bare(arguments.bundle, arguments.graph, texts)
    rounds = [one_round(arguments, texts, bare) for _ in range(arguments.rounds)]
    singles, several = (report([one[way] for one in rounds]) for way in (0, 1))
    loaded = {}
    for name, options in WAYS.items():
        with serving(arguments, folder / "batches", texts, *options) as server:
            loaded[name] = open_loop(server, texts, arguments.clients)
    with serving(arguments, folder / "batches", texts) as server:
        alone = OneClient(server, texts[:WARM_UP], bare, arguments.bundle / MODEL)
        alone.ask(arguments.rounds)
    floor, _ = echo(0.0, 1, 600)
    _, floor_cpu = echo(0.1, arguments.clients, 60 * arguments.clients)
    lengths = [len(ids) for ids, _ in bare.rows]
    return {
        "hardware": hardware(),
        "command": ["python", "benchmarks/bench_serve.py", "--requests", str(arguments.requests), "--clients",
                    str(arguments.clients), *(["--tokens", *map(str, arguments.tokens)] if arguments.tokens else []),
                    "--transport", arguments.transport],
        "texts": {
            "requests": len(texts),
            "different": len(set(texts)),
            "tokens_mean": round(statistics.mean(lengths), 1),
            "tokens_least": min(lengths),
            "tokens_most": max(lengths),
        },
        "saturation": singles,
        f"saturation_{TOGETHER}_texts_a_request": several,
        **loaded,
        "one_client": alone.report() | {"grpc_alone_p50_ms": round(1000 * floor, 3)},
        "probabilities_moved_by_company": moved_by_company(bare, [rows for one in rounds for rows in one[0].batches]),
        "grpc_alone_cpu_ms_per_call": round(1000 * floor_cpu, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--transport", default="grpcio", choices=CARRIERS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, help="where to draw the open loop's latencies")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(results, arguments.plot)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
