"""RDFS and OWL 2 RL: what is inferred, where it stands, and what never becomes evidence."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.kg import (
    CompiledRetriever,
    GraphError,
    GraphSettings,
    compile_graph,
    open_graph,
    read_report,
)
from groundwire.kg.read import read_quads
from groundwire.kg.reason import Inference, close, infer, relevant, rules_of
from groundwire.kg.settings import INFERRED_GRAPH

E = "http://e.org/"
PREFIXES = """
@prefix : <http://e.org/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
"""
FAMILY = (
    PREFIXES
    + """
:g { :ada a :Mathematician ; rdfs:label "Ada Lovelace"@en ; :mother :anne ; :born 1815 , "1815" ; :note [ :by :anne ] .
     :anne rdfs:label "Anne Isabella"@en . }
:schema { :Mathematician rdfs:subClassOf :Scientist . :Scientist rdfs:subClassOf :Person .
     :mother rdfs:subPropertyOf :parent ; rdfs:range :Woman . :born rdfs:range xsd:integer .
     :parent owl:inverseOf :child . :noted owl:inverseOf :by . }
"""
)
RDFS_NEWS = {
    (E + "ada", "type", E + "Scientist"),
    (E + "ada", "type", E + "Person"),
    (E + "ada", E + "parent", E + "anne"),
    (E + "anne", "type", E + "Woman"),
    (E + "Mathematician", "subClassOf", E + "Person"),
}


def inferred(path: Path, entailment: str, **others: object) -> Inference:
    settings = GraphSettings(entailment=entailment, **others)  # type: ignore[arg-type]
    return infer(list(read_quads(path)), settings, lambda step, count: None)


def told(inference: Inference) -> set[tuple[str, str, str]]:
    return {(s, p.rsplit("#", 1)[-1], o) for s, p, o, _ in inference.quads}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "graph.trig"
    path.write_text(text, encoding="utf-8")
    return path


def test_rdfs_infers_this_and_nothing_else(tmp_path: Path) -> None:
    found = inferred(written(tmp_path, FAMILY), "rdfs")
    assert told(found) == RDFS_NEWS
    assert {quad[3] for quad in found.quads} == {INFERRED_GRAPH}
    assert list(found.quads) == sorted(found.quads)


def test_owl_adds_inverses_also_of_blank_nodes(tmp_path: Path) -> None:
    found = inferred(written(tmp_path, FAMILY), "owlrl")
    news = told(found) - RDFS_NEWS
    assert (E + "anne", E + "child", E + "ada") in news
    assert any(s == E + "anne" and p == E + "noted" and o.startswith("_:") for s, p, o in news)
    assert not [quad for quad in found.quads if quad[0].startswith('"') or quad[0] == quad[2]]
    assert not [quad for quad in found.quads if quad[2].startswith("http://www.w3.org/")]
    assert found.inconsistencies == ()


@pytest.mark.parametrize("entailment", ["rdfs", "owlrl"])
def test_both_retrievers_give_inferred_triples_as_such(tmp_path: Path, entailment: str) -> None:
    path, settings = written(tmp_path, FAMILY), GraphSettings(entailment=entailment)
    out = compile_graph(path, tmp_path / "graph", settings)
    again = compile_graph(path, tmp_path / "again", settings)
    assert all(file.read_bytes() == (again / file.name).read_bytes() for file in out.iterdir())
    compiled, live = CompiledRetriever(out), open_graph(path, settings)
    assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
    assert read_report(out)["inferred_triples"] == len(inferred(path, entailment).quads)
    for text in ("Ada Lovelace was a scientist", "Anne Isabella is the parent of Ada Lovelace"):
        assert compiled.ground(text, 30) == live.ground(text, 30)
    evidence = compiled.ground("Ada Lovelace was a scientist", 30).evidence
    graphs = {fact.text: fact.graph for fact in evidence}
    assert graphs["Ada Lovelace type: Scientist"] == INFERRED_GRAPH
    assert graphs["Ada Lovelace type: Mathematician"] == E + "g"
    assert not any("Thing" in text or "Resource" in text for text in graphs)


def test_a_key_fuses_and_what_follows_is_said_of_the_one_entity(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        PREFIXES
        + """:isbn a owl:InverseFunctionalProperty .
        :x :isbn "1" ; :author :a ; rdfs:label "X"@en . :y :isbn "1" ; :year 1990 .
        :a :wrote :y . :author owl:inverseOf :wrote . :z :isbn "2" .""",
    )
    settings = GraphSettings(entailment="owlrl")
    compiled, live = CompiledRetriever(compile_graph(path, tmp_path / "graph", settings)), open_graph(path, settings)
    for one in (compiled, live):
        facts = one.retrieve("", [E + "y"], 20)
        assert {(fact.text, fact.graph) for fact in facts} == {
            ("X isbn: 1", ""),
            ("X author: a", ""),
            ("X year: 1990", ""),
            ("a wrote: X", ""),
        }
        assert one.retrieve("", [E + "x"], 20) == facts


def test_two_values_of_a_functional_property_stay_two(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        PREFIXES
        + """:capital a owl:FunctionalProperty . :au :capital :sydney , :canberra ; :size "big" , "small" .
        :size a owl:FunctionalProperty . :sydney :harbour :port . :other :size "big" .""",
    )
    settings = GraphSettings(entailment="owlrl")
    out = compile_graph(path, tmp_path / "graph", settings)
    report = read_report(out)
    assert report["fused_entities"] == 0
    assert {conflict["predicate"] for conflict in report["conflicts"]} == {E + "capital", E + "size"}
    assert [fact.text for fact in CompiledRetriever(out).retrieve("", [E + "canberra"], 9)] == ["au capital: canberra"]
    assert [fact.object.value for fact in CompiledRetriever(out).retrieve("", [E + "other"], 9)] == ["big"]


def test_inconsistencies_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path, PREFIXES + ":Cat owl:disjointWith :Dog . :rex a :Cat , :Dog .")
    report = read_report(compile_graph(path, tmp_path / "graph", GraphSettings(entailment="owlrl")))
    assert len(report["inconsistencies"]) == 1
    assert "rex" in report["inconsistencies"][0]


@pytest.mark.parametrize(
    "axioms",
    [
        ":a owl:differentFrom :b .",
        ":b owl:differentFrom :a .",
        "[] a owl:AllDifferent ; owl:members ( :c :a :b ) .",
        "[] a owl:AllDifferent ; owl:distinctMembers ( :a :b ) .",
    ],
)
@pytest.mark.parametrize(
    "same",
    [
        ":a owl:sameAs :b .",
        ":b <http://www.w3.org/2004/02/skos/core#exactMatch> :a .",
        ":a owl:sameAs :x . :b owl:sameAs :x .",
        ":k a owl:InverseFunctionalProperty . :a :k :x . :b :k :x .",
    ],
)
def test_fused_entities_that_are_said_to_be_different_are_reported(tmp_path: Path, axioms: str, same: str) -> None:
    path = written(tmp_path, PREFIXES + same + axioms)
    report = read_report(compile_graph(path, tmp_path / "graph", GraphSettings(entailment="owlrl")))
    assert report["inconsistencies"] == [f"{E}a and {E}b are the same entity, and said to be different"]
    path = written(tmp_path, PREFIXES + same.replace(":b", ":d") + axioms)
    assert inferred(path, "owlrl").inconsistencies == ()
    assert inferred(written(tmp_path, PREFIXES + same + axioms), "rdfs").inconsistencies == ()


def test_a_disjointness_that_only_the_fused_entity_violates_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path, PREFIXES + ":Cat owl:disjointWith :Dog . :a a :Cat ; owl:sameAs :b . :b a :Dog .")
    (told,) = inferred(path, "owlrl").inconsistencies
    assert E + "a" in told and "Disjoint" in told


CIRCLE = "_:l rdf:first :D ; rdf:rest _:m . _:m rdf:first :E ; rdf:rest _:l ."


@pytest.mark.parametrize(
    ("axioms", "message"),
    [
        (":C owl:unionOf _:l . " + CIRCLE, "the list .* of http://e.org/C .*unionOf comes back .*; end it in rdf:nil"),
        ("[] a owl:AllDifferent ; owl:members _:l . " + CIRCLE, "the list .*members comes back"),
        (":C owl:onProperty :p ; owl:maxCardinality :x . :a :p :b .", "axioms can't be used"),
    ],
)
def test_axioms_that_cannot_be_used_are_refused(tmp_path: Path, axioms: str, message: str) -> None:
    rdf = "@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . "
    path = written(tmp_path, PREFIXES + rdf + axioms)
    with pytest.raises(GraphError, match=message):
        inferred(path, "owlrl")
    assert inferred(path, "rdfs").inconsistencies == ()


def test_an_unknown_regime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="rdfs, owlrl"):
        compile_graph(written(tmp_path, FAMILY), tmp_path / "graph", GraphSettings(entailment="magic"))


RDFS, OWL = "http://www.w3.org/2000/01/rdf-schema#", "http://www.w3.org/2002/07/owl#"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
names = st.sampled_from([E + name for name in "abcpqr"])
facts = st.tuples(names, st.sampled_from([E + name for name in "pqr"]), st.one_of(names, st.just('"1"')))
axioms = st.tuples(
    names,
    st.sampled_from(
        [RDFS + n for n in ("subPropertyOf", "subClassOf", "domain", "range", "label")]
        + [OWL + n for n in ("inverseOf", "equivalentProperty", "disjointWith", "onProperty", "someValuesFrom")]
    ),
    names,
)
kinds = st.tuples(
    names,
    st.just(TYPE),
    st.one_of(names, st.sampled_from([OWL + n for n in ("TransitiveProperty", "SymmetricProperty", "ObjectProperty")])),
)


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.one_of(facts, axioms, kinds), min_size=3, max_size=14),
    st.sampled_from(["rdfs", "owlrl"]),
)
def test_what_rules_can_not_use_is_left_out_without_loss(triples: set[tuple[str, str, str]], entailment: str) -> None:
    rules = rules_of(entailment)
    some = relevant(triples, GraphSettings(entailment=entailment))
    assert some <= triples
    whole, expected = close(triples, rules)
    found, inconsistencies = close(some, rules)
    assert found - triples == whole - triples
    assert inconsistencies == expected


def test_plain_facts_stay_out_of_the_rules(tmp_path: Path) -> None:
    triples = {(E + f"s{n}", E + "p", f'"{n}"') for n in range(50)} | {(E + "p", RDFS + "label", '"p"')}
    assert relevant(triples, GraphSettings(entailment="owlrl")) == set()
    triples.add((E + "p", RDFS + "domain", E + "C"))
    assert len(relevant(triples, GraphSettings(entailment="owlrl"))) == 51
