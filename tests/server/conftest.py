"""A small graph, a small real bundle, and a server that holds both."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from serving import TRIG, Direct
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import INPUTS, OUTPUTS, Bundle
from groundwire.kg import Retriever, compile_graph, compile_store, open_graph
from groundwire.kg.encode import PairEncoder
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig


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
def query_store(graph_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "places"
    compile_store([graph_file], out)
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
