"""A closed loop of the Open Inference Protocol through Triton's own client, for bench_peers.py.

It reads one order a line from stdin, {"address", "model", "inputs", "output", "clients", "warm_up", "seconds"}, and
answers each with a line of JSON. `inputs` are [name, datatype, nested lists]. One process asks every server, so that
all of them meet the same client in the same state.
"""

import asyncio
import gc
import itertools
import json
import sys
import time

import numpy as np
import uvloop
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

DTYPES = {"INT64": np.int64, "BYTES": np.object_}


async def ask(order: dict) -> dict:
    inputs = []
    for name, datatype, values in order["inputs"]:
        array = np.array(values, DTYPES[datatype])
        given = InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array)
        inputs.append(given)
    outputs = [InferRequestedOutput(order["output"])]
    async with InferenceServerClient(order["address"]) as client:

        async def infer() -> np.ndarray:
            answer = await client.infer(order["model"], inputs, outputs=outputs)
            return answer.as_numpy(order["output"])

        async def work(end: float) -> list[float]:
            latencies = []
            now = time.perf_counter()
            while now < end:
                await infer()
                before, now = now, time.perf_counter()
                latencies.append(now - before)
            return latencies

        async def loop(seconds: float) -> list[float]:
            end = time.perf_counter() + seconds
            found = await asyncio.gather(*(work(end) for _ in range(order["clients"])))
            return list(itertools.chain.from_iterable(found))

        first = await infer()
        await loop(order["warm_up"])
        gc.collect()
        cpu, started = time.process_time(), time.perf_counter()
        latencies = await loop(order["seconds"])
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if latencies else (0.0, 0.0)
    return {
        "answer": first.ravel().tolist(),
        "requests": len(latencies),
        "seconds": wall,
        "client_cpu_seconds": cpu,
        "p50_ms": p50,
        "p99_ms": p99,
    }


for line in sys.stdin:
    try:
        found = uvloop.run(ask(json.loads(line)))
    except InferenceServerException as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
