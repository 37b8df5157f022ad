"""Fusion and conflicts, on both retrievers."""

import json
import random
import tempfile
import warnings
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import rdflib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdflib.namespace import OWL, RDF, RDFS, SKOS

from groundwire.kg import (
    CompiledRetriever,
    GraphSettings,
    GraphWarning,
    RdflibRetriever,
    Retriever,
    compile_graph,
    open_graph,
    read_report,
)
from groundwire.kg.fuse import make_fusion

E = "http://e.org/"
TOWNS = """
@prefix : <http://e.org/> . @prefix a: <http://a.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
:mayor a owl:FunctionalProperty .
:one { :Wien rdfs:label "Wien"@de ; :river "Danube" ; :mayor "Ann" .
    :Austria rdfs:label "Austria"@en ; :capital :Wien . }
:two { a:Q1741 rdfs:label "Vienna"@en ; a:population 2005760 ; :mayor "Ann" , "Bob" . }
:three { :V :twin a:Bratislava . a:Bratislava rdfs:label "Bratislava"@en ; :mayor "Cyd" . }
:links { :V owl:sameAs :Wien . :Wien skos:exactMatch a:Q1741 . :Wien owl:sameAs "Wien" . }
"""
ALL = (E + "Wien", "http://a.org/Q1741", E + "V")


@pytest.fixture(scope="module")
def towns_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towns") / "towns.trig"
    path.write_text(TOWNS, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["compiled", "rdflib", "live"])
def towns(request: pytest.FixtureRequest, towns_file: Path) -> Retriever:
    if request.param == "compiled":
        return CompiledRetriever(compile_graph(towns_file, towns_file.parent / "graph"))
    if request.param == "rdflib":
        return open_graph(towns_file)
    dataset = rdflib.Dataset()
    dataset.parse(towns_file)
    return RdflibRetriever(dataset)


def test_a_cluster_is_one_entity_under_all_its_names(towns: Retriever) -> None:
    canonical = "http://a.org/Q1741"  # its label is in the preferred language
    for text in ("Vienna lies on a river", "Wien lies on a river"):
        (mention,) = towns.link(text)
        assert mention.entity == canonical
        assert mention.label == "Vienna"
        assert mention.candidates[0].same_as == (E + "V", E + "Wien")


def test_every_iri_gives_the_facts_of_all(towns: Retriever) -> None:
    expected = {
        ("Vienna river: Danube", E + "one"),
        ("Austria capital: Vienna", E + "one"),
        ("Vienna population: 2005760", E + "two"),
        ("Vienna mayor: Ann", E + "one"),
        ("Vienna mayor: Ann", E + "two"),
        ("Vienna mayor: Bob", E + "two"),
        ("Vienna twin: Bratislava", E + "three"),
    }
    for iri in ALL:
        evidence = towns.ground("", 20, [iri]).evidence
        assert {(fact.text, fact.graph) for fact in evidence} == expected
        assert len(evidence) == len(expected)
    assert towns.retrieve("", list(ALL), 20) == towns.retrieve("", [ALL[0]], 20)


def test_values_in_conflict_are_kept_and_marked(towns: Retriever) -> None:
    marked = {fact.text for fact in towns.retrieve("", [*ALL, "http://a.org/Bratislava"], 50) if fact.conflicting}
    assert marked == {"Vienna mayor: Ann", "Vienna mayor: Bob"}


def test_the_report_names_values_and_graphs(towns_file: Path, tmp_path: Path) -> None:
    report = read_report(compile_graph(towns_file, tmp_path / "graph"))
    assert (report["fused_entities"], report["fused_terms"], report["conflict_count"]) == (1, 3, 1)
    string = "http://www.w3.org/2001/XMLSchema#string"
    assert report["conflicts"] == [
        {
            "subject": "http://a.org/Q1741",
            "same_as": [E + "V", E + "Wien"],
            "predicate": E + "mayor",
            "values": [
                {"kind": "literal", "value": "Ann", "datatype": string, "graphs": [E + "one", E + "two"]},
                {"kind": "literal", "value": "Bob", "datatype": string, "graphs": [E + "two"]},
            ],
        }
    ]


def test_without_fusion_every_iri_stands_alone(towns_file: Path, tmp_path: Path) -> None:
    apart = GraphSettings(fusion_predicates=(), functional_predicates=(E + "river",))
    compiled = CompiledRetriever(compile_graph(towns_file, tmp_path / "graph", apart))
    for one in (compiled, open_graph(towns_file, apart)):
        assert one.link("Vienna")[0].candidates[0].same_as == ()
        assert [fact.text for fact in one.retrieve("", [E + "V"], 9)] == ["V twin: Bratislava"]


def test_a_graph_without_links_compiles_to_the_same_bytes_with_and_without_fusion(
    cities_file: Path, cities_folder: Path, tmp_path: Path
) -> None:
    out = compile_graph(cities_file, tmp_path / "graph", GraphSettings(fusion_predicates=()))
    for path in cities_folder.iterdir():
        if path.name != "meta.json":
            assert path.read_bytes() == (out / path.name).read_bytes()


def test_a_hub_is_left_apart_with_a_warning(tmp_path: Path) -> None:
    links = "".join(f"<{E}t{n}> <{OWL.sameAs}> <{E}hub> . <{E}t{n}> <{E}p> <{E}o> .\n" for n in range(70))
    path = tmp_path / "hub.ttl"
    path.write_text(links + f"<{E}a> <{OWL.sameAs}> <{E}b> . <{E}a> <{E}p> <{E}o> .\n")
    with pytest.warns(GraphWarning, match="71 terms around http://e.org/hub"):
        out = compile_graph(path, tmp_path / "graph")
    assert read_report(out)["not_fused"] == [{"term": E + "hub", "size": 71}]
    assert read_report(out)["fused_terms"] == 2
    with pytest.warns(GraphWarning, match="fusion_limit"):
        live = open_graph(path)
    for one in (CompiledRetriever(out), live):
        assert [fact.subject.value for fact in one.retrieve("", [E + "t1"], 9)] == [E + "t1"]
        assert [fact.subject.value for fact in one.retrieve("", [E + "b"], 9)] == [E + "a"]


