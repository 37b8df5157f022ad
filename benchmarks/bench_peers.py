"""Measure the Open Inference Protocol beside other servers. JSON results go to benchmarks/results/peers.json.

    python benchmarks/bench_peers.py --venvs DIR [--peers kserve,mlserver,pytriton,ray] [--rounds 3] [--seconds 2]
        [--transport native]

One peer after the other is started beside Groundwire, and both are asked in turns by the same process, which uses
Triton's own client (peers/client.py), in a closed loop of 1 and of 16 clients. Whichever is not asked is stopped
(SIGSTOP), so that one server at a time runs. Each uses one thread of ONNX Runtime. Two kinds of work:

- tensor: the same tiny ONNX file everywhere, 16 token ids INT64 in, two probabilities out. All do the same.
- text: a text in, probabilities out. The peers tokenize and run the model. Groundwire, with the same tokenizer and
  model, also grounds the text in a graph, and works out uncertainty, conformal set and decision; it does more.

Where a peer can be set up in several ways: MLServer and KServe run without batching, PyTriton and Ray Serve with
batching and no delay. Other settings were not tried.

DIR holds a virtual environment for each peer and one for the client, made so with Python 3.11:

    for name in client kserve mlserver ray; do python3.11 -m venv DIR/$name; done
    /usr/bin/python3 -m venv DIR/pytriton    # PyTriton needs the interpreter of the system's own libpython
    DIR/client/bin/pip install 'tritonclient[grpc]==2.73.0' uvloop==0.23.0
    DIR/kserve/bin/pip install kserve==0.21.0 onnxruntime==1.31.1 tokenizers==0.23.3
    DIR/mlserver/bin/pip install mlserver==1.7.1 onnxruntime==1.31.1 tokenizers
    DIR/pytriton/bin/pip install nvidia-pytriton==0.7.0 'numpy<2' onnxruntime==1.31.1 tokenizers
    DIR/ray/bin/pip install 'ray[serve]==2.60.0' onnxruntime==1.31.1 tokenizers tritonclient==2.73.0

`busy` is the share of the machine's processors that others used in a round. Ratios are of medians over the rounds, each
of Groundwire to that peer in the same minutes; `worst` is the one that is least good for Groundwire.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
from onnx import TensorProto, helper, numpy_helper

from groundwire.export.machine import hardware
from groundwire.server.config import CARRIERS

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "peers"
RESULTS = Path(__file__).parent / "results" / "peers.json"
sys.path.insert(0, str(ROOT / "tests" / "server"))

TOKENS = 16
IDS = [list(range(1, TOKENS + 1))]
TEXT = "Paris is the capital of France."
ORDERS: dict[str, dict[str, Any]] = {
    "tensor": {"model": "tensor", "inputs": [["input_ids", "INT64", IDS]], "output": "probs"},
    "text": {"model": "text", "inputs": [["text", "BYTES", [[TEXT]]]], "output": "probabilities"},
}
CLIENTS = (1, 16)
PACKAGES = {"kserve": "kserve", "mlserver": "mlserver", "pytriton": "nvidia-pytriton", "ray": "ray"}
OURS = "groundwire"
START_SECONDS = 120
BARS = {"requests_per_second": 2.0, "p99_ms": 0.6}  # of the tensor work with 16 clients: at least, at most


def write_files(folder: Path) -> None:
    """The models, the graph, and MLServer's settings."""
    from serving import TRIG
    from tiny_bundle import write_tiny_bundle

    from groundwire.kg import compile_graph

    write_tensor_model(folder / "tensor.onnx")
    write_tiny_bundle(folder / "text", "text")
    (folder / "places.trig").write_text(TRIG, encoding="utf-8")
    compile_graph([folder / "places.trig"], folder / "graph")


