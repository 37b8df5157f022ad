"""What the judgement on a query's text lets through and refuses, held to what Oxigraph's parser makes of it."""

import socket
import threading
from collections.abc import Iterator

import pyoxigraph as ox
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.server.config import QueryLimits
from groundwire.server.errors import ForbiddenQueryError, InvalidRequestError, ServerError
from groundwire.server.sparql import check_query, tokens

LIMITS = QueryLimits()

HARMLESS = [
    "SELECT * WHERE { ?s ?p ?o }",
    "SELECT ?service { ?service ?from ?load }",
    'ASK { ?s ?p "SERVICE <http://x/> { FROM LOAD }" }',
    "ASK { ?s ?p 'it\\'s SERVICE' }",
    'ASK { ?s ?p """a "quoted" SERVICE""" }',
    "ASK { ?s ?p ?o } # SERVICE <http://x/> { ?a ?b ?c }",
    "# FROM\r\nASK { ?s ?p ?o }",
    "ASK { <http://x/SERVICE#from> <http://x/it's_(so)> ?o }",
    "SELECT (COUNT(DISTINCT ?s) AS ?n) { ?s ?p ?o . FILTER(?o < 5 && ?o > -1.5e3) } GROUP BY ?p HAVING (?n > 1)",
    "SELECT * { ?s ?p ?o FILTER(?o<3&&?o>1) }",
    "SELECT * { VALUES (?a ?b) { (<http://x/a#b> <http://x/c#d>) (UNDEF <urn:from>) } ?s ^<http://x/p>/<urn:q>* ?o }",
    'SELECT (GROUP_CONCAT(?o; SEPARATOR=", ") AS ?all) { ?s a ?o OPTIONAL { ?s ?p "x"@en-GB } MINUS { ?s ?q _:b } }',
    "BASE <http://x/> PREFIX : <#> CONSTRUCT { ?s :p true } WHERE { GRAPH ?g { ?s :from 1 ; :b (1 2.0 .5) } }",
    "DESCRIBE <http://example.org/x>",
    'SELECT ?caf\u00e9 { ?caf\u00e9 ?p "na\u00efve \\u00e9" BIND(IF(EXISTS { ?a ?q <http://x/#a> }, 1, 0) AS ?b) }',
    "SELECT * { ?s ?p ?o FILTER(?o IN (<http://x/a>, <http://x/#b>)) FILTER NOT EXISTS { ?o ?p ?s } }",
]
FORBIDDEN = [
    "SELECT * { SERVICE <http://x/> { ?s ?p ?o } }",
    "SELECT * { service silent <http://x/> { ?s ?p ?o } }",
    "SELECT * {SeRvIcE?x{?s ?p ?o}}",
    "SELECT * { ?s ?p 1SERVICE<http://x/>{} }",
    "SELECT * FROM <http://x/> { ?s ?p ?o }",
    "SELECT * FROM NAMED <http://x/> { GRAPH ?g { ?s ?p ?o } }",
    "# comment\nSELECT * FROM# comment\n<http://x/> { ?s ?p ?o }",
    "LOAD <http://x/>",
    "INSERT DATA { <a:a> <a:b> <a:c> }",
    "DELETE WHERE { ?s ?p ?o }",
    "WITH <http://x/> DELETE { ?s ?p ?o } WHERE { ?s ?p ?o }",
    "CLEAR ALL",
    "ASK {} ; DROP ALL",
    "SELECT * { { SELECT * { ?s ?p 'x'SERVICE <http://x/> { } } } }",
]
# The standard's longest match and a parser that reads by context see different tokens here. HOST listens.
AMBIGUOUS = [
    "SELECT * {SERVICE:x {?a ?b ?c}}",
    "SELECT * {?s :p ?a FILTER(?a<1)SERVICE:x#>\n{?x ?y ?z}}",
    "SELECT * {?s :p ?a FILTER(?a<'>')SERVICE<HOST/>{?x ?y ?z}#'\n}",
    "SELECT * {# c\rSERVICE <HOST/> {?a ?b ?c}}",
    "SELECT * {\\u0053ERVICE <HOST/> {?a ?b ?c}}",
    'SELECT * {?s :p "\\u0022. SERVICE <HOST/> {?a ?b ?c}#"\n}',
    'SELECT * {VALUES ?x { """" } SERVICE <HOST/> {?a ?b ?c} #\\q"""\n}',
    'SELECT * {VALUES ?x { """" } SERVICE <HOST/> {?a ?b ?c} #\\uD800"""\n}',
    "SELECT * {?s :p :a.SERVICE<HOST/>{?x ?y ?z}}",
    "SELECT * {?s :p bad:SERVICE<HOST/>{?x ?y ?z}}",
]