def test_vocabularies_and_literals_are_never_fused() -> None:
    kept = GraphSettings()
    pairs = [
        (E + "a", str(OWL.Thing)),
        (E + "label", str(RDFS.label)),
        (E + "a", '"a"'),
        (E + "kind", str(RDF.type)),
        (E + "name", "http://schema.org/name"),
    ]
    assert make_fusion(pairs, lambda key: None, kept).members == {}
    fused = make_fusion([("_:b", E + "z"), (E + "z", E + "y")], lambda key: None, kept)
    assert fused.members == {E + "y": ("_:b", E + "z")}
    assert fused.iris(E + "y") == (E + "z",)


@given(st.lists(st.tuples(*[st.sampled_from([E + c for c in "abcdefghij"])] * 2), max_size=30), st.randoms())
def test_clusters_do_not_depend_on_order(pairs: list[tuple[str, str]], rng: random.Random) -> None:
    labelled = {E + "c": (0, 0, "C"), E + "h": (1, 0, "H"), E + "b": (0, 0, "B")}
    fusion = make_fusion(pairs, labelled.get, GraphSettings())
    turned = [pair[:: rng.choice((1, -1))] for pair in rng.sample(pairs, len(pairs))]
    assert make_fusion(turned, labelled.get, GraphSettings()) == fusion  # type: ignore[arg-type]
    # Against the definition: reachability.
    reached = {name: {name} for pair in pairs for name in pair}
    for _ in pairs:
        for one, other in pairs:
            union = reached[one] | reached[other]
            for name in union:
                reached[name] = union
    for name, group in reached.items():
        ranked = sorted(group, key=lambda key: (labelled.get(key, (9, 9, ""))[:2], key))
        assert fusion.of(name) == ranked[0]


nodes = st.sampled_from([E + name for name in "abcdef"]).map(rdflib.URIRef)
predicates = st.sampled_from(
    [
        OWL.sameAs,
        OWL.sameAs,
        SKOS.exactMatch,
        RDFS.label,
        SKOS.altLabel,
        RDF.type,
        *map(rdflib.URIRef, (E + "p", E + "q")),
    ]
)
literals = st.sampled_from(["Red", "Blue house", "1999", "Übermut"]).map(rdflib.Literal)
quads = st.tuples(
    st.one_of(nodes, st.just(rdflib.BNode("n"))),
    predicates,
    st.one_of(nodes, literals, st.just(rdflib.BNode("n")), st.just(OWL.FunctionalProperty)),
    st.sampled_from([None, rdflib.URIRef(E + "g"), rdflib.URIRef(E + "a")]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(quads, max_size=30), st.integers(2, 6))
def test_both_retrievers_fuse_alike(some: list[tuple[object, ...]], limit: int) -> None:
    dataset = rdflib.Dataset()
    for quad in some:
        dataset.add(quad)  # type: ignore[arg-type]
    wanted = GraphSettings(fusion_limit=limit, functional_predicates=(E + "q",))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)
        compiled = CompiledRetriever(compile_graph(dataset, Path(folder) / "graph", wanted))
        live = RdflibRetriever(dataset, wanted)
        assert replace(compiled.info, retriever="rdflib", format_version=0) == live.info
        for text in ("Red and the Blue house", "Übermut of 1999"):
            assert compiled.ground(text, 20) == live.ground(text, 20)
        for name in "abcdef":
            assert compiled.ground("Red", 20, [E + name]) == live.ground("Red", 20, [E + name])


def test_infotabs_titles_with_two_infoboxes(data: Path, tmp_path: Path) -> None:
    source = data / "infotabs" / "graph.nq.gz"
    plain = open_graph(source)
    claims = [json.loads(line) for line in (data / "infotabs" / "dev.jsonl").read_text().splitlines()]
    iris = sorted({iri for claim in claims for iri in claim["entities"]})
    labels = sorted((plain.index.label(plain.index.find(iri) or 0), iri) for iri in iris)  # type: ignore[attr-defined]
    twins = [[iri for _, iri in group] for _, group in groupby(labels, key=lambda pair: pair[0])]
    twins = [group for group in twins if len(group) == 2]
    assert twins
    links = tmp_path / "links.nt"
    links.write_text("".join(f"<{one}> <{OWL.sameAs}> <{other}> .\n" for one, other in twins))
    born = "http://infotabs.example/property/Born"
    wanted = GraphSettings(functional_predicates=(born,))
    out = compile_graph([source, links], tmp_path / "graph", wanted)
    compiled, live = CompiledRetriever(out), open_graph([source, links], wanted)
    report = read_report(out)
    assert report["fused_entities"] == len(twins)
    assert report["conflict_count"] >= 1
    for conflict in report["conflicts"]:
        assert len({value["value"] for value in conflict["values"]}) > 1
        found = compiled.retrieve("Born", [conflict["subject"]], 200)
        assert {fact.object.value for fact in found if fact.conflicting} >= {v["value"] for v in conflict["values"]}
    for one, other in twins[:20]:
        assert compiled.ground("Born in 1970", 24, [one]) == live.ground("Born in 1970", 24, [other])
