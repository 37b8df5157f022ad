"""Tables of the manifest applied to numbers, and the messages made of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.errors import BundleError, GroundwireError
from groundwire.kg import Candidate, CompiledGraphError, Evidence, Mention, SourceError, Term, UnknownEntityError
from groundwire.kg.settings import INFERRED_GRAPH
from groundwire.server.convert import add_evidence, add_mentions, to_term
from groundwire.server.errors import InvalidRequestError, QueueFullError, ServerError
from groundwire.server.status import CODES, status_code, to_status
from groundwire.server.uncertainty import count_conflicts, share_nearer
from groundwire.v1 import knowledge_pb2


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=101, max_size=101),
    st.lists(st.floats(-300, 300), min_size=1, max_size=20),
)
def test_share_nearer_counts_the_quantiles_below(quantiles: list[float], distances: list[float]) -> None:
    quantiles = sorted(quantiles)
    for distance in [*distances, *quantiles]:
        share = share_nearer(quantiles, distance)
        below = sum(quantile < distance for quantile in quantiles)  # strictly nearer
        assert (below - 1) / 100 - 1e-9 <= share <= below / 100 + 1e-9
        assert 0 <= share <= 1


def test_share_nearer_by_hand() -> None:
    table = [float(number) for number in range(101)]
    shares = [share_nearer(table, distance) for distance in (-1, 0, 0.5, 50, 99.5, 100, 101, float("nan"))]
    assert shares == pytest.approx([0, 0, 0.005, 0.5, 0.995, 1, 1, 1])
    assert [share_nearer([0.0] * 101, distance) for distance in (-1.0, 0.0, 1.0)] == [0, 0, 1]
    assert [share_nearer([2.0], distance) for distance in (1.0, 2.0, 3.0)] == [0, 0, 1]


def triple(subject: str, predicate: str, value: str, graph: str) -> Evidence:
    return Evidence(Term("iri", subject, "s"), Term("iri", predicate, "p"), Term("literal", value, value), graph, "", 1)


def test_conflicts_are_between_named_graphs() -> None:
    a, b = "urn:g:a", "urn:g:b"
    assert count_conflicts([]) == 0
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "p", "2", a)]) == 0  # one graph, two values
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "p", "1", b)]) == 0
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "p", "2", b)]) == 1
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "p", "2", "")]) == 0  # the default graph has no name
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "q", "2", b), triple("t", "p", "2", b)]) == 0
    two = [triple("s", p, value, graph) for p in "pq" for value, graph in (("1", a), ("2", b))]
    assert count_conflicts(two) == 2


def test_conflicts_of_functional_properties_count_once_and_inferences_not() -> None:
    a = "urn:g:a"
    marked = triple("s", "p", "1", a)._replace(conflicting=True)
    assert count_conflicts([marked]) == 1
    assert count_conflicts([marked, triple("s", "p", "2", "urn:g:b")]) == 1
    assert count_conflicts([marked, marked._replace(predicate=Term("iri", "q", "q"), graph="")]) == 2
    assert count_conflicts([triple("s", "p", "1", a), triple("s", "p", "2", INFERRED_GRAPH)]) == 0


def test_what_the_wire_says_of_fused_entities_and_conflicts() -> None:
    fused, other = Candidate("urn:a", "Wien", 0.5, ("urn:b", "urn:c")), Candidate("urn:d", "Wien", 0.25)
    said = knowledge_pb2.GroundResult()
    add_mentions(said.mentions, [Mention(0, 4, "Wien", (fused, other))])
    [sent] = said.mentions
    assert [list(candidate.same_as) for candidate in sent.candidates] == [["urn:b", "urn:c"], []]
    add_evidence(said.evidence, [triple("s", "p", "1", "")._replace(conflicting=True), triple("s", "p", "1", "")])
    assert [fact.conflicting for fact in said.evidence] == [True, False]


def test_terms() -> None:
    assert to_term(Term("blank", "b0", "a node")).blank_node == "b0"
    assert to_term(Term("iri", "urn:a:b", "b")).iri == "urn:a:b"
    plain = to_term(Term("literal", "x", "x"))
    assert (plain.literal.lexical_form, plain.literal.datatype, plain.label) == (
        "x",
        "http://www.w3.org/2001/XMLSchema#string",
        "x",
    )
    tagged = to_term(Term("literal", "x", "x", language="en"))
    assert tagged.literal.datatype == "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_the_table_of_statuses() -> None:
    for kind in (BundleError, SourceError, CompiledGraphError):
        assert status_code(kind("x")).name == "FAILED_PRECONDITION"
    assert status_code(UnknownEntityError("x")).name == "NOT_FOUND"
    assert status_code(GroundwireError("x")).name == "INTERNAL"
    assert status_code(ZeroDivisionError()).name == "INTERNAL"
    own = {kind for kind in subclasses(ServerError) if kind.__module__ == "groundwire.server.errors"} - {ServerError}
    assert own <= set(CODES)  # every error that a server raises was given its code on purpose


def test_statuses_carry_their_details_and_no_secrets() -> None:
    status = to_status(QueueFullError("full", 1.5))
    assert status.details[0].type_url.endswith("google.rpc.RetryInfo")
    status = to_status(InvalidRequestError("inputs", "are none"))
    assert status.details[0].type_url.endswith("google.rpc.BadRequest")
    assert status.message == "inputs: are none"
    assert "password" not in to_status(RuntimeError("password")).message


@pytest.mark.parametrize("kind", sorted(CODES, key=lambda kind: kind.__name__))
def test_no_error_carries_a_transport_code(kind: type[Exception]) -> None:
    assert not any("grpc" in str(value) for value in vars(kind).values())
