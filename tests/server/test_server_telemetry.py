"""Traces as a collector gets them: whole, each call's own, without anything that was said, and never in the way."""

import asyncio
import dataclasses
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from collector import Collector, Node
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from processes import ServeProcess
from repositories import WIDTH, write_version
from serving import TEXTS
from test_server_tensors import request

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.server.app import BackgroundServer, Server
from groundwire.server.client import Client
from groundwire.server.config import Security, ServerConfig, TracingConfig
from groundwire.server.errors import ConfigurationError
from groundwire.v1 import prediction_pb2, prediction_pb2_grpc

PREDICT = "groundwire.v1.PredictionService/Predict"
STAGES = ["ground", "encode", "queue", "infer", "decide"]
PARENT = "00f067aa0ba902b7"


def traced(config: ServerConfig, url: str, ratio: float = 1.0, **fields) -> ServerConfig:
    return dataclasses.replace(config, tracing=TracingConfig(url, ratio), **fields)


def context(number: int, sampled: bool = True) -> tuple[tuple[str, str], ...]:
    """The metadata of a caller whose trace has this number."""
    return (("traceparent", f"00-{number:032x}-{PARENT}-{sampled:02x}"), ("tracestate", "vendor=opaque"))


def ask(text: str, model: str = "") -> prediction_pb2.PredictRequest:
    return prediction_pb2.PredictRequest(model=model, inputs=[prediction_pb2.PredictInput(text=text)])


def whole(node: Node) -> None:
    """Each span lies within its parent's time and trace."""
    for child in node.children:
        assert child.span.trace_id == node.span.trace_id
        assert node.span.start_time_unix_nano <= child.span.start_time_unix_nano
        assert child.span.start_time_unix_nano <= child.span.end_time_unix_nano
        assert child.span.end_time_unix_nano <= node.span.end_time_unix_nano + 1_000  # two clocks, rounded
        whole(child)