def write_tensor_model(path: Path) -> None:
    """Mean of word vectors -> linear -> softmax."""
    rng = np.random.default_rng(0)
    constants = {
        "words": rng.normal(size=(100, 64)).astype(np.float32),
        "weights": rng.normal(size=(64, 2)).astype(np.float32),
        "tokens_axis": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["vectors"]),
            helper.make_node("ReduceMean", ["vectors", "tokens_axis"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probs"], axis=-1),
        ],
        "tensor",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", TOKENS])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Process:
    """A server and all processes that it starts."""

    def __init__(self, command: list[str], address: str, log: Path, cwd: Path, **environment: str) -> None:
        self.address = address
        self.log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                command, cwd=cwd, stdout=out, stderr=out, env=os.environ | environment, start_new_session=True
            )
        self._main = psutil.Process(self._process.pid)

    def _all(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._main, *self._main.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """Seconds that they have run, in user and in system mode."""
        total = 0.0
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def signal(self, number: signal.Signals) -> None:
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run, and stop it again."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)

    def end(self) -> None:
        processes = self._all()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        _, left = psutil.wait_procs(processes, 10)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def start(name: str, venvs: Path, files: Path, transport: str) -> Process:
    """Start a server that answers for both kinds of work."""
    grpc_port, *others = free_ports(3)
    address, log = f"127.0.0.1:{grpc_port}", files / f"{name}.log"
    if name == OURS:
        options = ["--model", f"tensor={files}/tensor.onnx", "--bundle", f"{files}/text", "--graph", f"{files}/graph"]
        main = "from groundwire.cli.serve import serve; serve()"
        command = [sys.executable, "-c", main, *options, "--threads", "1"]
        command += ["--transport", transport, "--listen", address]
        return Process(command, address, log, files, PYTHONPATH=str(ROOT))
    folder = venvs / name / "bin"
    environment = {
        "BENCH_PEERS_FILES": str(files),
        "PYTHONPATH": str(PEERS),
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if name == "mlserver":
        command = [str(folder / "mlserver"), "start", str(write_mlserver(files, grpc_port, *others))]
    else:
        ports = (grpc_port, *others) if name == "pytriton" else (grpc_port, others[0])
        command = [str(folder / "python"), str(PEERS / f"{name}_server.py"), *map(str, ports)]
    return Process(command, address, log, files, **environment)


def write_mlserver(files: Path, grpc_port: int, http_port: int, metrics_port: int) -> Path:
    folder = files / "mlserver"
    settings = {
        "debug": False, "parallel_workers": 0, "host": "127.0.0.1",
        "grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port,
    }  # fmt: skip
    for name in ORDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        model = {"name": name, "implementation": "mlserver_runtime.Served"}
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


class Client:
    """The process that asks."""

    def __init__(self, venvs: Path) -> None:
        self._process = subprocess.Popen(
            [venvs / "client" / "bin" / "python", PEERS / "client.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, server: Process, kind: str, clients: int, warm_up: float, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"address": server.address, "clients": clients, "warm_up": warm_up, "seconds": seconds}
        self._process.stdin.write(json.dumps(order | ORDERS[kind]) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def running(name: str, client: Client, venvs: Path, files: Path, transport: str) -> Iterator[Process]:
    """A server that answers, stopped. Raises RuntimeError with the end of its log when it does not come up."""
    server = start(name, venvs, files, transport)
    try:
        end = time.perf_counter() + START_SECONDS
        for kind in ORDERS:
            while "error" in (found := client.ask(server, kind, 1, 0.0, 0.1)):
                if time.perf_counter() > end or not server.alive:
                    raise RuntimeError(f"{name} does not answer: {found['error']}\n{server.log.read_text()[-2000:]}")
                time.sleep(0.5)
        server.signal(signal.SIGSTOP)
        yield server
    finally:
        server.end()


def machine_cpu() -> tuple[float, float]:
    """Seconds that all processors were busy, and were there."""
    times = psutil.cpu_times()
    there = sum(times) - times.guest - times.guest_nice
    return there - times.idle - times.iowait, there


def measure(client: Client, server: Process, kind: str, clients: int, seconds: float) -> dict[str, Any]:
    with server.awake():
        client.ask(server, kind, clients, 0.5, 0.0)
        cpu, (busy, there) = server.cpu(), machine_cpu()
        found = client.ask(server, kind, clients, 0.0, seconds)
        cpu, (busy_after, there_after) = server.cpu() - cpu, machine_cpu()
    if "error" in found:
        raise RuntimeError(found["error"])
    others = busy_after - busy - cpu - found["client_cpu_seconds"]
    return {
        "requests_per_second": round(found["requests"] / found["seconds"], 1),
        "p50_ms": round(found["p50_ms"], 3),
        "p99_ms": round(found["p99_ms"], 3),
        "server_cpu_us": round(1e6 * cpu / found["requests"]),
        "client_cpu_us": round(1e6 * found["client_cpu_seconds"] / found["requests"]),
        "busy": round(max(others, 0.0) / (there_after - there), 3),
        "answer": found["answer"],
    }


def beside(client: Client, ours: Process, peer: Process, rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds in turns, and the ratios of the medians, ours over the peer's."""
    raw: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(rounds):
        for kind in ORDERS:
            for clients in CLIENTS:
                sides = [(OURS, ours), ("peer", peer)]
                for side, server in sides if turn % 2 == 0 else reversed(sides):
                    found = measure(client, server, kind, clients, seconds)
                    check(kind, side, found.pop("answer"))
                    raw.setdefault(f"{kind}, {clients} clients", {OURS: [], "peer": []})[side].append(found)
    figures = {}
    for what, sides_ in raw.items():
        medians = {
            side: {name: statistics.median(one[name] for one in found) for name in found[0]}
            for side, found in sides_.items()
        }
        ratios = {
            name: round(medians[OURS][name] / medians["peer"][name], 3)
            for name in ("requests_per_second", "p50_ms", "p99_ms", "server_cpu_us")
        }
        figures[what] = {"ratios": ratios, "medians": medians, "rounds": sides_}
        print(what, json.dumps(ratios), json.dumps(medians), flush=True)
    return figures


EXPECTED: dict[str, list[float]] = {}


def check(kind: str, side: str, answer: list[float]) -> None:
    """Every server gives the model's own answer; of texts, ours reads evidence too, so there the peers' are equal."""
    if kind == "text" and side == OURS:
        return
    expected = EXPECTED.setdefault(kind, answer)
    if len(answer) != len(expected) or max(map(abs, np.subtract(answer, expected))) > 1e-5:
        raise RuntimeError(f"{kind}: {side} answers {answer}, and the model {expected}")


def versions(venvs: Path, peers: list[str]) -> dict[str, str]:
    def version(name: str, package: str) -> str:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return subprocess.check_output([venvs / name / "bin" / "python", "-c", code], text=True).strip()

    from groundwire import __version__

    found = {PACKAGES[peer]: version(peer, PACKAGES[peer]) for peer in peers}
    return {
        OURS: __version__,
        "onnxruntime": ort.__version__,
        "tritonclient": version("client", "tritonclient"),
        **found,
    }


def judge(peers: dict[str, Any]) -> dict[str, Any]:
    """For each kind and number of clients, the ratio to the peer that is best there."""
    found: dict[str, Any] = {}
    for what in next(iter(peers.values())):
        ratios = {peer: figures[what]["ratios"] for peer, figures in peers.items()}
        found[what] = {
            "requests_per_second": min((ratio["requests_per_second"], peer) for peer, ratio in ratios.items()),
            "p99_ms": max((ratio["p99_ms"], peer) for peer, ratio in ratios.items()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--peers", default=",".join(PACKAGES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--transport", default="grpcio", choices=CARRIERS, help="of Groundwire")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    venvs, peers = arguments.venvs.resolve(), arguments.peers.split(",")
    measured: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        files = Path(folder)
        write_files(files)
        session = ort.InferenceSession(files / "tensor.onnx", providers=["CPUExecutionProvider"])
        EXPECTED["tensor"] = session.run(None, {"input_ids": np.array(IDS)})[0].ravel().tolist()
        client = Client(venvs)
        try:
            with running(OURS, client, venvs, files, arguments.transport) as ours:
                for name in peers:
                    print(f"--- {name}", flush=True)
                    try:
                        with running(name, client, venvs, files, arguments.transport) as peer:
                            measured[name] = beside(client, ours, peer, arguments.rounds, arguments.seconds)
                    except RuntimeError as error:
                        failed[name] = str(error)
                        print(error, flush=True)
        finally:
            client.end()
    worst = judge(measured) if measured else {}
    results = {
        "hardware": hardware(),
        "python": platform.python_version(),
        "command": ["python", "benchmarks/bench_peers.py", "--venvs", "DIR", "--peers", arguments.peers,
                    "--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds),
                    "--transport", arguments.transport],
        "versions": versions(venvs, list(measured)),
        "bars": {"what": "tensor, 16 clients", **BARS},
        "worst": worst,
        "note": "tensor: all do the same work. text: the peers tokenize and run the model; groundwire also grounds the "
        "text in a graph and works out uncertainty, conformal set and decision",
        "failed": failed,
        "peers": measured,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(worst, indent=1))


if __name__ == "__main__":
    main()
