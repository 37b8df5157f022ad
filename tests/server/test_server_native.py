"""The transport pygrpc-native: what the tests of other modules ask, asked over it, and what it alone must do."""
# ruff: noqa: F401, F403 - the tests that are imported are collected here once more, with the fixtures of this module

import asyncio
import dataclasses
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from processes import ServeProcess
from serving import TEXTS, until
from test_server_bounds import (
    test_a_large_answer_that_is_being_sent_outlives_the_drain,
    test_watches_are_counted,
    test_what_is_asked_of_health_is_short,
)
from test_server_faults import (
    OWN,
    test_a_client_cancelled_in_the_middle_of_a_stream_leaves_the_queue_empty,
    test_what_a_killed_client_left_behind_is_dropped,
)
from test_server_health import *
from test_server_hostile import (
    channel,
    test_a_message_over_the_limit,
    test_bytes_that_are_no_message,
    test_unknown_methods,
)
from test_server_inference import (
    stub,
    test_a_stream_answers_in_order_and_outlives_errors,
    test_a_text_model_answers_as_over_groundwire_v1,
    test_a_wrong_tensor_is_refused_by_name,
    test_many_clients_get_their_own_answers,
)
from test_server_overload import *
from test_server_security import test_only_calls_with_the_token_are_answered
from test_server_services import test_every_method_that_reflection_lists_answers
from test_server_stream import *
from test_server_triton_client import test_tritonclient_works_unmodified

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from small_server import LOOKUP, TABLE, tensor_request, write_lookup

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.server.app import BackgroundServer, Server
from groundwire.server.client import Client
from groundwire.server.config import Security, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.server.lifecycle import Gate
from groundwire.server.native import NativeServer
from groundwire.server.transport import choose_transport
from groundwire.v1 import prediction_pb2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the servers of this module the transport."""
    if "config" in metafunc.fixturenames:
        metafunc.parametrize("config", ["native"], indirect=True, scope="session")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_addresses_of_each_kind_and_one_in_use(config: ServerConfig, host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with BackgroundServer(dataclasses.replace(config, listen=f"{host}:0")) as server, Client(server.address) as client:
        assert client.predict(TEXTS).predictions
        taken = dataclasses.replace(config, listen=server.address)
        with pytest.raises(ConfigurationError, match="in use"), BackgroundServer(taken):
            pass


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_compressed_requests_are_read(server: BackgroundServer) -> None:
    asked = prediction_pb2.PredictRequest(inputs=[prediction_pb2.PredictInput(text=TEXTS[0])]).SerializeToString()
    with grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as zipped:
        content = zipped.unary_unary("/groundwire.v1.PredictionService/Predict")(asked, timeout=60)
    assert len(prediction_pb2.PredictResponse.FromString(content).predictions) == 1


async def test_a_reader_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    """As with grpcio. Its buffers are larger, some 11 MB of answers, so this takes large ones."""
    messages, width = 400, 1 << 15
    write_lookup(tmp_path / "lookup.onnx")
    models = ((LOOKUP, tmp_path / "lookup.onnx"),)
    plain = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, models=models, transport="native")
    async with Server(plain) as server, grpc.aio.insecure_channel(server.address) as idle:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(idle)
        content = tensor_request(LOOKUP, np.full((1, width), 2)).SerializeToString()

        async def write() -> None:
            for _ in range(messages):
                await call.write(content)
            await call.done_writing()

        async def answered() -> int:
            counted = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=LOOKUP), timeout=60)
            return counted.model_stats[0].inference_stats.success.count

        async with grpc.aio.insecure_channel(server.address, (*OWN, ("grpc.http2.bdp_probe", 0))) as channel:
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
            writing = asyncio.create_task(write())
            still = before = 0
            while still < 20:
                await asyncio.sleep(0.02)
                now = await answered()
                still = still + 1 if now == before and now else 0
                before = now
            assert before < messages / 2, before
            assert not writing.done()
            found = [service_pb2.ModelStreamInferResponse.FromString(content) async for content in call]
            await writing
    assert len(found) == messages
    expected = np.full(width, TABLE[2]).tobytes()
    assert all(one.infer_response.raw_output_contents[0] == expected for one in found)


async def test_calls_that_end_before_they_begin_leave_nothing_behind(config: ServerConfig) -> None:
    """A task that is cancelled before its first step runs none of its code, and so no clean-up within it."""
    asked = prediction_pb2.PredictRequest(inputs=[prediction_pb2.PredictInput(text=TEXTS[0])]).SerializeToString()
    async with Server(config) as server:
        for number in range(20):
            async with grpc.aio.insecure_channel(server.address, OWN) as channel:
                predict = channel.unary_unary("/groundwire.v1.PredictionService/Predict")
                calls = [predict(asked, timeout=(None, 0.002)[number % 2]) for _ in range(20)]
                await asyncio.sleep(0.001 * (number % 8))
                for call in calls[::2]:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: server.gate.in_flight == 0)
        assert isinstance(server._grpc, NativeServer)
        await until(lambda: server._grpc.in_flight == 0)
        assert server._grpc.unheard == 0


class Counting:
    """An event loop that counts the events that another thread hands over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events = 0

    def call_soon_threadsafe(self, take: Callable[..., None], events: Sequence[object]) -> None:
        self._loop.call_soon_threadsafe(take, events)
        self.events += len(events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_calls_that_wait_for_the_event_loop_are_company(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first of them would look alone, and hold the event loop while it runs."""
    calls, seen = 4, []
    enter = Gate.__enter__

    def noted(gate: Gate) -> None:
        enter(gate)
        seen.append(gate.alone())

    monkeypatch.setattr(Gate, "__enter__", noted)
    async with Server(config) as server, AsyncExitStack() as stack:
        assert isinstance(server._grpc, NativeServer)
        loop = server._grpc._loop = Counting(server._grpc._loop)  # type: ignore[assignment]
        pool = stack.enter_context(ThreadPoolExecutor(calls))
        clients = [stack.enter_context(Client(server.address)) for _ in range(calls)]
        for client in clients:
            await asyncio.wrap_future(pool.submit(client.predict, [TEXTS[0]]))
        assert seen == [True] * calls
        came = [pool.submit(client.predict, [TEXTS[0]]) for client in clients]
        while loop.events < 2 * calls:  # nothing is awaited here: they come, and wait for the event loop
            time.sleep(0.001)  # noqa: ASYNC251
        await asyncio.gather(*map(asyncio.wrap_future, came))
        assert seen[calls:] == [False, False, False, False]
        assert server._grpc.unheard == 0


def test_what_it_can_not_do_is_refused_at_the_start(config: ServerConfig) -> None:
    pem = Path("key.pem")
    for change, option in (
        ({"security": Security(pem, pem)}, "--tls-cert"),
        ({"security": Security(rate=1.0)}, "--rate"),
        ({"channelz": True}, "--channelz"),
    ):
        with pytest.raises(ConfigurationError, match=option):
            dataclasses.replace(config, **change)


def test_without_the_package_it_is_refused_and_nothing_else_is_taken(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "groundwire.server.native")
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    with pytest.raises(ConfigurationError, match=r"groundwire\[native\]"), BackgroundServer(config):
        pass


def test_auto_takes_it_where_it_can_and_says_why_not(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = dataclasses.replace(config, transport="auto")
    assert choose_transport(auto) == ("native", "auto: pygrpc-native is installed")
    assert choose_transport(config) == ("native", "asked for")
    assert choose_transport(dataclasses.replace(config, transport="grpcio")) == ("grpcio", "asked for")
    pem = Path("key.pem")
    for change, options in (
        ({"security": Security(pem, pem)}, "--tls-cert"),
        ({"security": Security(rate=1.0), "channelz": True}, "--rate and --channelz"),
    ):
        chosen = choose_transport(dataclasses.replace(auto, **change))
        assert chosen == ("grpcio", f"auto: pygrpc-native can't do {options}")
    for found in (None, types.ModuleType("pygrpc_native")):  # not installed, and of a version that lacks what is needed
        monkeypatch.delitem(sys.modules, "groundwire.server.native", raising=False)
        monkeypatch.setitem(sys.modules, "pygrpc_native", found)
        name, why = choose_transport(auto)
        assert name == "grpcio"
        assert "can't be loaded" in why
    with BackgroundServer(auto) as server, Client(server.address) as client:
        assert client.predict(TEXTS).predictions


@pytest.mark.parametrize(("options", "chosen"), [((), "native"), (("--channelz",), "grpcio")])
def test_the_log_says_what_auto_took(tiny: Bundle, graph: Path, options: tuple[str, ...], chosen: str) -> None:
    with ServeProcess(tiny.path, graph, "--transport", "auto", *options) as server:
        [ready] = server.wait_for("ready")
    assert (ready["transport"], ready["why"].split(":")[0]) == (chosen, "auto")
