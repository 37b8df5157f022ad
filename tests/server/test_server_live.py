"""A server on a SPARQL endpoint: answers, and what it says when the endpoint is slow or gone."""

import json
import sys
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent))

from sparql_endpoint import running

from groundwire.bundle import Bundle
from groundwire.cli.kg import kg
from groundwire.kg import LiveOptions
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig
from groundwire.v1 import knowledge_pb2, knowledge_pb2_grpc


def test_a_server_answers_from_an_endpoint_and_says_when_it_can_not(
    tiny: Bundle, graph_file: Path, client: Client
) -> None:
    text = "Paris is the capital of France."
    with running(graph_file) as endpoint:
        live = LiveOptions(request_seconds=0.3, cache_entries=0)
        config = ServerConfig((tiny.path,), endpoint.url, "127.0.0.1:0", "cpu", 1, live=live)
        assert ServerConfig.from_json(config.to_json()) == config
        with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
            stub = knowledge_pb2_grpc.KnowledgeServiceStub(channel)
            request = knowledge_pb2.GroundRequest(texts=[text])
            with Client(server.address) as connected:
                expected = client.predict([text]).predictions[0]
                assert list(connected.predict([text]).predictions[0].evidence) == list(expected.evidence)
            assert stub.Ground(request).results[0].evidence
            endpoint.mode = "hang"
            with pytest.raises(grpc.RpcError, match=endpoint.url) as slow:
                stub.Ground(request)
            assert slow.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            endpoint.mode = "fail"
            with pytest.raises(grpc.RpcError, match=endpoint.url) as failed:
                stub.Ground(request)
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
            endpoint.mode = "answer"
            assert stub.Ground(request).results[0].evidence
            endpoint.released.set()


def test_the_command_line_asks_an_endpoint(graph_file: Path) -> None:
    with running(graph_file) as endpoint:
        arguments = ["--json", "Paris is the capital of France."]
        remote = CliRunner().invoke(kg, ["ground", "--graph", endpoint.url, *arguments], catch_exceptions=False)
        local = CliRunner().invoke(kg, ["ground", "--graph", str(graph_file), *arguments], catch_exceptions=False)
        assert json.loads(remote.stdout) == json.loads(local.stdout)
        assert json.loads(remote.stdout)["evidence"]
        linked = CliRunner().invoke(kg, ["link", "--graph", endpoint.url, *arguments], catch_exceptions=False)
        assert json.loads(linked.stdout)["mentions"] == json.loads(local.stdout)["mentions"]