@pytest.mark.parametrize("query", HARMLESS)
def test_a_query_that_only_reads_passes_and_oxigraph_reads_it(query: str) -> None:
    check_query(query, LIMITS)
    ox.Store().query(query)


@pytest.mark.parametrize("query", FORBIDDEN)
def test_what_writes_or_reaches_the_network_is_forbidden(query: str) -> None:
    with pytest.raises(ForbiddenQueryError, match="line"):
        check_query(query, LIMITS)


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[str, list[str]]]:
    """An address that listens, and a list that grows with each connection."""
    reached: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                reached.append("reached")
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", reached
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("query", AMBIGUOUS)
def test_what_two_parsers_could_read_in_two_ways_is_refused(query: str, host: tuple[str, list[str]]) -> None:
    with pytest.raises(ServerError, match="line"):
        check_query(query.replace("HOST", host[0]), LIMITS)


def test_the_danger_is_real(host: tuple[str, list[str]]) -> None:
    """Without the judgement, Oxigraph asks the other server: with keywords that a plain lexer does not see."""
    address, reached = host
    prefixes = f"PREFIX SERVICE: <{address}/> PREFIX : <{address}/> PREFIX bad: <http://h:> "
    store = ox.Store()
    store.add(ox.Quad(ox.NamedNode("a:a"), ox.NamedNode(f"{address}/p"), ox.Literal(0)))
    for query in (AMBIGUOUS[0], AMBIGUOUS[1], AMBIGUOUS[3]):
        before = len(reached)
        with pytest.raises(OSError, match=r"."):
            list(store.query(prefixes + query.replace("HOST", address)))
        assert len(reached) > before, query


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("SELECT *\n{ ?s \u00a0 }", "line 2, column 6"),
        ("SELECT * { ?s ?p 'open }", "line 1, column 18"),
        ("SELECT * { ?s ?p ?o } LATERAL { }", "LATERAL is no keyword"),
        ("SELECT * { BIND(TRIPLE(?s, ?p, ?o) AS ?t) }", "TRIPLE is no keyword"),
        (" \n", "is empty"),
        ("{" * 65, "line 1, column 65: nested more than 64"),
        ("ASK { ?s ?p '" + "x" * 20_000 + "' }", "at most 16384"),
    ],
)
def test_what_is_no_sparql_is_invalid_and_names_the_place(query: str, what: str) -> None:
    with pytest.raises(InvalidRequestError, match=what):
        check_query(query, LIMITS)


WORDS = [
    "SERVICE",
    "FILTER",
    "SELECT * ",
    "<http://x/>",
    "?a",
    "1",
    "a",
    "@en",
    "_:",
    ":",
    ".",
    "(",
    ")",
    "{",
    "}",
    " ",
]
SIGNS = ["<", ">", "'", '"', '"""', "#", "\n", "\\", "\\u0053", "^^", "&&", "=", "/"]
PIECES = st.sampled_from([*WORDS, *SIGNS])


@given(st.lists(PIECES, max_size=24).map("".join))
def test_the_tokens_of_any_text_are_its_own_and_judging_ends(text: str) -> None:
    try:
        found = list(tokens(text))
    except InvalidRequestError:
        return
    for token in found:
        assert text[token.start : token.start + len(token.text)] == token.text


@given(st.lists(PIECES, max_size=16).map(lambda pieces: "SELECT * {" + "".join(pieces) + "}"))
def test_what_passes_never_asks_for_another_server(text: str) -> None:
    try:
        check_query(text, LIMITS)
        result = ox.Store().query(text)
        list(result)  # type: ignore[arg-type]
    except (ServerError, SyntaxError, TypeError):
        return
    except OSError as error:  # what SERVICE ends in here
        raise AssertionError(text) from error
