"""The graph's terms, mentions and evidence as messages of groundwire.v1."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from groundwire.kg.types import XSD_STRING, Evidence, GraphInfo, Mention, Term
from groundwire.v1 import knowledge_pb2

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

# Fields of the message that is made: to make one elsewhere and copy it costs twice.
Mentions: TypeAlias = "RepeatedCompositeFieldContainer[knowledge_pb2.Mention]"
Triples: TypeAlias = "RepeatedCompositeFieldContainer[knowledge_pb2.Evidence]"
_LONGEST_KEPT = 1 << 8  # code points of a literal whose message is kept
RDF_LANG_STRING = "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"


def to_term(term: Term) -> knowledge_pb2.Term:
    """One RDF term."""
    match term.kind:
        case "iri":
            return knowledge_pb2.Term(iri=term.value, label=term.label)
        case "blank":
            return knowledge_pb2.Term(blank_node=term.value, label=term.label)
        case "literal":
            literal = knowledge_pb2.Literal(
                lexical_form=term.value,
                datatype=term.datatype or (RDF_LANG_STRING if term.language else XSD_STRING),
                language=term.language,
            )
            return knowledge_pb2.Term(literal=literal, label=term.label)


def add_mentions(messages: Mentions, mentions: Iterable[Mention]) -> None:
    """Add mentions with all their candidates, in the order given."""
    for mention in mentions:
        message = messages.add(
            start=mention.start,
            end=mention.end,
            text=mention.text,
            entity=mention.entity,
            label=mention.label,
            score=mention.score,
        )
        for candidate in mention.candidates:
            message.candidates.add(
                entity=candidate.entity, label=candidate.label, score=candidate.score, same_as=candidate.same_as
            )


def add_evidence(messages: Triples, evidence: Iterable[Evidence]) -> None:
    """Add triples in the order given, without contributions."""
    for subject, predicate, obj, graph, text, relevance, conflicting in evidence:
        make = _kept_statement if len(obj.value) <= _LONGEST_KEPT else _statement
        message = messages.add()
        message.CopyFrom(make(subject, predicate, obj, graph, text, conflicting))
        message.relevance = relevance


def _statement(
    subject: Term, predicate: Term, obj: Term, graph: str, text: str, conflicting: bool
) -> knowledge_pb2.Evidence:
    return knowledge_pb2.Evidence(
        subject=to_term(subject),
        predicate=to_term(predicate),
        object=to_term(obj),
        graph=graph,
        text=text,
        conflicting=conflicting,
    )


# Texts about the same entities rest on the same triples, and copying a message costs a third of making one.
_kept_statement = lru_cache(maxsize=1 << 14)(_statement)


def to_graph_info(info: GraphInfo) -> knowledge_pb2.GraphInfo:
    """The graph in numbers."""
    return knowledge_pb2.GraphInfo(
        version=info.version,
        source_hashes=dict(info.source_hashes),
        triples=info.triples,
        entities=info.entities,
        labels=info.labels,
        predicates=info.predicates,
        named_graphs=info.named_graphs,
        retriever=info.retriever,
        format_version=info.format_version,
    )
