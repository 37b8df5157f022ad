"""Measure serving on a GPU: served texts a second over bare ONNX Runtime. Results go to benchmarks/results/cuda.json.

    python benchmarks/bench_cuda.py --bundle DIR --graph DIR|FILE --texts FILE.jsonl [--workers 1,2,4,8,12]

The bundle's weights are in FP16 (`encoder.weights = "float16"`). Rows are cut at 64 tokens, and texts are left out that
make rows of less than `--least`, so that both sides run 64 tokens, nearly.

- Bare: one session on rows that were encoded before the clock starts, in batches of 32 to 256; the fastest counts.
- Served: that many worker processes on one port, asked by `--clients` processes, each with several requests at a time
  and `--together` texts in each. More and more at a time, until p99 is above 20 ms: the fastest below counts.

`--provider cpu` tries the whole way on a machine without a GPU; its figures say nothing of one with.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groundwire.export.machine import hardware

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results" / "cuda.json"
TOKENS = 64
BATCHES = (32, 64, 128, 256)
IN_FLIGHT = (1, 2, 4, 8, 16, 32)  # requests at a time, of each client process
BARS = {"served_over_bare": 0.8, "p99_ms": 20.0}
MAIN = "from groundwire.cli.serve import serve; serve()"


def prepare(arguments: argparse.Namespace, folder: Path) -> tuple[list[str], np.ndarray]:
    """Texts whose rows have 64 tokens, and those rows as the model's three inputs, [3, N, 64]."""
    from groundwire.bundle import open_bundle, seal_bundle
    from groundwire.kg import compile_graph, open_graph

    if arguments.graph.is_file():
        arguments.graph = compile_graph([arguments.graph], folder / "graph")
    opened = open_bundle(arguments.bundle)
    shutil.copytree(arguments.bundle, folder / "staging")
    opened.manifest.inputs.max_tokens = TOKENS
    opened.manifest.inputs.top_k = max(16, opened.manifest.inputs.top_k)
    bundle = seal_bundle(folder / "staging", opened.manifest, folder / "bundle")
    arguments.bundle = bundle.path
    encoder, retriever = bundle.encoder(), open_graph(arguments.graph)
    texts, rows = [], []
    for line in arguments.texts.read_text(encoding="utf-8").splitlines()[: arguments.most]:
        text = json.loads(line)["text"]
        row = encoder.encode(text, retriever.ground(text, bundle.manifest.inputs.top_k).evidence)
        if len(row.ids) >= arguments.least:
            texts.append(text)
            short = TOKENS - len(row.ids)
            rows.append((row.ids + [encoder.pad_id] * short, [1] * len(row.ids) + [0] * short,
                         row.type_ids + [0] * short))  # fmt: skip
    retriever.close()
    return texts, np.array(rows, np.int64).transpose(1, 0, 2)


def bare(arguments: argparse.Namespace, rows: np.ndarray) -> dict[str, float]:
    """Rows a second by batch size, in this process."""
    from groundwire.bundle import INPUTS, OUTPUTS, open_bundle
    from groundwire.server.providers import open_session, run_session, session_options

    options = session_options(arguments.threads)
    session, provider, _ = open_session(open_bundle(arguments.bundle).model, options, arguments.provider)
    found = {}
    for size in BATCHES:
        starts = range(0, max(1, rows.shape[1] - size + 1), size)
        feeds = [dict(zip(INPUTS, rows[:, start : start + size], strict=True)) for start in starts]
        for feed in feeds[:3]:
            run_session(session, OUTPUTS, feed, bound=provider != "cpu")
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < arguments.seconds:
            for feed in feeds:
                run_session(session, OUTPUTS, feed, bound=provider != "cpu")
                count += feed[INPUTS[0]].shape[0]
                if time.perf_counter() - started > arguments.seconds:
                    break
        found[str(size)] = round(count / (time.perf_counter() - started), 1)
    return found


@contextmanager
def served(arguments: argparse.Namespace, workers: int) -> Iterator[str]:
    """The address of a server of so many processes, on one device."""
    options = ["--bundle", arguments.bundle, "--graph", arguments.graph, "--listen", "127.0.0.1:0", "--provider",
               arguments.provider, "--threads", arguments.threads, "--workers", workers]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError("the server did not start; `groundwire serve` with the same options says why")
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait()


