"""What the knowledge graph gives: terms, mentions, evidence, groundings, and the interface of a retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

XSD_STRING = "http://www.w3.org/2001/XMLSchema#string"


class Term(NamedTuple):
    """One RDF term with the label that people read.

    `value` is an absolute IRI, a blank node identifier without `_:`, or the lexical form of a literal.
    `datatype` and `language` (lower case) are empty unless the term is a literal.
    `label` is the preferred label of an IRI or blank node, and the lexical form of a literal. Never empty.
    """

    kind: Literal["iri", "blank", "literal"]
    value: str
    label: str
    datatype: str = ""
    language: str = ""


class Candidate(NamedTuple):
    """An entity that a mention may mean: IRI, preferred label, confidence in [0, 1], and its other IRIs, sorted."""

    entity: str
    label: str
    score: float
    same_as: tuple[str, ...] = ()


class Mention(NamedTuple):
    """A span that names an entity. `start` and `end` are Unicode code points of the text as given.

    `candidates` are in order of falling score, ties by IRI; the first is the entity itself.
    """

    start: int
    end: int
    text: str
    candidates: tuple[Candidate, ...]

    @property
    def entity(self) -> str:
        """IRI of the best candidate."""
        return self.candidates[0].entity

    @property
    def label(self) -> str:
        """Preferred label of the best candidate."""
        return self.candidates[0].label

    @property
    def score(self) -> float:
        """Confidence in the best candidate, in [0, 1]."""
        return self.candidates[0].score


class Evidence(NamedTuple):
    """A triple that bears on a text.

    `graph` is the IRI of the named graph that states it, empty for the default graph.
    `text` is the triple in words. `relevance` is in [0, 1]. `conflicting` says that the predicate allows one value, and
    the graph holds several for this subject.
    """

    subject: Term
    predicate: Term
    object: Term
    graph: str
    text: str
    relevance: float
    conflicting: bool = False


class Grounding(NamedTuple):
    """What the graph says of one text.

    `mentions` are in order of their start and do not overlap. `evidence` is in order of falling relevance.
    `coverage` is the share of the text's content words that a mention or a triple accounts for, in [0, 1];
    0 when no entity was linked.
    """

    mentions: tuple[Mention, ...]
    evidence: tuple[Evidence, ...]
    coverage: float


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """A graph in numbers; the fields are those of `groundwire.v1.GraphInfo`."""

    version: str
    triples: int
    entities: int
    labels: int
    predicates: int
    named_graphs: int
    retriever: Literal["compiled", "rdflib"]
    format_version: int = 0
    source_hashes: Mapping[str, str] = field(default_factory=dict)


class Retriever(Protocol):
    """Links texts to entities and finds evidence for them. All methods may be called from several threads at once."""

    @property
    def info(self) -> GraphInfo:
        """The graph in numbers."""

    def link(self, text: str) -> list[Mention]:
        """Find the mentions in `text`, in order of their start, none overlapping another."""

    def retrieve(self, text: str, entities: Sequence[str], top_k: int) -> list[Evidence]:
        """Rank the triples of `entities` (IRIs; unknown ones are passed over) against `text`; at most `top_k`."""

    def ground(self, text: str, top_k: int, entities: Sequence[str] | None = None) -> Grounding:
        """Link `text` (unless `entities` are given), retrieve at most `top_k` triples, and measure the coverage."""

    def close(self) -> None:
        """Release files and connections."""
