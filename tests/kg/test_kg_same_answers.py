"""The compiled retriever, with its compiled loops or without, gives what the rdflib retriever gives, in its order."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import rdflib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdflib.namespace import RDF, RDFS, SKOS

from groundwire.kg import (
    CompiledRetriever,
    GraphSettings,
    RdflibRetriever,
    Retriever,
    compile_graph,
    open_graph,
)

BASE = "http://e.org/"
WORDS = ["red", "Blue", "the", "of", "Übermut", "東京", "1999", "seven", "IT", "x", "ran", "running", "house", "Rio"]
phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
node = st.sampled_from([BASE + name for name in ("a", "b", "c", "dE_f", "P", "Class")]).map(rdflib.URIRef)
literal = st.one_of(
    phrase.map(rdflib.Literal), phrase.map(lambda p: rdflib.Literal(p, lang="de")), st.integers().map(rdflib.Literal)
)
predicate = st.sampled_from(
    [RDFS.label, SKOS.prefLabel, SKOS.altLabel, SKOS.definition, RDF.type, *(rdflib.URIRef(BASE + p) for p in "pqP")]
)
quad = st.tuples(
    st.one_of(node, st.just(rdflib.BNode("n"))),
    predicate,
    st.one_of(node, literal, st.just(rdflib.BNode("n"))),
    st.sampled_from([None, rdflib.URIRef(BASE + "g1"), rdflib.URIRef(BASE + "g2")]),
)
graph = st.lists(quad, max_size=40)
text = st.lists(st.sampled_from([*WORDS, ".", "Red"]), max_size=12).map(" ".join)


def same(one: Retriever, other: Retriever, text: str, top_k: int, entities: list[str]) -> None:
    assert one.link(text) == other.link(text)
    assert one.ground(text, top_k) == other.ground(text, top_k)
    assert one.ground(text, top_k, entities) == other.ground(text, top_k, entities)
    assert one.retrieve(text, entities, top_k) == other.retrieve(text, entities, top_k)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    graph, st.lists(st.lists(st.sampled_from([*WORDS, ".", "Red"]), max_size=12).map(" ".join), min_size=1, max_size=4)
)
def test_on_generated_graphs(quads: list[tuple[object, ...]], texts: list[str]) -> None:
    dataset = rdflib.Dataset()
    for s, p, o, g in quads:
        dataset.add((s, p, o, g))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        compiled = CompiledRetriever(compile_graph(dataset, Path(folder) / "graph"))
        plain = CompiledRetriever(Path(folder) / "graph", native=False)
        live = RdflibRetriever(dataset)
        assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
        for text in texts:
            same(compiled, live, text, 10, [BASE + "a", BASE + "b", BASE + "Class", BASE + "nowhere"])
            same(compiled, plain, text, 3, [BASE + "a", BASE + "b", BASE + "Class", BASE + "nowhere"])


def test_on_an_entity_whose_triples_are_all_beyond_the_limits(tmp_path: Path) -> None:
    made = rdflib.Graph()
    made.add((rdflib.URIRef(BASE + "b"), RDFS.label, rdflib.Literal("Zorblax")))
    made.add((rdflib.URIRef(BASE + "a"), rdflib.URIRef(BASE + "p"), rdflib.URIRef(BASE + "b")))
    limits = GraphSettings(incoming_limit=0)
    compiled = CompiledRetriever(compile_graph(made, tmp_path / "graph", limits))
    plain = CompiledRetriever(tmp_path / "graph", native=False)
    text = "Zorblax differs from other zorblaxes entirely"
    assert compiled.ground(text, 3).mentions
    same(compiled, RdflibRetriever(made, limits), text, 3, [BASE + "b"])
    same(compiled, plain, text, 3, [BASE + "b"])


def test_on_infotabs(data: Path, tmp_path: Path) -> None:
    source = data / "infotabs" / "graph.nq.gz"
    compiled, live = CompiledRetriever(compile_graph([source], tmp_path / "graph")), open_graph(source)
    plain = CompiledRetriever(tmp_path / "graph", native=False)
    assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
    for line in (data / "infotabs" / "dev.jsonl").read_text().splitlines()[::60]:
        claim = json.loads(line)
        same(compiled, live, claim["text"], 24, claim["entities"])
        same(compiled, plain, claim["text"], 5, claim["entities"])


def test_on_attack(data: Path, tmp_path: Path) -> None:
    source = data / "attack" / "graph.nt.gz"
    compiled, live = CompiledRetriever(compile_graph([source], tmp_path / "graph")), open_graph(source)
    plain = CompiledRetriever(tmp_path / "graph", native=False)
    assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
    for line in (data / "attack" / "links_dev.jsonl").read_text().splitlines()[::60]:
        link = json.loads(line)
        same(compiled, live, link["text"], 24, [link["entity"]])
        same(compiled, plain, link["text"], 1000, [link["entity"]])
