"""Measure what loading a model costs those that are asked meanwhile. JSON results go to benchmarks/results/reload.json.

    python benchmarks/bench_reload.py [--megabytes 25 100 400] [--repeat 3]

A server with a small model runs on an event loop. While a client asks the small model again and again, models of the
given sizes, chains of matrix products, are loaded and unloaded by request. Counted are the largest gap of the event
loop, in which nobody is answered, the latencies of the small model, and what the process keeps in memory.

ONNX Runtime before 1.31 holds the interpreter lock while it makes a session, so its gaps grow with the model.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import uvloop
from onnx import TensorProto, helper, numpy_helper

from groundwire.export.machine import hardware
from groundwire.inference import service_pb2 as pb
from groundwire.inference import service_pb2_grpc
from groundwire.server.app import Server
from groundwire.server.config import RepositoryConfig, ServerConfig

RESULTS = Path(__file__).parent / "results" / "reload.json"
WIDTH = 1024  # a layer is 4 MiB of weights
SMALL = "small"


def write_model(folder: Path, name: str, width: int, layers: int) -> None:
    """A chain of `layers` matrix products as version 1 of a model."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(width, width)).astype(np.float32) / width for _ in range(layers)]
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    infos = [helper.make_tensor_value_info(io, TensorProto.FLOAT, ["batch", width]) for io in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)],
        name,
        infos[:1],
        infos[1:],
        [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)],
    )
    out = folder / name / "1"
    out.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, out / "model.onnx")


class Watch:
    """Gaps of the event loop and latencies of the small model, in milliseconds, since the last `take`."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._gaps: list[float] = []
        self._latencies: list[float] = []
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._ask())]

    def take(self) -> dict[str, float]:
        gap, latencies = max(self._gaps, default=0.0), sorted(self._latencies) or [0.0]
        self._gaps, self._latencies = [], []
        return {
            "largest_gap_ms": round(gap, 1),
            "latency_p50_ms": round(latencies[len(latencies) // 2], 2),
            "latency_max_ms": round(latencies[-1], 1),
        }

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self._gaps.append((now - last) * 1e3 - 1)
            last = now

    async def _ask(self) -> None:
        asked = pb.ModelInferRequest(model_name=SMALL, raw_input_contents=[np.zeros(4, np.float32).tobytes()])
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        while True:
            started = time.perf_counter()
            await self._stub.ModelInfer(asked)
            self._latencies.append((time.perf_counter() - started) * 1e3)
            await asyncio.sleep(0.002)


def resident_mib() -> float:
    """Memory of this process that belongs to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


async def measure(folder: Path, names: list[str], repeat: int) -> dict[str, Any]:
    repository = RepositoryConfig(folder, control="explicit", load=(SMALL,))
    config = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, repository=repository)
    found: dict[str, Any] = {}
    async with Server(config) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        watch = Watch(stub)
        await asyncio.sleep(1)
        watch.take()
        await asyncio.sleep(2)
        found["idle"] = watch.take()
        for name in names:
            runs = []
            for _ in range(repeat):
                run: dict[str, Any] = {"resident_mib_before": round(resident_mib())}
                for operation in ("Load", "Unload"):
                    watch.take()
                    started = time.perf_counter()
                    request = getattr(pb, f"RepositoryModel{operation}Request")(model_name=name)
                    await getattr(stub, f"RepositoryModel{operation}")(request)
                    milliseconds = round((time.perf_counter() - started) * 1e3)
                    await asyncio.sleep(0.02)  # the gap that the end of the work made is seen too
                    run[operation.lower()] = {"ms": milliseconds} | watch.take()
                    run[f"resident_mib_after_{operation.lower()}"] = round(resident_mib())
                runs.append(run)
            found[name] = runs
        watch.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[25, 100, 400])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SMALL, 4, 1)
        names = [f"{megabytes}-megabytes" for megabytes in arguments.megabytes]
        for name, megabytes in zip(names, arguments.megabytes, strict=True):
            write_model(Path(folder), name, WIDTH, max(1, round(megabytes * 1e6 / (4 * WIDTH**2))))
        uvloop.install()
        found = asyncio.run(measure(Path(folder), names, arguments.repeat))
    result = {
        "hardware": hardware(),
        "command": ["python", "benchmarks/bench_reload.py", *sys.argv[1:]],
        "onnxruntime": onnxruntime.__version__,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    } | found
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
