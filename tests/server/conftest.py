"""A small graph, a small real bundle, and a server that holds both."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import INPUTS, OUTPUTS, Bundle
from groundwire.kg import Retriever, compile_graph, open_graph
from groundwire.kg.encode import PairEncoder
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig

TRIG = """
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
:capitalOf rdfs:label "capital of" . :continent rdfs:label "continent" . :population rdfs:label "population" .
:Paris rdfs:label "Paris" . :Lyon rdfs:label "Lyon" . :Oslo rdfs:label "Oslo" . :Lima rdfs:label "Lima" .
:France rdfs:label "France"@en . :Norway rdfs:label "Norway" . :Peru rdfs:label "Peru" .
:Europe rdfs:label "Europe" . :America rdfs:label "South America" .
:atlas { :Paris :capitalOf :France ; :population 2100000 . :Oslo :capitalOf :Norway . :Lima :capitalOf :Peru . }
:census { :Paris :population 2200000 . :Lyon :population 520000 . }
:France :continent :Europe . :Norway :continent :Europe . :Peru :continent :America .
:France :motto "Liberté"@fr .
"""
TEXTS = (
    "Paris is the capital of France.",
    "Lyon is the capital of France, not Paris.",
    "Oslo is the capital of Norway.",
    "Lima lies in South America and is the capital of Peru, or so people say.",
    "The population of Paris is 2100000.",
    "Nothing here is in the graph at all.",
    "Norway is on the continent of Europe.",
    "Peru",
)


@pytest.fixture(scope="session")
def graph_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "places.trig"
    path.write_text(TRIG, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def graph(graph_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graph") / "places"
    compile_graph([graph_file], out)
    return out


@pytest.fixture(scope="session")
def retriever(graph: Path) -> Iterator[Retriever]:
    opened = open_graph(graph)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def config(tiny: Bundle, graph: Path) -> ServerConfig:
    return ServerConfig((tiny.path,), graph, "127.0.0.1:0", provider="cpu", threads=1)


@pytest.fixture(scope="session")
def server(config: ServerConfig) -> Iterator[BackgroundServer]:
    with BackgroundServer(config) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: BackgroundServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the other side does by itself and tells nobody of."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


Direct = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def direct(tiny: Bundle, retriever: Retriever) -> Direct:
    """The model's outputs for one text alone, straight from ONNX Runtime: what every answer of a server must equal.

    `written` is what the model reads in place of the text, beside the text's own evidence.
    """
    session = ort.InferenceSession(tiny.model, providers=["CPUExecutionProvider"])
    encoder = PairEncoder(tiny.tokenizer, tiny.manifest.inputs.max_tokens)
    known: dict[tuple[str, bool, str], dict[str, np.ndarray]] = {}

    def run(text: str, evidence: bool = True, written: str = "") -> dict[str, np.ndarray]:
        key = (text, evidence, written)
        if key not in known:
            triples = retriever.ground(text, tiny.manifest.inputs.top_k).evidence if evidence else ()
            row = encoder.encode(written or text, triples)
            feed = dict(zip(INPUTS, ([row.ids], [[1] * len(row.ids)], [row.type_ids]), strict=True))
            tensors = session.run(list(OUTPUTS), {name: np.array(ids, dtype=np.int64) for name, ids in feed.items()})
            known[key] = {name: tensor[0] for name, tensor in zip(OUTPUTS, tensors, strict=True)}
        return known[key]

    return run
