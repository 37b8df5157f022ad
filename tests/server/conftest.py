"""A small graph, a small real bundle, and a server that holds both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import TRIG, Direct, direct_model
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import Bundle
from groundwire.kg import Retriever, compile_graph, compile_store, open_graph
from groundwire.kg.encode import PairEncoder
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig
from groundwire.server.runtime import Runtime


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
def encoder(tiny: Bundle) -> PairEncoder:
    return tiny.encoder()


@pytest.fixture(scope="session")
def runtime(tiny: Bundle, encoder: PairEncoder) -> Iterator[Runtime]:
    opened = Runtime(tiny, encoder.pad_id, "cpu", 1)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def config(request: pytest.FixtureRequest, tiny: Bundle, graph: Path) -> ServerConfig:
    """Of the default transport, unless a module asks for another; see `test_server_native`."""
    transport = getattr(request, "param", "grpcio")
    return ServerConfig((tiny.path,), graph, "127.0.0.1:0", provider="cpu", threads=1, transport=transport)


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
    """See `direct_model`."""
    return direct_model(tiny, retriever)
