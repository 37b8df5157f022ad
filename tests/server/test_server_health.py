"""Health: what each service says of itself, and that no watcher stands in the way of others or of the server's end."""

import asyncio
import struct
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from http2_frames import HEADERS, PREFACE, SETTINGS, call, frame

from groundwire.server.app import SERVICES, BackgroundServer, Server
from groundwire.server.config import ServerConfig

INITIAL_WINDOW_SIZE = 4  # RFC 9113, 6.5.2
NO_MESSAGE = b"\x0a\x02\xff\xfe"  # field 1, the service, is not UTF-8
Status = health_pb2.HealthCheckResponse


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_of_each_service(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            assert stub.Check(asked(service), timeout=20).status == Status.SERVING
            assert next(stub.Watch(asked(service), timeout=20)).status == Status.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(asked("nope"), timeout=20)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert next(stub.Watch(asked("nope"), timeout=20)).status == Status.SERVICE_UNKNOWN


def test_bytes_that_are_no_message_are_refused(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/grpc.health.v1.Health/Check")(NO_MESSAGE, timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as refused:
            next(channel.unary_stream("/grpc.health.v1.Health/Watch")(NO_MESSAGE, timeout=20))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watcher_hears_of_the_end_though_another_left(config: ServerConfig) -> None:
    async with Server(config) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        leaver, stayer = (stub.Watch(asked(), timeout=60) for _ in range(2))
        assert [(await one.read()).status for one in (leaver, stayer)] == [Status.SERVING] * 2
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver.read()
        # An answer on the same connection: the server knows of the cancellation.
        await stub.Check(asked())
        draining = asyncio.create_task(server.drain())
        assert (await stayer.read()).status == Status.NOT_SERVING
        await draining


async def test_a_watcher_who_does_not_read_keeps_no_server_from_stopping(config: ServerConfig) -> None:
    async with asyncio.timeout(60), Server(config) as server:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
        writer.write(PREFACE + no_window + b"".join(call("/grpc.health.v1.Health/Watch", b"")))
        kind = None
        while kind != HEADERS:  # the call has begun, and its first message can't be sent
            head = await reader.readexactly(9)
            kind = head[3]
            await reader.readexactly(int.from_bytes(head[:3], "big"))
        assert await server.drain() == 0
        writer.close()
