"""From RDF and text to an answer: a bundle trained in the tests, a real server, and every RPC of `groundwire.v1`."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from groundwire.bundle import Bundle
from groundwire.export.data import read_examples
from groundwire.export.rows import encode_examples
from groundwire.kg import open_graph
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig
from groundwire.server.runtime import Runtime
from groundwire.v1 import prediction_pb2


@pytest.fixture(scope="module")
def client(built: Bundle, project: Path):
    config = ServerConfig((built.path,), project / "towns.ttl", "127.0.0.1:0")
    with BackgroundServer(config) as server, Client(server.address) as client:
        yield client


def first_town(project: Path) -> str:
    return (project / "test.jsonl").read_text().split('"text": "')[1].split(" ")[0]


def test_predict_answers_with_evidence_and_uncertainty_by_cause(client: Client, built: Bundle, project: Path):
    town = first_town(project)
    options = prediction_pb2.PredictOptions(coverage=0.8, contributions=True, probes=4)
    response = client.predict([f"{town} is surely red now", "Perhaps nothing is here"], options=options)
    assert response.model == "towns"
    assert response.model_version == built.manifest.version
    grounded, other = response.predictions
    assert grounded.label == "supported"
    assert sum(score.probability for score in grounded.scores) == pytest.approx(1.0, abs=1e-4)
    assert grounded.prediction_set.coverage == 0.8
    assert [m.label for m in grounded.mentions] == [town]
    assert any(e.predicate.label == "mood" for e in grounded.evidence)
    assert all(e.HasField("contribution") for e in grounded.evidence)
    doubt = grounded.uncertainty
    assert doubt.model.heads == 3
    assert doubt.sensitivity.robust_margin == built.manifest.robust_margin.margin
    assert doubt.sensitivity.probes > 0
    assert doubt.knowledge.coverage > 0
    assert doubt.explanation.HasField("comprehensiveness")
    assert other.uncertainty.knowledge.not_in_graph
    assert other.uncertainty.knowledge.coverage == 0
    assert prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED in other.abstain_reasons


def test_a_stream_answers_what_single_calls_answer(client: Client, project: Path):
    town = first_town(project)
    texts = {str(n): f"{town} is {word} blue" for n, word in enumerate(["surely", "never", "perhaps"])}
    requests = (
        prediction_pb2.PredictStreamRequest(id=n, input=prediction_pb2.PredictInput(text=text))
        for n, text in texts.items()
    )
    answers = {answer.id: answer.prediction for answer in client.predict_stream(requests)}
    assert {n: answer.label for n, answer in answers.items()} == {
        "0": "supported", "1": "contradicted", "2": "not_enough_info",
    }  # fmt: skip


def test_the_graph_can_be_asked_and_described(client: Client, built: Bundle, project: Path):
    town = first_town(project)
    (linked,) = client.link([f"Is {town} red?"]).results
    assert [(m.start, m.end, m.entity) for m in linked.mentions] == [(3, 3 + len(town), f"http://towns.example/{town}")]
    (grounded,) = client.ground([f"{town} has a mood"]).results
    assert grounded.evidence[0].subject.label == town
    graph = client.get_graph()
    assert graph.retriever == "rdflib"
    assert graph.entities == 60
    assert graph.version == built.manifest.provenance.graph_version


def test_models_come_with_manifest_and_certificate(client: Client, built: Bundle):
    (summary,) = client.list_models()
    assert (summary.name, summary.provider) == ("towns", "cpu")
    model = client.get_model()
    assert model.manifest == built.manifest
    assert model.certificate == built.certificate


def test_the_server_reads_the_rows_of_training_byte_by_byte(
    built: Bundle, project: Path, monkeypatch: pytest.MonkeyPatch
):
    examples = read_examples(project / "test.jsonl")[:40]
    read: set[bytes] = set()
    run = Runtime.run

    def noted(self: Runtime, rows):
        for row in rows:
            read.add(np.array([row.ids, row.type_ids]).tobytes())
        return run(self, rows)

    monkeypatch.setattr(Runtime, "run", noted)
    with BackgroundServer(ServerConfig((built.path,), project / "towns.ttl", "127.0.0.1:0")) as server:
        read.clear()  # of what it was warmed up with
        with Client(server.address) as asking:
            for example in examples:
                asking.predict([prediction_pb2.PredictInput(text=example.text, entities=example.entities)])
    with closing(open_graph(project / "towns.ttl")) as retriever:
        inputs = built.manifest.inputs
        rows = encode_examples(
            examples, list(built.manifest.labels), built.encoder(), retriever, top_k=inputs.top_k, entities="gold"
        )
    assert read == {np.array([row.ids, row.type_ids]).tobytes() for row in rows}
    assert len(read) > 10
