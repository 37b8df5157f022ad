"""What one client can make the server hold is bounded, and a large answer is not cut off by a shutdown."""

import asyncio
import dataclasses
import struct
import sys
import threading
from pathlib import Path

import grpc
import pytest
from asking import refused
from click.testing import CliRunner
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import TEXTS, only_pipeline, until

from groundwire.cli.serve import serve
from groundwire.inference import service_pb2
from groundwire.inference.service_pb2_grpc import GRPCInferenceServiceStub
from groundwire.kg.retrieve import IndexRetriever
from groundwire.server import health
from groundwire.server.app import BackgroundServer, Server
from groundwire.server.config import MAX_ID, Limits, QueryLimits, Security, ServerConfig
from groundwire.server.errors import ConfigurationError, InvalidRequestError, QueueFullError, UnknownModelError
from groundwire.server.room import Room
from groundwire.server.status import to_status
from groundwire.v1 import knowledge_pb2, prediction_pb2
from groundwire.v1.knowledge_pb2_grpc import KnowledgeServiceStub
from groundwire.v1.prediction_pb2_grpc import PredictionServiceStub

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from http2_frames import DATA, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, call, frame

LONG = "x" * 4000


def test_what_is_asked_of_health_is_short(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with refused("INVALID_ARGUMENT", "at most 1024"):
            stub.Check(health_pb2.HealthCheckRequest(service=LONG), timeout=20)
        with refused("INVALID_ARGUMENT", "at most 1024"):
            next(stub.Watch(health_pb2.HealthCheckRequest(service=LONG), timeout=20))
        short = health_pb2.HealthCheckRequest()
        for answer in (stub.Check(short, timeout=20), next(stub.Watch(short, timeout=20))):
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_watches_are_counted(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_MOST_WATCHES", 2)
    async with Server(config) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(2)]
        for watch in watches:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await stub.Watch(health_pb2.HealthCheckRequest(), timeout=60).read()
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watches[0].cancel()
        await until(lambda: server._health._watches == 1)
        assert (await stub.Watch(health_pb2.HealthCheckRequest(), timeout=60).read()).status


def test_room_is_given_back_and_one_large_lot_always_fits() -> None:
    room = Room(4, "texts wait")
    with room.take(9):
        assert room.taken == 9
        with pytest.raises(QueueFullError, match="9 texts wait, and 1 more"), room.take(1):
            raise AssertionError
    with pytest.raises(ZeroDivisionError), room.take(3):
        raise ZeroDivisionError
    with room.take(3), room.take(1):
        assert room.taken == 4
    assert room.taken == 0


@pytest.mark.parametrize("method", ["Link", "Ground", "Predict"])
async def test_texts_that_wait_for_the_graph_are_counted(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    go, work = threading.Event(), "link" if method == "Link" else "ground"
    slow = getattr(IndexRetriever, work)

    def wait(*arguments: object) -> object:
        assert go.wait(60)
        return slow(*arguments)

    texts = [TEXTS[0] + " " * 600] * 5  # too much for the event loop itself
    async with (
        Server(dataclasses.replace(config, limits=Limits(queue_rows=8))) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        monkeypatch.setattr(IndexRetriever, work, wait)
        knowledge, prediction = KnowledgeServiceStub(channel), PredictionServiceStub(channel)
        inputs = [prediction_pb2.PredictInput(text=text) for text in texts]

        def ask() -> "grpc.aio.UnaryUnaryCall":
            if method == "Link":
                return knowledge.Link(knowledge_pb2.LinkRequest(texts=texts), timeout=60)
            if method == "Ground":
                return knowledge.Ground(knowledge_pb2.GroundRequest(texts=texts), timeout=60)
            return prediction.Predict(prediction_pb2.PredictRequest(inputs=inputs), timeout=60)

        first = asyncio.ensure_future(ask())
        await until(lambda: server.gate.in_flight == 1)
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await ask()
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go.set()
        await first
        await ask()
        assert only_pipeline(server)._preparing.taken == 0


async def test_a_large_answer_that_is_being_sent_outlives_the_drain(config: ServerConfig) -> None:
    message = knowledge_pb2.LinkRequest(texts=["Paris " * 1600] * 4).SerializeToString()
    async with Server(config) as server:
        host, port = server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        writer.write(b"".join(call("/groundwire.v1.KnowledgeService/Link", message)))
        data, size = b"", 0

        async def read() -> int:
            nonlocal data, size
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == DATA:
                data += payload
                size += len(payload)
            if head[3] == SETTINGS and not head[4] & 1:
                writer.write(frame(SETTINGS, 1, 0))
            return head[3]

        while size < 65_535:  # all that may be sent before the client makes room for more
            await read()
        draining = asyncio.create_task(server.drain())
        await until(server.gate.closing.is_set)
        await asyncio.sleep(0)
        assert server.gate.in_flight == 1
        for stream in (0, 1):
            writer.write(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", (1 << 30))))
        while await read() != HEADERS or size <= 65_535:  # the trailers
            pass
        answer = knowledge_pb2.LinkResponse.FromString(data[5:])
        assert [len(result.mentions) for result in answer.results] == [1600] * 4
        assert await draining == 0
        writer.close()


def test_ids_are_bounded(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        prediction, inference = PredictionServiceStub(channel), GRPCInferenceServiceStub(channel)
        named = prediction_pb2.PredictInput(text=TEXTS[0], id=LONG)
        with refused("INVALID_ARGUMENT", "inputs[0].id"):
            prediction.Predict(prediction_pb2.PredictRequest(inputs=[named]), timeout=20)
        asked = prediction_pb2.PredictStreamRequest(id=LONG, input=prediction_pb2.PredictInput(text=TEXTS[0]))
        [answer] = prediction.PredictStream(iter([asked]), timeout=20)
        assert answer.id == LONG[:MAX_ID]
        assert "id has 4000 code points" in answer.error.message.replace(":", "")
        with refused("INVALID_ARGUMENT", "id"):
            inference.ModelInfer(service_pb2.ModelInferRequest(model_name="tiny", id=LONG), timeout=20)


def test_a_status_is_short_enough_to_be_sent(server: BackgroundServer) -> None:
    for error in (UnknownModelError("é" * 9000), InvalidRequestError("é" * 9000, "ж" * 9000)):
        status = to_status(error)
        assert isinstance(status, status_pb2.Status)
        assert len(status.SerializeToString()) < 4000
        assert status.message.endswith("…")
    assert to_status(UnknownModelError("short")).message == "short"


@pytest.mark.parametrize(
    ("name", "kind", "own", "value"),
    [
        ("top_k", "string_param", "int64_param", 2),
        ("probes", "double_param", "int64_param", 3),
        ("coverage", "int64_param", "double_param", 0.8),
    ],
)
def test_parameters_of_another_type_are_refused(
    server: BackgroundServer, name: str, kind: str, own: str, value: float
) -> None:
    message = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[b"\x04\0\0\0Peru"])
    message.inputs.add(name="text", datatype="BYTES", shape=[1])
    setattr(message.parameters[name], kind, {"string_param": "3", "double_param": 3.0, "int64_param": 3}[kind])
    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with refused("INVALID_ARGUMENT", f"parameters.{name}"):
            stub.ModelInfer(message, timeout=20)
        setattr(message.parameters[name], own, value)
        assert stub.ModelInfer(message, timeout=20).outputs


@pytest.mark.parametrize(
    "option", ["--drain-seconds", "--reload-seconds", "--rate", "--query-seconds", "--graph-seconds", "--trace-ratio"]
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_are_finite(option: str, value: str) -> None:
    done = CliRunner().invoke(serve, [option, value, "--bundle", "nowhere"])
    assert done.exit_code == 2
    assert option in done.output


def test_settings_are_finite_and_within_what_grpc_takes(config: ServerConfig) -> None:
    for make in (
        lambda: Limits(drain_seconds=float("nan")),
        lambda: Limits(batch_delay=float("inf")),
        lambda: Limits(message_bytes=1 << 31),
        lambda: QueryLimits(seconds=float("inf")),
        lambda: QueryLimits(memory_bytes=1 << 70),
        lambda: Security(rate=float("nan")),
        lambda: dataclasses.replace(config, reload_seconds=float("nan")),
    ):
        with pytest.raises(ConfigurationError):
            make()
