"""Sources beside files: rdflib stores, and SPARQL endpoints read page by page over HTTP."""

from dataclasses import replace
from pathlib import Path

import pyoxigraph as ox
import pytest
import rdflib
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oxrdflib import OxigraphStore
from paged_endpoint import serve_sparql
from rdflib.compare import isomorphic
from rdflib.plugins.stores.memory import Memory, SimpleMemory
from rdflib.plugins.stores.sparqlstore import SPARQLStore

from groundwire.cli.kg import kg
from groundwire.kg import (
    CompiledRetriever,
    Endpoint,
    GraphUnavailableError,
    SourceError,
    compile_graph,
    load_dataset,
    open_graph,
)
from groundwire.kg.fetch import fetch
from groundwire.kg.prepare import prepared
from groundwire.kg.settings import GraphSettings

E = "http://e.org/"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
TRIG = (
    "@prefix : <http://e.org/> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n"
    f':one {{ :Oslo {LABEL} "Oslo"@en ; :n 1 , "01"^^xsd:integer , 1.0 , "1" , "1"@en , <urn:1> ; :in :Norway }}\n'
    f':two {{ :Norway {LABEL} "Norway"@en , "Norge"@no ; :note [ :says "x" ; :more [ :says "y" ] ] }}\n'
    ":Oslo :twin :Bergen . [] :about :Oslo .\n"
)


def everything(endpoint: Endpoint, path: Path) -> rdflib.Dataset:
    fetch(endpoint, path / "all.nq", lambda step, count: None)
    return load_dataset([path / "all.nq"])


def names_and_sizes(dataset: rdflib.Dataset) -> dict[str, int]:
    return {str(graph.identifier): len(graph) for graph in dataset.graphs() if len(graph)}


def same_graphs(one: rdflib.Dataset, other: rdflib.Dataset) -> bool:
    return names_and_sizes(one) == names_and_sizes(other) and all(
        isomorphic(one.graph(rdflib.URIRef(name)), other.graph(rdflib.URIRef(name))) for name in names_and_sizes(one)
    )


@pytest.fixture
def original(tmp_path: Path) -> rdflib.Dataset:
    (tmp_path / "original.trig").write_text(TRIG)
    return load_dataset([tmp_path / "original.trig"])


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("union", [False, True])
def test_pages_make_up_the_whole_graph(tmp_path: Path, original: rdflib.Dataset, page: int, union: bool) -> None:
    with serve_sparql(TRIG, union=union) as server:
        found = everything(Endpoint(server.url, page=page, retries=0), tmp_path)
    assert same_graphs(found, original)


terms = st.sampled_from([f"<{E}{name}>" for name in "abc"])
values = st.one_of(terms, st.sampled_from(['"1"', '"01"', '"1"@en', "1", "01", "1.0", '"http://e.org/a"', '"é\\"\\n"']))


def _stored(quad: tuple[str, ...]) -> tuple[str, ...]:
    """The triple as Oxigraph keeps it, which knows integers by their value: 01 is 1."""
    return *quad[1:3], str(int(quad[3])) if quad[3].isdecimal() else quad[3]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.sampled_from(["", f"<{E}g>", f"<{E}h>"]), terms, terms, values), max_size=25), st.booleans()
)
def test_nothing_is_lost_or_doubled(tmp_path: Path, quads: list[tuple[str, ...]], union: bool) -> None:
    # What both the default graph and a named one state can't be told apart on a union.
    named = {_stored(quad) for quad in quads if quad[0]}
    quads = [quad for quad in quads if quad[0] or _stored(quad) not in named]
    with serve_sparql("\n".join(f"{g} {{ {s} {p} {o} }}" for g, s, p, o in quads), union=union) as server:
        everything(Endpoint(server.url, page=2, retries=0), tmp_path)
        lines = (tmp_path / "all.nq").read_text(encoding="utf-8").splitlines()
        expected = {f"{quad} ." for quad in server.store}
    assert len(lines) == len(set(lines))
    assert set(lines) == expected


