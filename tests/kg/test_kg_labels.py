"""Which label people read: the language first, then the predicate; alike on both retrievers."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from groundwire.cli.kg import kg
from groundwire.kg import CompiledRetriever, GraphSettings, compile_graph, open_graph

E = "http://e.org/"
TEXT = """
@prefix : <http://e.org/> . @prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix schema: <https://schema.org/> .
:wien skos:prefLabel "Wien"@de ; rdfs:label "Vienna"@en , "Vienne"@fr ; schema:name "VIE" ; :river :danube ;
    skos:definition "Hauptstadt"@de ; rdfs:comment "capital"@en .
:danube skos:prefLabel "Donau"@de-AT ; rdfs:label "Danube"@en-GB , "Dunaj"@sk ; :mouth :sulina .
:sulina rdfs:label "Sulina" , "Сулина"@bg ; :on :danube .
"""


@pytest.mark.parametrize(
    ("languages", "labels"),
    [
        (("en", ""), ["Vienna", "Danube", "Sulina"]),
        (("de", ""), ["Wien", "Donau", "Sulina"]),
        (("fr", "en"), ["Vienne", "Danube", "Sulina"]),
        (("", "sk"), ["VIE", "Dunaj", "Sulina"]),
        (("de-CH", "sk"), ["Wien", "Donau", "Sulina"]),
        (("sk-SK", "fr-CA"), ["Vienne", "Dunaj", "Sulina"]),
        (("BG", "en-GB", "de"), ["Vienna", "Danube", "Сулина"]),
    ],
)
def test_the_language_comes_first(tmp_path: Path, languages: tuple[str, ...], labels: list[str]) -> None:
    path = tmp_path / "graph.ttl"
    path.write_text(TEXT, encoding="utf-8")
    settings = GraphSettings(languages=languages)
    compiled, live = CompiledRetriever(compile_graph(path, tmp_path / "graph", settings)), open_graph(path, settings)
    for one in (compiled, live):
        for name, label in zip(("wien", "danube", "sulina"), labels, strict=True):
            subjects = {
                fact.subject.label for fact in one.retrieve("", [E + name], 9) if fact.subject.value == E + name
            }
            assert subjects == {label}
        # Every label is found, whatever its language.
        assert {one.link(text)[0].entity for text in ("Wien", "Vienna", "Vienne")} == {E + "wien"}
        assert one.link("Vienna")[0].label == labels[0]


def test_the_command_takes_languages(tmp_path: Path) -> None:
    path = tmp_path / "graph.ttl"
    path.write_text(TEXT, encoding="utf-8")
    arguments = ["compile", str(path), "--out", str(tmp_path / "out"), "--language", "fr", "--language", "de"]
    assert CliRunner().invoke(kg, arguments, catch_exceptions=False).exit_code == 0
    retriever = CompiledRetriever(tmp_path / "out")
    assert retriever.index.settings.languages == ("fr", "de", "")
    assert [retriever.link(text)[0].label for text in ("Vienna", "Danube")] == ["Vienne", "Donau"]


WIKIDATA = """
@prefix wd: <http://www.wikidata.org/entity/> . @prefix wdt: <http://www.wikidata.org/prop/direct/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix wikibase: <http://wikiba.se/ontology#> .
wd:Q408 rdfs:label "Australia"@en ; wdt:P36 wd:Q3114 ; wdt:P9 wd:Q3114 .
wd:Q3114 rdfs:label "Canberra"@en , "Канбера"@sr .
wd:P36 a wikibase:Property ; rdfs:label "capital"@en , "Hauptstadt"@de ; wikibase:directClaim wdt:P36 .
"""


def test_direct_properties_of_wikidata_go_by_the_label_of_their_property(tmp_path: Path) -> None:
    path = tmp_path / "wikidata.ttl"
    path.write_text(WIKIDATA, encoding="utf-8")
    compiled, live = CompiledRetriever(compile_graph(path, tmp_path / "graph")), open_graph(path)
    text = "Canberra is the capital of Australia."
    assert compiled.ground(text, 9) == live.ground(text, 9)
    found = live.ground(text, 9)
    assert [fact.text for fact in found.evidence] == ["Australia capital: Canberra", "Australia P9: Canberra"]
    assert found.evidence[0].relevance > found.evidence[1].relevance
    assert [mention.label for mention in found.mentions] == ["Canberra", "Australia"], "the property is no entity"
