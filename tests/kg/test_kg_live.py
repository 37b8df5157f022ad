"""The rdflib retriever on remote and changing graphs: the same answers, a time limit, a cache, refreshing."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import rdflib
from rdflib.plugins.stores.sparqlstore import SPARQLStore

sys.path.insert(0, str(Path(__file__).parent.parent))

from sparql_endpoint import Endpoint, running

from groundwire.kg import (
    GraphTimeoutError,
    GraphUnavailableError,
    LiveOptions,
    RdflibRetriever,
    Retriever,
    open_graph,
)
from groundwire.kg.pattern_cache import PatternCache

E = "http://example.org/"
TEXTS = [
    "Paris is the capital of France.",
    "Tokyo and São Paulo are cities; Sao Paulo was founded in 1554.",
    "Prais is located in Texas.",
    "Nothing to see here.",
]
ENTITIES = [E + "Paris", E + "City", E + "capitalOf", E + "nowhere", '"euro"', "x> ?p ?o . ?s ?p <y", "_:b0"]
NEW = rdflib.URIRef(E + "Lima")


def same(one: Retriever, other: Retriever) -> None:
    for text in TEXTS:
        assert one.link(text) == other.link(text)
        assert one.ground(text, 20) == other.ground(text, 20)
        assert one.retrieve(text, ENTITIES, 50) == other.retrieve(text, ENTITIES, 50)


def numbers(retriever: Retriever) -> object:
    return replace(retriever.info, version="", source_hashes={})


@pytest.fixture
def endpoint(cities_file: Path):
    with running(cities_file) as found:
        yield found


@pytest.mark.parametrize("results", ["JSON", "XML"])
def test_an_endpoint_gives_the_answers_of_its_file(cities_file: Path, endpoint: Endpoint, results: str) -> None:
    import pyoxigraph

    endpoint.results = getattr(pyoxigraph.QueryResultsFormat, results)
    remote, local = open_graph(endpoint.url, options=LiveOptions(page_rows=7)), open_graph(cities_file)
    assert numbers(remote) == numbers(local)
    assert sum("OFFSET" in query for query in endpoint.queries) > 4
    same(remote, local)
    assert remote.info.source_hashes.keys() == {endpoint.url}


def test_a_page_that_is_cut_short_loses_nothing(cities_file: Path, endpoint: Endpoint) -> None:
    endpoint.most_rows = 3
    assert numbers(open_graph(endpoint.url)) == numbers(open_graph(cities_file))


@pytest.mark.parametrize("union", [False, True])
def test_named_graphs_are_provenance_whatever_the_default_graph_shows(tmp_path: Path, union: bool) -> None:
    path = tmp_path / "named.nq"
    label = "<http://www.w3.org/2000/01/rdf-schema#label>"
    path.write_text(
        f'<{E}a> {label} "Alpha" <{E}g> .\n<{E}a> <{E}near> <{E}b> <{E}g> .\n<{E}a> <{E}near> <{E}b> <{E}h> .\n'
        f'<{E}b> {label} "Beta" <{E}h> .\n'
    )
    local = open_graph(path)
    with running(path) as endpoint:
        endpoint.union = union
        remote = open_graph(endpoint.url)
        assert numbers(remote) == numbers(local)
        assert remote.ground("Alpha meets Beta", 9) == local.ground("Alpha meets Beta", 9)
        assert [fact.graph for fact in remote.ground("Alpha meets Beta", 9).evidence] == [E + "g", E + "h"]


def test_of_a_big_endpoint_only_names_are_read(cities_file: Path, endpoint: Endpoint) -> None:
    remote, local = open_graph(endpoint.url, options=LiveOptions(whole_triples=5)), open_graph(cities_file)
    assert numbers(remote) == numbers(local)
    for text in TEXTS:
        assert [m.entity for m in remote.link(text)] == [m.entity for m in local.link(text)]
        facts = [{fact.text for fact in one.ground(text, 50).evidence} for one in (remote, local)]
        assert facts[0] == facts[1]
    pages = [query for query in endpoint.queries if "OFFSET" in query]
    assert pages and all("VALUES ?p" in query for query in pages)


def test_a_sparql_store_of_rdflib_gives_the_same(cities_file: Path, endpoint: Endpoint) -> None:
    path = cities_file.parent / "plain.ttl"
    path.write_text(cities_file.read_text().replace('[ rdfs:label "a note" ; :says "hello" ]', '"a note"'))
    with running(path) as plain:
        store = SPARQLStore(plain.url, method="POST_FORM")
        remote, local = RdflibRetriever(rdflib.Graph(store)), open_graph(path)
        for text in TEXTS:
            assert remote.ground(text, 20) == local.ground(text, 20)
        plain.mode = "hang"
        remote._options = LiveOptions(request_seconds=0.2)
        remote._cache.clear()
        with pytest.raises(GraphTimeoutError, match=r"SPARQLStore.*127\.0\.0\.1.*time limit"):
            remote.ground(TEXTS[0], 5)


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_an_endpoint_that_hangs_meets_the_time_limit(endpoint: Endpoint, mode: str) -> None:
    remote = open_graph(endpoint.url, options=LiveOptions(request_seconds=0.3))
    endpoint.mode = mode
    for ask in (lambda: remote.ground(TEXTS[0], 5), lambda: remote.retrieve("", [E + "Paris"], 5)):
        with pytest.raises(GraphTimeoutError, match=endpoint.url):
            ask()
    with pytest.raises(GraphTimeoutError, match=endpoint.url):
        open_graph(endpoint.url, options=LiveOptions(scan_seconds=0.3))
    endpoint.mode = "answer"
    assert remote.ground(TEXTS[0], 5).evidence


@pytest.mark.parametrize(
    ("mode", "message"), [("fail", "HTTP 500.*out of memory"), ("nonsense", "can't be read"), ("page", "text/html")]
)
def test_an_endpoint_that_fails_is_named(endpoint: Endpoint, mode: str, message: str) -> None:
    remote = open_graph(endpoint.url)
    endpoint.mode = mode
    with pytest.raises(GraphUnavailableError, match=f"{endpoint.url}.*{message}"):
        remote.ground(TEXTS[0], 5)
    with pytest.raises(GraphUnavailableError, match=f"{endpoint.url}.*{message}"):
        open_graph(endpoint.url)


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with running() as endpoint:
        url = endpoint.url
    with pytest.raises(GraphUnavailableError, match=f"{url} can't be reached: .*refused"):
        open_graph(url)


def test_user_and_password_are_sent_and_not_shown(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url.replace("http://", "http://ada:se%40cret@"))
    assert endpoint.headers[0]["Authorization"] == "Basic YWRhOnNlQGNyZXQ="
    assert list(remote.info.source_hashes) == [endpoint.url]


def test_answers_are_kept_until_a_refresh(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url)
    first = remote.ground(TEXTS[0], 5)
    asked = len(endpoint.queries)
    assert remote.ground(TEXTS[0], 5) == first
    assert remote.retrieve("", [E + "nowhere"], 5) == remote.retrieve("", [E + "nowhere"], 5) == []
    assert len(endpoint.queries) == asked + 1  # of the IRI that is not there, once
    assert isinstance(remote, RdflibRetriever)
    assert not remote.refresh()
    asked = len(endpoint.queries)
    assert remote.ground(TEXTS[0], 5) == first
    assert len(endpoint.queries) > asked


def test_without_a_cache_every_pattern_is_asked_again(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url, options=LiveOptions(cache_entries=0))
    remote.ground(TEXTS[0], 5)
    asked = len(endpoint.queries)
    remote.ground(TEXTS[0], 5)
    assert len(endpoint.queries) > asked


def test_a_change_of_an_endpoint_shows_after_a_refresh(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url)
    assert isinstance(remote, RdflibRetriever)
    version = remote.info.version
    assert remote.link("Lima is in Peru.") == []
    endpoint.store.update(
        f'INSERT DATA {{ <{E}Lima> <http://www.w3.org/2000/01/rdf-schema#label> "Lima" ; <{E}near> <{E}Paris> }}'
    )
    assert remote.link("Lima is in Peru.") == []
    assert remote.refresh()
    assert [mention.entity for mention in remote.link("Lima is in Peru.")] == [E + "Lima"]
    assert remote.info.version != version
    endpoint.store.update(f"DELETE WHERE {{ <{E}Lima> ?p ?o }}")
    assert remote.refresh()
    assert remote.info.version == version


def test_a_changed_graph_in_memory_is_another_version_and_the_same_again(cities_file: Path) -> None:
    graph = rdflib.Graph().parse(cities_file)
    live = RdflibRetriever(graph)
    version = live.info.version
    assert not live.refresh()
    near = rdflib.URIRef(E + "near")
    triples = [(NEW, rdflib.RDFS.label, rdflib.Literal("Lima")), (NEW, near, rdflib.Literal("sea"))]
    for triple in triples:
        graph.add(triple)
    assert live.refresh()
    assert live.info.version != version
    assert [fact.text for fact in live.ground("Lima", 5).evidence] == ["Lima near: sea"]
    for triple in triples:
        graph.remove(triple)
    assert live.refresh()
    assert live.info.version == version


def test_a_file_that_was_changed_and_changed_back_has_the_version_of_the_file(cities_file: Path) -> None:
    from groundwire.kg import load_dataset
    from groundwire.kg.read import source_hashes

    dataset = load_dataset([cities_file])
    live = RdflibRetriever(dataset, hashes=source_hashes([cities_file]))
    version = live.info.version
    assert version == open_graph(cities_file).info.version
    dataset.add((NEW, rdflib.URIRef(E + "near"), rdflib.Literal("sea")))
    assert live.refresh() and live.info.version != version
    dataset.remove((NEW, rdflib.URIRef(E + "near"), rdflib.Literal("sea")))
    assert live.refresh() and live.info.version == version


def test_a_refresh_that_fails_leaves_what_was_there(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url)
    assert isinstance(remote, RdflibRetriever)
    before = remote.info
    endpoint.mode = "fail"
    with pytest.raises(GraphUnavailableError):
        remote.refresh()
    endpoint.mode = "answer"
    assert remote.info is before
    assert remote.ground(TEXTS[0], 5).evidence


def test_labels_are_read_again_in_the_background(endpoint: Endpoint) -> None:
    remote = open_graph(endpoint.url, options=LiveOptions(refresh_seconds=0.05))
    endpoint.store.update(
        f'INSERT DATA {{ <{E}Lima> <http://www.w3.org/2000/01/rdf-schema#label> "Lima" ; <{E}near> <{E}Paris> }}'
    )
    waiting = threading.Event()
    last = time.monotonic() + 60
    while not remote.link("Lima is in Peru.") and time.monotonic() < last:
        waiting.wait(0.02)
    assert [mention.entity for mention in remote.link("Lima is in Peru.")] == [f"{E}Lima"]
    remote.close()


def test_the_cache_forgets_the_oldest_the_stale_and_everything() -> None:
    now = [0.0]
    cache: PatternCache[str, int] = PatternCache(2, 10.0, lambda: now[0])
    asked: list[str] = []

    def get(key: str) -> int:
        return cache.get(key, lambda: (asked.append(key), len(asked))[1])

    assert [get("a"), get("b"), get("a"), get("c"), get("a"), get("b")] == [1, 2, 1, 3, 1, 4]
    assert len(cache) == 2
    now[0] = 11.0
    assert get("b") == 5
    cache.clear()
    assert get("b") == 6

    def cleared_meanwhile() -> int:
        cache.clear()
        return 0

    assert cache.get("z", cleared_meanwhile) == 0
    assert get("z") == 7
