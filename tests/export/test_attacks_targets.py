"""One attack, three targets: the trained model in PyTorch, the bundle on ONNX Runtime, and a server over gRPC."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from groundwire.bundle import Bundle
from groundwire.export.artifact import TorchArtifact
from groundwire.export.attacks.text import Budget, attack_evidence, character_candidates, drop, poison
from groundwire.export.attacks.text.evidence import object_pool
from groundwire.export.attacks.text.greedy import attack_texts, attack_texts_for
from groundwire.export.attacks.text.targets import Grounded, artifact_run, bundle_run, served
from groundwire.export.data import Example, read_examples
from groundwire.export.model import TextClassifier, load_encoder
from groundwire.kg import Retriever, compile_graph, open_graph

BUDGET = Budget(0.2, 30)


@pytest.fixture(scope="module")
def graph(project: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("attacked") / "graph"
    compile_graph([project / "towns.ttl"], out)
    return out


@pytest.fixture(scope="module")
def retriever(graph: Path) -> Iterator[Retriever]:
    opened = open_graph(graph)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def examples(project: Path) -> list[Example]:
    return read_examples(project / "test.jsonl")[::12]


def grounded(bundle: Bundle, retriever: Retriever, run, examples) -> Grounded:
    encoder = bundle.encoder()
    return Grounded(run, encoder, retriever, bundle.manifest.inputs.top_k, [e.entities for e in examples])


def labels_of(bundle: Bundle, examples: list[Example]) -> list[int]:
    return [list(bundle.manifest.labels).index(e.label) for e in examples]


def test_the_same_attack_runs_against_pytorch_a_bundle_and_a_server(
    built: Bundle, project: Path, graph: Path, retriever: Retriever, examples: list[Example]
):
    from groundwire.server.app import BackgroundServer
    from groundwire.server.client import Client
    from groundwire.server.config import ServerConfig

    texts, labels = [e.text for e in examples], labels_of(built, examples)
    model = TextClassifier(load_encoder(str(project / "encoder")), 3, 3)
    model.load_state_dict(load_file(project / "bundle.work" / "trained.safetensors"))
    trained = grounded(built, retriever, artifact_run(TorchArtifact("trained", model, project), 1.0), examples)
    local = grounded(built, retriever, bundle_run(built, 1), examples)
    candidates = character_candidates(most=4)

    in_torch = attack_texts_for(trained.texts_for, texts, labels, candidates, BUDGET)
    on_onnx = attack_texts_for(local.texts_for, texts, labels, candidates, BUDGET)
    config = ServerConfig((built.path,), graph, "127.0.0.1:0", provider="cpu", threads=1)
    with BackgroundServer(config) as server, Client(server.address) as client:
        ask = served(client.predict, entities=[e.entities for e in examples], batch_limit=5)
        over_grpc = attack_texts_for(ask, texts, labels, candidates, BUDGET)
        linked = attack_texts_for(served(client.predict), texts, labels, candidates, BUDGET)
    local_linked = attack_texts(local.texts, texts, labels, candidates, BUDGET)
    # Dynamic INT8 quantization scales each batch by its own largest value, so rows answer a little by their company.
    for mine, theirs in ((on_onnx, over_grpc), (local_linked, linked)):
        assert [r.clean for r in mine] == [r.clean for r in theirs]
        assert sum(a.robust != b.robust for a, b in zip(mine, theirs, strict=True)) <= 2
        same = [n for n, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a.text == b.text]
        assert len(same) > len(texts) // 2
        assert np.allclose([mine[n].confidence for n in same], [theirs[n].confidence for n in same], atol=0.15)
    for results in (in_torch, on_onnx, over_grpc):
        assert sum(r.clean == r.label for r in results) >= len(texts) - 3
        assert not all(r.robust for r in results)
        assert max(r.queries for r in results) <= BUDGET.queries


def test_evidence_attacks_reach_the_model(built: Bundle, retriever: Retriever, examples: list[Example]):
    local = grounded(built, retriever, bundle_run(built, 1), examples)
    pairs = [(e.text, local.evidence(e.text, e.entities)) for e in examples]
    assert all(evidence for _, evidence in pairs)
    pool = object_pool(evidence for _, evidence in pairs)
    for variants in (drop, poison(pool)):
        results = attack_evidence(local.pairs, pairs, labels_of(built, examples), variants)
        assert results[0].queries == 1 + len(variants(pairs[0][1])) > 1
        clean = local.texts_for([e.text for e in examples], list(range(len(examples)))).argmax(axis=1)
        assert sum(r.clean != c for r, c in zip(results, clean.tolist(), strict=True)) <= 1  # INT8, as above