def client(address: str, texts: list[str], in_flight: int, together: int, seconds: float) -> list[float]:
    """Ask for `seconds` after a second of warm-up. Latencies of the requests answered in that time, in seconds."""
    import grpc

    from groundwire.server.client import predict_request
    from groundwire.v1 import prediction_pb2_grpc

    async def ask() -> list[float]:
        latencies: list[float] = []
        begin = time.perf_counter() + 1.0

        async def work(number: int, channel: grpc.aio.Channel) -> None:
            stub, at = prediction_pb2_grpc.PredictionServiceStub(channel), number * together
            while (started := time.perf_counter()) < begin + seconds:
                some = [texts[(at + n) % len(texts)] for n in range(together)]
                await stub.Predict(predict_request(some), timeout=30)
                if started >= begin:
                    latencies.append(time.perf_counter() - started)
                at += in_flight * together

        # A connection goes to one of the server's processes, as the kernel chooses, so there are many.
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, own) for _ in range(in_flight)]
        await asyncio.gather(*(work(number, one) for number, one in enumerate(channels)))
        for one in channels:
            await one.close()
        return latencies

    return asyncio.run(ask())


def asked(arguments: argparse.Namespace, address: str, texts: list[str], in_flight: int) -> dict[str, float]:
    """Texts a second and latencies with all client processes at once."""
    with mp.get_context("spawn").Pool(arguments.clients) as pool:
        orders = [
            (address, texts[n:] + texts[:n], in_flight, arguments.together, arguments.seconds)
            for n in range(0, 97 * arguments.clients, 97)
        ]
        latencies = np.concatenate(pool.starmap(client, orders))
    return {
        "in_flight": in_flight * arguments.clients,
        "texts_per_second": round(len(latencies) * arguments.together / arguments.seconds, 1),
        "p50_ms": round(float(np.percentile(latencies, 50)) * 1000, 2),
        "p99_ms": round(float(np.percentile(latencies, 99)) * 1000, 2),
    }


def device() -> str:
    """What nvidia-smi calls the GPU, empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    texts, rows = prepare(arguments, folder)
    if not texts:
        raise SystemExit("no text makes a row that long; give --least fewer tokens, or texts with more evidence")
    with mp.get_context("spawn").Pool(1) as pool:  # its memory on the device is free again for the servers
        alone = pool.apply(bare, (arguments, rows))
    fastest = max(alone.values())
    by_workers: dict[str, list[dict[str, float]]] = {}
    for workers in map(int, arguments.workers.split(",")):
        runs = by_workers.setdefault(str(workers), [])
        with served(arguments, workers) as address:
            for in_flight in IN_FLIGHT:
                runs.append(asked(arguments, address, texts, in_flight))
                print(workers, runs[-1], file=sys.stderr)
                if runs[-1]["p99_ms"] > BARS["p99_ms"]:
                    break
    good = [
        {"workers": int(workers), **run}
        for workers, runs in by_workers.items()
        for run in runs
        if run["p99_ms"] <= BARS["p99_ms"]
    ]
    best = max(good, key=lambda run: run["texts_per_second"], default=None)
    return {
        "hardware": hardware(), "gpu": device(),
        "command": "python benchmarks/bench_cuda.py", "provider": arguments.provider, "tokens": TOKENS,
        "texts": len(texts), "texts_a_request": arguments.together, "client_processes": arguments.clients,
        "bare_texts_per_second_by_batch": alone, "served_by_workers": by_workers, "best": best,
        "served_over_bare": round(best["texts_per_second"] / fastest, 3) if best else None, "bars": BARS,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--provider", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--workers", default="1,2,4,8,12", help="processes of the server, one measurement each")
    parser.add_argument("--clients", type=int, default=max(1, (os.cpu_count() or 4) // 4), help="processes that ask")
    parser.add_argument("--together", type=int, default=8, help="texts of a request")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime, for what runs on the processor")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--most", type=int, default=2000, help="texts that are looked at")
    parser.add_argument("--least", type=int, default=60, help="tokens of a row, before it is padded to 64")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
