import json
import threading
from pathlib import Path

import pytest

from groundwire.kg import CompiledRetriever, Evidence, Retriever, Term, open_graph, verbalise_evidence

E = "http://example.org/"


def test_mentions_carry_code_points_of_the_text_as_given(cities: Retriever) -> None:
    text = "😀 Je vais a\u0300 SÃO PAULO, puis 東京は and the City of Light!"
    found = {(mention.text, mention.entity) for mention in cities.link(text)}
    assert found == {("SÃO PAULO", E + "SaoPaulo"), ("東京", E + "Tokyo"), ("City of Light", E + "Paris")}
    for mention in cities.link(text):
        assert text[mention.start : mention.end] == mention.text


def test_the_context_chooses_between_entities_of_one_name(cities: Retriever) -> None:
    first = cities.link("Paris is located in the state Texas.")[0]
    assert first.entity == E + "ParisTexas"
    assert [candidate.entity for candidate in first.candidates] == [E + "ParisTexas", E + "Paris"]
    assert cities.link("Paris is the capital of France.")[0].entity == E + "Paris"


def test_common_words_are_no_names(cities: Retriever) -> None:
    assert cities.link("It is late, and it rains.") == []


def test_schema_is_not_linked(cities: Retriever) -> None:
    assert cities.link("a city in a country with a population") == []


def test_evidence_about_the_text_comes_first(cities: Retriever) -> None:
    evidence = cities.retrieve("Two million people live there: its population", [E + "Paris"], 10)
    assert evidence[0].text == "Paris population: 2102650"
    assert evidence[0].object == Term("literal", "2102650", "2102650", "http://www.w3.org/2001/XMLSchema#integer")
    relevances = [fact.relevance for fact in evidence]
    assert relevances == sorted(relevances, reverse=True)
    assert all(0 <= relevance <= 1 for relevance in relevances)


def test_a_triple_between_two_linked_entities_leads(cities: Retriever) -> None:
    grounding = cities.ground("Paris belongs to France.", 5)
    assert grounding.evidence[0].text == "Paris capital of: France"


def test_paths_of_two_triples_between_linked_entities_come_first(tmp_path: Path) -> None:
    path = tmp_path / "paths.ttl"
    path.write_text(
        "@prefix : <http://example.org/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n"
        ':ada rdfs:label "Ada Lovelace" ; a :Person ; :wrote :notes ; :aunt "Ann" ; :age 36 .\n'
        ':bab rdfs:label "Charles Babbage" ; a :Person ; :age 36 ; :bride "Georgiana" ; :correspondedOn :notes .\n'
    )
    texts = [f.text for f in open_graph(path).ground("Ada Lovelace met Charles Babbage", 10).evidence]
    assert set(texts[:2]) == {"Ada Lovelace wrote: notes", "Charles Babbage corresponded On: notes"}


def test_triples_are_found_in_both_directions_without_names_and_descriptions(cities: Retriever) -> None:
    texts = {fact.text for fact in cities.retrieve("", [E + "Paris"], 50)}
    assert texts == {
        "Paris type: city",
        "Paris capital of: France",
        "Paris population: 2102650",
        "Nameless near: Paris",
    }


def test_unknown_entities_and_small_top_k(cities: Retriever) -> None:
    assert cities.retrieve("x", [E + "nowhere"], 5) == []
    assert len(cities.retrieve("x", [E + "nowhere", E + "Paris", E + "Paris"], 2)) == 2
    assert cities.retrieve("x", [E + "Paris"], 0) == []


def test_coverage_is_the_share_of_content_words(cities: Retriever) -> None:
    assert cities.ground("Paris is the capital of France.", 5).coverage == 1.0
    assert cities.ground("Paris has a purple elephant.", 5).coverage == pytest.approx(1 / 3)
    assert cities.ground("Nothing to see here.", 5).coverage == 0.0
    assert cities.ground("The capital", 5, [E + "Paris"]).coverage == 1.0
    assert cities.ground("", 5).coverage == 0.0


def test_given_entities_are_taken_instead_of_linked_ones(cities: Retriever) -> None:
    grounding = cities.ground("Paris is the capital.", 5, [E + "Japan"])
    assert grounding.mentions == ()
    assert {fact.object.value for fact in grounding.evidence} >= {E + "Japan"}


def test_one_million_characters(cities: Retriever) -> None:
    text = "word " * 100_000 + "x" * 500_000 + " Tokyo"
    grounding = cities.ground(text, 5)
    assert [mention.entity for mention in grounding.mentions] == [E + "Tokyo"]
    assert text[grounding.mentions[0].start :] == "Tokyo"


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800 Tokyo", "\U0010ffff", "a" * 200_000, "!?" * 1000])
def test_hostile_texts(cities: Retriever, text: str) -> None:
    grounding = cities.ground(text, 5)
    assert [mention.text for mention in grounding.mentions] == (["Tokyo"] if "Tokyo" in text else [])


def test_threads_get_the_same_answers(cities: Retriever) -> None:
    texts = ["Paris is the capital of France.", "Tokyo, Japan", "São Paulo was founded in 1554.", "Paris, Texas"] * 25
    expected = [cities.ground(text, 8) for text in texts]
    answers: dict[int, list[object]] = {}

    def work(number: int) -> None:
        answers[number] = [cities.ground(text, 8) for text in texts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers[number] == expected for number in range(8))


def test_evidence_of_one_predicate_is_said_together() -> None:
    album, genre, year = (
        Term("iri", E + "a", "In Rainbows"),
        Term("iri", E + "g", "Genre"),
        Term("iri", E + "y", "Year"),
    )

    def fact(predicate: Term, value: str) -> Evidence:
        return Evidence(album, predicate, Term("literal", value, value), "", "", 0.5)

    facts = [fact(genre, "art rock"), fact(year, "2007"), fact(genre, "art  pop"), fact(genre, "art rock")]
    assert verbalise_evidence(facts) == ["In Rainbows Genre: art rock, art pop", "In Rainbows Year: 2007"]


def test_gold_evidence_of_infotabs_is_about_the_entity(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from groundwire.kg import compile_graph

    folder = compile_graph([data / "infotabs" / "graph.nq.gz"], tmp_path_factory.mktemp("infotabs") / "graph")
    retriever = CompiledRetriever(folder)
    for line in (data / "infotabs" / "dev.jsonl").read_text().splitlines()[:200]:
        claim = json.loads(line)
        evidence = retriever.retrieve(claim["text"], claim["entities"], 24)
        assert evidence
        assert {fact.subject.value for fact in evidence} == set(claim["entities"])
        assert {fact.graph for fact in evidence} == {claim["entities"][0].replace("entity", "table")}
