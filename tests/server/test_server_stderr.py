"""What a server writes to stderr when clients are hostile: lines of its log, and nothing that they sent."""

import json
import logging
import socket
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc._cython.cygrpc import ExecuteBatchError
from processes import ServeProcess
from test_server_tensors import request

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from http2_frames import DATA, HEADERS, PREFACE, SETTINGS, call, frame, header_block
from small_server import LOOKUP, write_lookup

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2_grpc
from groundwire.server.client import Client
from groundwire.server.logs import JsonFormatter

SECRET = "unheard-of"
LIBRARIES = f"""
import asyncio, gc
from groundwire.server.logs import configure_logging

class Held:
    def __del__(self):
        raise ValueError("{SECRET}")

async def fail():
    raise ValueError("{SECRET}")

async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(int, "{SECRET}")
    task = loop.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()

configure_logging()
Held()
asyncio.run(main())
"""
INDEX = 987_654_321
PREDICT = "/groundwire.v1.PredictionService/Predict"
OTHER_PATH = frame(
    HEADERS,
    0x4,
    1,
    header_block(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{SECRET}/x"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
    ),
) + frame(DATA, 0x1, 1, b"\0" + struct.pack(">I", 0))
HOSTILE = (
    OTHER_PATH,
    *(b"".join(call(PREDICT, b"", extra=[(name, SECRET)])) for name in ("grpc-timeout", "grpc-encoding", "te")),
    b"".join(call(PREDICT, SECRET.encode())),
    SECRET.encode() * 100,
)


def ask(address: str, frames: bytes) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + frames)
    return connection


@pytest.mark.parametrize("frames", HOSTILE)
def test_stderr_holds_only_the_log_and_nothing_that_clients_send(
    tiny: Bundle, graph: Path, tmp_path: Path, frames: bytes
) -> None:
    write_lookup(tmp_path / "lookup.onnx")
    with ServeProcess(tiny.path, graph, "--model", f"{LOOKUP}={tmp_path / 'lookup.onnx'}") as server:
        with ask(server.address, frames) as connection:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        with grpc.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request(LOOKUP, x=np.full((1, 1), INDEX, np.int64)), timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with Client(server.address) as client:
            assert client.predict(["Paris"]).predictions
        server.terminate()
        assert server.wait() == 0
        assert server.events("stopped")
        assert server.events("other") == []
        assert not any(word in json.dumps(server.lines()) for word in (SECRET, str(INDEX)))


def test_a_path_that_is_not_utf_8_from_a_client_that_is_gone_is_a_line_of_the_log(tiny: Bundle, graph: Path) -> None:
    with ServeProcess(tiny.path, graph) as server:
        frames = b"".join(call(f"/{SECRET}\xff/x", b""))
        for _ in range(10_000):  # gRPC prints the error when the client goes before its refusal
            ask(server.address, frames).close()
            if server.events("error printed by a library"):
                break
        with Client(server.address) as client:
            assert client.predict(["Paris"]).predictions
        server.terminate()
        assert server.wait() == 0
        printed = server.events("error printed by a library")
        assert {line["error"] for line in printed} == {"ExecuteBatchError"}
        assert server.events("other") == []
        assert SECRET not in json.dumps(server.lines())


def test_errors_that_nobody_catches_are_logged_without_what_they_say() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert sorted(line["event"] for line in lines) == [
        "Exception in callback int",
        "Task exception was never retrieved",
        "error that nobody can catch",
    ]
    assert all(line["error"] == "ValueError" for line in lines)
    assert SECRET not in done.stderr


def test_a_client_that_left_before_its_answer_is_no_error() -> None:
    error = ExecuteBatchError('Failed "execute_batch": (<secret>,)')
    told = (ExecuteBatchError, error, None)
    record = logging.LogRecord("grpc._cython.cygrpc", logging.ERROR, "", 1, "raised by [/a.B/C]", (), told)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["event"]) == ("info", "client gone before its answer")
    assert set(line) == {"time", "level", "event", "process"}
