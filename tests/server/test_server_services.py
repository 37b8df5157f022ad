"""Every RPC of every service, called with stubs and, like grpcurl, with nothing but what reflection tells."""

import dataclasses
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import TEXTS, predict_singly

from groundwire.bundle import Bundle
from groundwire.kg import Retriever
from groundwire.server.app import SERVICES, BackgroundServer
from groundwire.server.client import AsyncClient, Client
from groundwire.server.config import ServerConfig
from groundwire.v1 import bundle_pb2, prediction_pb2

EX = "http://example.org/"


def test_link_gives_spans_in_code_points(client: Client) -> None:
    texts = ["🇫🇷 France and PARIS", "nothing"]
    response = client.link(texts)
    [first, second] = response.results
    assert [m.entity for m in first.mentions] == [EX + "France", EX + "Paris"]
    assert [texts[0][m.start : m.end] for m in first.mentions] == ["France", "PARIS"]
    assert all(m.candidates[0].entity == m.entity and m.candidates[0].score == m.score for m in first.mentions)
    assert not second.mentions
    assert response.graph_version == client.get_graph().version


def test_ground_gives_ranked_evidence(client: Client, retriever: Retriever) -> None:
    response = client.ground(TEXTS, top_k=2)
    for text, result in zip(TEXTS, response.results, strict=True):
        expected = retriever.ground(text, 2)
        assert [e.text for e in result.evidence] == [e.text for e in expected.evidence]
        assert [e.relevance for e in result.evidence] == [e.relevance for e in expected.evidence]
        assert [m.entity for m in result.mentions] == [m.entity for m in expected.mentions]
        assert result.coverage == expected.coverage
        assert len(result.evidence) <= 2
    assert len(client.ground([TEXTS[0]]).results[0].evidence) > 2
    assert response.graph_version == retriever.info.version


def test_graph_in_numbers(client: Client, retriever: Retriever) -> None:
    graph, info = client.get_graph(), retriever.info
    assert (graph.version, graph.retriever, graph.format_version) == (info.version, "compiled", info.format_version)
    assert (graph.triples, graph.entities, graph.labels) == (info.triples, info.entities, info.labels)
    assert (graph.predicates, graph.named_graphs) == (info.predicates, info.named_graphs)
    assert dict(graph.source_hashes) == dict(info.source_hashes)
    assert graph.named_graphs == 2


def test_model_service_gives_manifest_and_certificate(client: Client, tiny: Bundle) -> None:
    [summary] = client.list_models()
    assert (summary.name, summary.version, summary.provider) == ("tiny", tiny.manifest.version, "cpu")
    assert list(summary.labels) == list(tiny.manifest.labels)
    for name in ("tiny", ""):
        model = client.get_model(name)
        assert model.manifest == tiny.manifest
        assert model.certificate == tiny.certificate
        assert model.provider == "cpu"