def test_a_call_continues_its_caller_s_trace_with_a_span_for_each_stage(config: ServerConfig) -> None:
    with Collector() as collector:
        with (
            BackgroundServer(traced(config, collector.url)) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(ask(TEXTS[0]), metadata=context(7), timeout=60)
        [call] = collector.calls()
        assert call.span.name == PREDICT
        assert (call.span.trace_id.hex(), call.span.parent_span_id.hex()) == (f"{7:032x}", PARENT)
        assert call.span.trace_state == "vendor=opaque"
        expected = {"rpc.system": "grpc", "rpc.service": PREDICT.partition("/")[0], "rpc.method": "Predict"}
        assert call.attributes == expected | {"rpc.grpc.status_code": 0}
        [asked] = call.children
        assert (asked.span.name, asked.names(), asked.attributes) == ("request", STAGES, {"groundwire.model": "tiny"})
        for one, other in zip(asked.children, asked.children[1:], strict=False):
            assert one.span.end_time_unix_nano <= other.span.start_time_unix_nano + 1_000
        whole(asked)
        resource = collector.requests[0].resource_spans[0].resource
        assert {item.key: item.value.string_value for item in resource.attributes}["service.name"] == "groundwire"


def test_nothing_that_was_said_is_in_a_span(config: ServerConfig, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("s3cret-token-0123456789\n")
    entity = "http://example.org/Paris"
    with Collector() as collector:
        guarded = traced(config, collector.url, security=Security(token_file=tmp_path / "tokens"))
        with BackgroundServer(guarded) as server, grpc.insecure_channel(server.address) as channel:
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            token = (("authorization", "Bearer s3cret-token-0123456789"), ("baggage", "user=unmentionable"))
            asked = prediction_pb2.PredictInput(text=TEXTS[0], entities=[entity], id="ident-17")
            stub.Predict(prediction_pb2.PredictRequest(inputs=[asked]), metadata=token, timeout=60)
            with pytest.raises(grpc.RpcError, match="nobody's model"):
                stub.Predict(ask(TEXTS[1], "nobody's model"), metadata=token, timeout=60)
            asked.entities[0] = "no iri"
            with pytest.raises(grpc.RpcError, match="IRI"):
                stub.Predict(prediction_pb2.PredictRequest(inputs=[asked]), metadata=token, timeout=60)
            with pytest.raises(grpc.RpcError, match="token"):  # refused before it is traced
                stub.Predict(ask(TEXTS[0]), metadata=context(1), timeout=60)
        sent = b"".join(message.SerializeToString() for message in collector.requests)
        assert [call.attributes["rpc.grpc.status_code"] for call in collector.calls()] == [0, 5, 3]
        for word in ("Paris", "France", "capital", "s3cret", "unmentionable", "ident-17", "nobody", "iri"):
            assert word.encode() not in sent, word


async def test_calls_at_once_keep_their_traces_apart(config: ServerConfig) -> None:
    with Collector() as collector:
        async with (
            Server(traced(config, collector.url)) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            numbers = range(1, 41)
            asking = (stub.Predict(ask(TEXTS[n % len(TEXTS)]), metadata=context(n), timeout=60) for n in numbers)
            await asyncio.gather(*asking)
        calls = collector.calls()
    assert sorted(call.span.trace_id.hex() for call in calls) == [f"{number:032x}" for number in numbers]
    for call in calls:
        whole(call)
        [asked] = call.children
        assert asked.names() == STAGES


def test_each_message_of_a_stream_is_a_request_and_errors_tell_their_kind(config: ServerConfig) -> None:
    messages = [
        prediction_pb2.PredictStreamRequest(id=str(n), input=prediction_pb2.PredictInput(text=text))
        for n, text in enumerate(TEXTS)
    ]
    messages[3].options.top_k = 1_000
    with Collector() as collector:
        with BackgroundServer(traced(config, collector.url)) as server, Client(server.address) as client:
            answers = list(client.predict_stream(messages))
        assert len(answers) == len(messages)
        [call] = collector.calls()
        assert call.span.name.endswith("/PredictStream")
        failed = [node for node in call.children if node.span.status.code == Status.STATUS_CODE_ERROR]
        assert [node.attributes["error.type"] for node in failed] == ["InvalidRequestError"]
        assert failed[0].names() == []
        assert sum(node.names() == STAGES for node in call.children) == len(messages) - 1


def test_a_call_that_failed_says_whose_fault_it_is(config: ServerConfig) -> None:
    """By the conventions a client's mistake is no error of the server's span."""
    with Collector() as collector:
        with (
            BackgroundServer(traced(config, collector.url)) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.Predict(ask(" "), timeout=60)
            with pytest.raises(grpc.RpcError):
                service_pb2_grpc.GRPCInferenceServiceStub(channel).CudaSharedMemoryStatus(
                    service_pb2.CudaSharedMemoryStatusRequest(), timeout=60
                )
        mistake, missing = collector.calls()
    assert (mistake.attributes["rpc.grpc.status_code"], mistake.span.status.code) == (3, Status.STATUS_CODE_UNSET)
    assert mistake.children[0].attributes["error.type"] == "InvalidRequestError"
    assert (missing.attributes["rpc.grpc.status_code"], missing.span.status.code) == (12, Status.STATUS_CODE_ERROR)


def test_plain_models_are_traced_and_probes_are_not(config: ServerConfig, tmp_path: Path) -> None:
    adder = write_version(tmp_path, "adder", 1)
    with Collector() as collector:
        plain = traced(config, collector.url, models=(("adder", adder),))
        with BackgroundServer(plain) as server, grpc.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60)
            stub.ModelReady(service_pb2.ModelReadyRequest(name="adder"), timeout=60)
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            stub.ModelInfer(request("adder", x=np.zeros((1, WIDTH), np.float32)), timeout=60)
        [call] = collector.calls()
    assert call.span.name == "inference.GRPCInferenceService/ModelInfer"
    assert not call.span.parent_span_id
    [asked] = call.children
    assert (asked.attributes, asked.names()) == ({"groundwire.model": "adder"}, STAGES[1:])


def test_who_is_sampled(config: ServerConfig) -> None:
    """The caller decides for its own traces, the ratio for those that begin here."""
    for ratio, own in ((1.0, 1), (0.0, 0)):
        with Collector() as collector:
            with (
                BackgroundServer(traced(config, collector.url, ratio)) as server,
                grpc.insecure_channel(server.address) as channel,
            ):
                stub = prediction_pb2_grpc.PredictionServiceStub(channel)
                stub.Predict(ask(TEXTS[0]), timeout=60)
                stub.Predict(ask(TEXTS[0]), metadata=context(1, sampled=True), timeout=60)
                stub.Predict(ask(TEXTS[0]), metadata=context(2, sampled=False), timeout=60)
            ids = [call.span.trace_id.hex() for call in collector.calls()]
        assert len(ids) == own + 1
        assert f"{1:032x}" in ids and f"{2:032x}" not in ids


@pytest.mark.parametrize(
    "parent",
    ["", "garbage", "00-" + "0" * 32 + f"-{PARENT}-01", f"00-{1:032x}-{PARENT}", "ff" * 400, f"00-{1:032X}-xyz-01"],
)
def test_a_trace_context_that_is_none_begins_a_new_trace(config: ServerConfig, parent: str) -> None:
    with Collector() as collector:
        with (
            BackgroundServer(traced(config, collector.url)) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(ask(TEXTS[0]), metadata=(("traceparent", parent),), timeout=60)
        [call] = collector.calls()
    assert call.span.kind == Span.SPAN_KIND_SERVER and not call.span.parent_span_id


@pytest.mark.parametrize("reachable", [False, True])
def test_a_collector_that_does_not_answer_is_in_nobody_s_way(config: ServerConfig, reachable: bool) -> None:
    """More spans than are kept: none waits for the collector, neither do the calls, nor does the end for long."""
    with Collector(mute=True) as collector:
        url = collector.url if reachable else "http://127.0.0.1:1"
        with BackgroundServer(traced(config, url)) as server, Client(server.address, timeout=60) as client:
            for _ in range(400):
                client.predict(TEXTS[:1])
        # The end came while the collector was still silent.
        assert not collector.requests


@pytest.mark.parametrize(("broken", "field"), [("decide", "trace_id"), ("verdicts", "trace_ids")])
def test_the_log_names_the_trace(tiny: Bundle, graph: Path, broken: str, field: str) -> None:
    """A bug in a call, and one in a batch, which belongs to several calls."""
    bug = f"from groundwire.server.uncertainty import Judge; Judge.{broken}; Judge.{broken} = lambda *a, **k: 1 / 0; "
    with Collector() as collector:
        with (
            ServeProcess(tiny.path, graph, "--otlp-endpoint", collector.url, prelude=bug) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            with pytest.raises(grpc.RpcError) as error:
                prediction_pb2_grpc.PredictionServiceStub(channel).Predict(
                    ask(TEXTS[0]), metadata=context(23), timeout=60
                )
            assert error.value.code() == grpc.StatusCode.INTERNAL
            [line] = server.wait_for("bug")
            server.terminate()
            assert server.wait() == 0
        [call] = collector.calls()
    assert line[field] == (f"{23:032x}" if field == "trace_id" else [f"{23:032x}"])
    assert call.attributes["rpc.grpc.status_code"] == 13


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_without_the_extra_only_the_option_is_refused(tiny: Bundle, graph: Path) -> None:
    with ServeProcess(tiny.path, graph, prelude=BLOCKED) as server, Client(server.address) as client:
        assert client.predict(TEXTS[:1]).predictions
    program = BLOCKED + "from groundwire.cli import main; main(sys.argv[1:])"
    arguments = ["serve", "--bundle", tiny.path, "--graph", graph, "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-c", program, *arguments, "--otlp-endpoint", "http://127.0.0.1:4317"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "pip install 'groundwire[otel]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "",
        "collector:4317",
        "ftp://h:1",
        "http://",
        "http://h:port",
        "http://u:p@h:1",
        "http://h:1/v1/traces",
        "http://[",
    ],
)
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--otlp-endpoint"):
        TracingConfig(url)


def test_settings_reach_a_worker(config: ServerConfig) -> None:
    with pytest.raises(ConfigurationError, match="--trace-ratio"):
        TracingConfig("http://127.0.0.1:4317", 1.5)
    given = traced(config, "https://collector.example:4317", 0.25)
    assert ServerConfig.from_json(given.to_json()) == given