def test_an_endpoint_compiles_and_opens_as_its_dump_does(tmp_path: Path) -> None:
    with serve_sparql(TRIG) as server:
        first = compile_graph(server.url, tmp_path / "one")
        again = compile_graph([Endpoint(server.url, page=3)], tmp_path / "two")
        live = open_graph([server.url])  # in a list: a copy
        assert list(live.info.source_hashes) == [server.url]
        for path in first.iterdir():
            assert path.read_bytes() == (again / path.name).read_bytes()
    compiled = CompiledRetriever(first)
    assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
    assert compiled.ground("Oslo is in Norway", 30) == live.ground("Oslo is in Norway", 30)
    assert {fact.graph for fact in compiled.ground("Oslo is in Norway", 30).evidence} == {"", E + "one", E + "two"}


def test_the_command_takes_an_endpoint(tmp_path: Path) -> None:
    with serve_sparql(TRIG) as server:
        result = CliRunner().invoke(kg, ["compile", server.url, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    assert CompiledRetriever(tmp_path / "out").link("Norway")[0].entity == E + "Norway"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again(tmp_path: Path, original: rdflib.Dataset, status: int) -> None:
    with serve_sparql(TRIG, statuses=[status, status], broken=1) as server:
        assert same_graphs(everything(Endpoint(server.url, retries=2, backoff=0.001), tmp_path), original)
        assert server.queries[0] == server.queries[1] == server.queries[2]


def test_a_server_that_stays_down_is_named_with_the_page(tmp_path: Path) -> None:
    with serve_sparql("<http://e.org/a> <http://e.org/p> 1, 2, 3 .") as server:
        endpoint = Endpoint(server.url, page=2, retries=1, backoff=0.001)
        everything(endpoint, tmp_path)
        before = len(server.queries)
        # Down from the second page on.
        server.queries.clear()
        answer = server.answer

        def failing(query: str) -> tuple[bytes, str]:
            if "OFFSET 2" in query:
                server.statuses[:] = [503] * 2
                raise ConnectionAbortedError
            return answer(query)

        server.answer = failing  # type: ignore[method-assign]
        with pytest.raises(SourceError, match=rf"{server.url}, the default graph, page 2: .*after 2 tries"):
            everything(endpoint, tmp_path)
        assert len(server.queries) == before + 1


@pytest.mark.parametrize("status", [400, 404])
def test_what_will_not_pass_is_not_tried_again(tmp_path: Path, status: int) -> None:
    with serve_sparql(TRIG, statuses=[status]) as server:
        with pytest.raises(SourceError, match=f"the list of graphs: HTTP status {status}: out of order"):
            everything(Endpoint(server.url), tmp_path)
        assert len(server.queries) == 1


def test_redirects_are_told_and_not_followed(tmp_path: Path) -> None:
    with (
        serve_sparql(TRIG) as other,
        serve_sparql(TRIG, statuses=[302, 302], headers={"Location": other.url}) as server,
    ):
        with pytest.raises(SourceError, match=f"points to {other.url}"):
            everything(Endpoint(server.url), tmp_path)
        with pytest.raises(GraphUnavailableError, match="HTTP 302"):
            open_graph(server.url)
        assert other.queries == []


def test_an_endpoint_that_cuts_its_answers_costs_requests_not_triples(tmp_path: Path, original: rdflib.Dataset) -> None:
    with serve_sparql(TRIG, cut=4) as server:
        assert same_graphs(everything(Endpoint(server.url, page=100), tmp_path), original)
        assert len(server.queries) > len({query.partition("OFFSET")[0] for query in server.queries})


def test_blank_nodes_that_do_not_fit_one_answer_are_refused(tmp_path: Path) -> None:
    with (
        serve_sparql(TRIG, cut=2) as server,
        pytest.raises(SourceError, match=r"graph http://e\.org/two, blank nodes: 2 triples came instead of the 4"),
    ):
        everything(Endpoint(server.url), tmp_path)


def test_an_answer_that_trickles_is_given_up(tmp_path: Path) -> None:
    with (
        serve_sparql(TRIG, pause=0.05) as server,
        pytest.raises(SourceError, match=r"no whole answer within 0\.2 s, after 1 tries"),
    ):
        everything(Endpoint(server.url, timeout=0.2, retries=0), tmp_path)


def test_a_page_of_html_is_no_endpoint(tmp_path: Path) -> None:
    with (
        serve_sparql("<http://e.org/a> <http://e.org/p> 1 .", media_type="text/html") as server,
        pytest.raises(SourceError, match="page 1: the answer is text/html, not RDF"),
    ):
        everything(Endpoint(server.url), tmp_path)


def test_nothing_listens() -> None:
    with pytest.raises(
        SourceError, match=r"http://127\.0\.0\.1:1/sparql, the list of graphs: .*refused.*after 2 tries"
    ):
        open_graph(Endpoint("http://127.0.0.1:1/sparql", retries=1, backoff=0.001))


@pytest.mark.parametrize("url", ["ftp://e.org/x", "http://", "file:///etc/passwd", "http://me:secret@e.org/sparql"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        Endpoint(url)
    assert "secret" not in str(caught.value)


def test_headers_go_with_each_request(tmp_path: Path) -> None:
    with serve_sparql(TRIG) as server:
        everything(Endpoint(server.url, headers={"Authorization": "Bearer x"}), tmp_path)
        assert {seen["Authorization"] for seen in server.seen} == {"Bearer x"}


@pytest.mark.parametrize("kind", ["memory", "simple", "oxigraph", "remote"])
def test_any_store_is_a_source(tmp_path: Path, kind: str) -> None:
    with serve_sparql(TRIG.partition(":two")[0]) as server:
        store = {
            "memory": Memory,
            "simple": SimpleMemory,
            "oxigraph": lambda: OxigraphStore(store=ox.Store()),
            "remote": lambda: SPARQLStore(server.url, method="POST_FORM"),
        }[kind]()
        if kind == "remote":
            server.union = True
        elif kind == "simple":
            rdflib.Graph(store=store).add(
                (rdflib.URIRef(E + "Oslo"), rdflib.RDFS.label, rdflib.Literal("Oslo", lang="en"))
            )
            rdflib.Graph(store=store).add(
                (rdflib.URIRef(E + "Oslo"), rdflib.URIRef(E + "in"), rdflib.URIRef(E + "Norway"))
            )
        else:
            rdflib.Dataset(store=store).parse(data=TRIG, format="trig")
        compiled, live = CompiledRetriever(compile_graph(store, tmp_path / "graph")), open_graph(store)
        found = compiled.ground("Oslo is nice", 20)
        assert found == live.ground("Oslo is nice", 20)
        assert "Oslo in: Norway" in {fact.text for fact in found.evidence}
        assert {fact.graph for fact in found.evidence} == ({"", E + "one"} if kind in ("memory", "oxigraph") else {""})


def test_what_was_fetched_is_gone_afterwards(tmp_path: Path) -> None:
    with serve_sparql(TRIG) as server, prepared([server.url], GraphSettings()) as ready:
        first, again = list(ready.quads()), list(ready.quads())
        assert first == again
        (path,) = ready.sources
        assert isinstance(path, Path) and path.is_file()
    assert not path.parent.exists()


def test_a_store_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="rdflib store SPARQLStore can't be read"):
        compile_graph(SPARQLStore("http://127.0.0.1:1/sparql"), tmp_path / "graph")


def test_quads_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "long.nt"
    path.write_text(f"<{E}s> <{E}p> <{E}o> .\n" * 50_000 + "broken\n")
    with prepared([path], GraphSettings()) as ready:
        quads = ready.quads()
        # The first comes before the last line was looked at.
        assert next(quads) == (E + "s", E + "p", E + "o", "")
        with pytest.raises(SourceError, match="line 50001"):
            list(quads)