class Reflected:
    """A client that knows no .proto: it asks the server what there is and calls it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        self.pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()

    def services(self) -> list[str]:
        response = self._ask(list_services="")
        return [service.name for service in response.list_services_response.service]

    def load(self, symbol: str) -> None:
        self._add(self._ask(file_containing_symbol=symbol))

    def call(self, service: str, method: str, request: dict) -> list[dict]:
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        request_class = message_factory.GetMessageClass(found.input_type)
        response_class = message_factory.GetMessageClass(found.output_type)
        message = json_format.ParseDict(request, request_class())
        path = f"/{service}/{method}"
        codec = {
            "request_serializer": request_class.SerializeToString,
            "response_deserializer": response_class.FromString,
        }
        if found.client_streaming:
            answers = list(self._channel.stream_stream(path, **codec)(iter([message]), timeout=20))
        elif found.server_streaming:
            answers = [next(self._channel.unary_stream(path, **codec)(message, timeout=20))]
        else:
            answers = [self._channel.unary_unary(path, **codec)(message, timeout=20)]
        return [json_format.MessageToDict(answer, preserving_proto_field_name=True) for answer in answers]

    def _ask(self, **question: str) -> reflection_pb2.ServerReflectionResponse:
        [answer] = self._stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=20
        )
        return answer

    def _add(self, response: reflection_pb2.ServerReflectionResponse) -> None:
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(content)
            for content in response.file_descriptor_response.file_descriptor_proto
        ]
        assert files, response.error_response
        for file in files:
            if file.name not in self._known:
                self._known.add(file.name)
                for dependency in file.dependency:
                    if dependency not in self._known:
                        self._add(self._ask(file_by_filename=dependency))
                self.pool.Add(file)


CALLS = {
    "groundwire.v1.PredictionService/Predict": {"inputs": [{"text": TEXTS[0]}]},
    "groundwire.v1.PredictionService/PredictStream": {"id": "a", "input": {"text": TEXTS[0]}},
    "groundwire.v1.KnowledgeService/Link": {"texts": [TEXTS[0]]},
    "groundwire.v1.KnowledgeService/Ground": {"texts": [TEXTS[0]]},
    "groundwire.v1.KnowledgeService/GetGraph": {},
    "groundwire.v1.KnowledgeService/Query": {"query": "ASK { ?s ?p ?o }"},
    "groundwire.v1.ModelService/ListModels": {},
    "groundwire.v1.ModelService/GetModel": {},
    "grpc.health.v1.Health/Check": {},
    "grpc.health.v1.Health/List": {},
    "grpc.health.v1.Health/Watch": {},
}


def test_every_method_that_reflection_lists_answers(config: ServerConfig, query_store: Path) -> None:
    answers = {}
    everything = dataclasses.replace(config, query_store=query_store)
    with BackgroundServer(everything) as server, grpc.insecure_channel(server.address) as channel:
        reflected = Reflected(channel)
        services = set(reflected.services()) - {"grpc.reflection.v1alpha.ServerReflection"}
        assert services == {*SERVICES, "grpc.health.v1.Health"}
        for service in services:
            reflected.load(service)
            if service == "inference.GRPCInferenceService":
                continue  # test_server_triton_client.py calls these with a client of their own
            for method in reflected.pool.FindServiceByName(service).methods_by_name:
                name = f"{service}/{method}"
                if service == "grpc.health.v1.Health" and method == "List":
                    continue  # newer than some releases of the health package, and none of ours
                answers[name] = reflected.call(service, method, CALLS[name])
    assert set(answers) >= {name for name in CALLS if name.startswith("groundwire")}
    [predicted] = answers["groundwire.v1.PredictionService/Predict"]
    [streamed] = answers["groundwire.v1.PredictionService/PredictStream"]
    assert streamed["id"] == "a"
    assert streamed["prediction"]["label"] == predicted["predictions"][0]["label"]
    assert answers["groundwire.v1.KnowledgeService/Ground"][0]["results"][0]["evidence"]
    assert answers["groundwire.v1.KnowledgeService/Query"][0]["boolean"]
    assert answers["groundwire.v1.ModelService/GetModel"][0]["manifest"]["name"] == "tiny"
    assert answers["grpc.health.v1.Health/Check"] == [{"status": "SERVING"}]


async def test_the_async_client_calls_the_same(server: BackgroundServer, client: Client) -> None:
    async with AsyncClient(server.address) as asynchronous:
        assert [await asynchronous.predict([text]) for text in TEXTS] == predict_singly(client)
        assert await asynchronous.link(TEXTS) == client.link(TEXTS)
        assert await asynchronous.ground(TEXTS, 3) == client.ground(TEXTS, 3)
        assert await asynchronous.get_graph() == client.get_graph()
        assert await asynchronous.list_models() == client.list_models()
        assert await asynchronous.get_model() == client.get_model()


def test_the_manifest_of_the_wire_reads_back(client: Client, tiny: Bundle) -> None:
    text = json_format.MessageToJson(client.get_model().manifest)
    assert json_format.Parse(text, bundle_pb2.BundleManifest()) == tiny.manifest
    assert client.get_model().manifest.policy.method == prediction_pb2.CONFORMAL_METHOD_LAC
