"""Reasoning: the triples that RDFS or OWL 2 RL entail, in a named graph of their own, which tells them apart.

The rules are owlrl's (RDF 1.1 Semantics, section 9.2; OWL 2 Profiles, section 4.3). owlrl works on a whole rdflib graph
in memory: count on about 2 KiB and, for OWL-RL, some milliseconds a triple. What grounding needs sets what is inferred:

- Axioms are left out: reflexive triples, triples about RDF, RDFS, OWL and XSD or with an object among them
  (`owl:Thing`), triples with a literal as subject.
- Literals are opaque: equal ones are the same term, and no rule looks at their value.
- Functional properties are not used to infer that two values are the same: two values are a conflict, which is kept,
  marked and reported (`groundwire.kg.conflicts`). Inverse functional properties and keys do identify their subjects.
- With fusion, each cluster is one term while rules run, instead of every triple repeated for every member.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import rdflib
from rdflib.namespace import OWL as OWL_NS

from groundwire.kg.conflicts import OWL_FUNCTIONAL
from groundwire.kg.errors import GraphError, GraphWarning
from groundwire.kg.fuse import make_fusion
from groundwire.kg.settings import OWL, OWL_SAME_AS, RDF, RDF_TYPE, RDFS, XSD, GraphSettings
from groundwire.kg.terms import Quad, is_blank, is_literal, literal_parts

INFERRED_GRAPH = "urn:groundwire:inferred"
ENTAILMENTS = ("rdfs", "owlrl")
_MANY = 200_000  # triples; more deserve a warning
_AXIOMATIC = (RDF, RDFS, OWL, XSD)
_OPAQUE = "urn:groundwire:literal:"

Triple = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Inference:
    """What was inferred: quads in the graph `INFERRED_GRAPH`, sorted, and the inconsistencies that rules found."""

    quads: tuple[Quad, ...] = ()
    inconsistencies: tuple[str, ...] = ()


def infer(quads: Iterable[Quad], settings: GraphSettings, report: Callable[[str, int], None]) -> Inference:
    """The triples that the quads entail under `settings.entailment`, and that they don't state in any graph.

    Triples about fused entities are told of the term that stands for them. Raises `GraphError` for an entailment regime
    that is not known or without owlrl; warns with `GraphWarning` of graphs of more than 200,000 triples.
    """
    rules = _rules(settings.entailment)
    stated = {(s, p, o) for s, p, o, _ in quads}
    if len(stated) > _MANY:
        warnings.warn(
            f"reasoning over {len(stated):,} triples takes about {len(stated) * 2 >> 20:,} GiB of memory and long; "
            "reason over the part that needs it, or before, with a reasoner that works on disk",
            GraphWarning,
            stacklevel=2,
        )
    pairs = {(s, o) for s, p, o in stated if p in settings.fusion_predicates}
    while True:
        report("reason", len(stated))
        with warnings.catch_warnings():
            # The fusion that comes after warns of the same clusters.
            warnings.simplefilter("ignore", GraphWarning)
            fusion = make_fusion(pairs, lambda key: None, settings)
        fused = {(fusion.of(s), fusion.of(p), fusion.of(o)) for s, p, o in stated}
        entailed, inconsistencies = _close(fused, rules, settings)
        same = {(s, o) for s, p, o in entailed if p in settings.fusion_predicates and not is_literal(o)}
        if same <= pairs:
            break
        pairs |= same
    found = entailed - fused
    found |= {(s, OWL_SAME_AS, o) for s, o in pairs} - stated if settings.fusion_predicates else set()
    return Inference(tuple((*triple, INFERRED_GRAPH) for triple in sorted(found)), inconsistencies)


def _rules(entailment: str) -> Any:
    """owlrl's class for a regime, without what is no news; a class of ours, since owlrl has no other hook."""
    if entailment not in ENTAILMENTS:
        raise GraphError(f"the entailment {entailment!r} is not known; take one of {', '.join(ENTAILMENTS)}")
    try:
        from owlrl import OWLRL_Semantics, RDFS_Semantics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "owlrl":
            raise
        raise GraphError("reasoning needs owlrl: pip install 'groundwire[reason]'") from error
    base: Any = OWLRL_Semantics if entailment == "owlrl" else RDFS_Semantics

    class Rules(base):  # type: ignore[misc]
        def store_triple(self, triple: tuple[Any, Any, Any]) -> None:
            subject, predicate, obj = triple
            same = predicate == OWL_NS.sameAs
            if not isinstance(subject, rdflib.Literal) and not (
                same and (subject == obj or _is_value(subject) or _is_value(obj))
            ):
                super().store_triple(triple)

    return Rules


def _is_value(node: Any) -> bool:
    return isinstance(node, rdflib.Literal) or str(node).startswith(_OPAQUE)


def _close(triples: set[Triple], rules: Any, settings: GraphSettings) -> tuple[set[Triple], tuple[str, ...]]:
    """The closure of the triples, axioms left out, and the inconsistencies."""
    graph, names = rdflib.Graph(), _Names()
    for triple in _input(triples, settings):
        graph.add(names.triple(triple))
    closure = rules(graph, False, False, False)
    closure.closure()
    blanks = {key for s, _, o in triples for key in (s, o) if is_blank(key)}
    found = set(_news((names.keys(triple) for triple in graph), blanks))
    return found, tuple(sorted(map(names.readable, closure.error_messages)))


def _input(triples: set[Triple], settings: GraphSettings) -> Iterator[Triple]:
    for triple in sorted(triples):
        _, predicate, obj = triple
        functional = predicate == RDF_TYPE and obj == OWL_FUNCTIONAL
        if not functional and predicate not in settings.fusion_predicates:
            yield triple


def _news(triples: Iterable[Triple | None], blanks: set[str]) -> Iterator[Triple]:
    """Those that say something: no axioms, no reflexive triples, no blank nodes of owlrl's own."""
    for triple in triples:
        if triple is not None:
            subject, _, obj = triple
            if not (
                is_literal(subject)
                or subject == obj
                or subject.startswith(_AXIOMATIC)
                or obj.startswith(_AXIOMATIC)
                or any(is_blank(key) and key not in blanks for key in (subject, obj))
            ):
                yield triple


class _Names:
    """rdflib terms for string forms and back; literals become IRIs, but for those that OWL's own terms take."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._literals: list[str] = []

    def triple(self, triple: Triple) -> Any:
        subject, predicate, obj = triple
        if is_literal(obj) and predicate.startswith(OWL) and predicate != OWL + "hasValue":
            value, datatype, language = literal_parts(obj)
            literal = rdflib.Literal(
                value, lang=language or None, datatype=rdflib.URIRef(datatype) if datatype else None
            )
            return self._node(subject), rdflib.URIRef(predicate), literal
        return self._node(subject), rdflib.URIRef(predicate), self._node(obj)

    def _node(self, key: str) -> Any:
        if is_blank(key):
            return rdflib.BNode(key[2:])
        if not is_literal(key):
            return rdflib.URIRef(key)
        if key not in self._values:
            self._values[key] = f"{_OPAQUE}{len(self._literals)}"
            self._literals.append(key)
        return rdflib.URIRef(self._values[key])

    def keys(self, triple: Sequence[Any]) -> Triple | None:
        """The string forms; None for a literal that only OWL's own terms take, or a predicate that is no IRI."""
        if isinstance(triple[1], rdflib.URIRef) and not any(isinstance(node, rdflib.Literal) for node in triple):
            return cast(Triple, tuple(self._key(node) for node in triple))
        return None

    def _key(self, node: Any) -> str:
        text = str(node)
        if isinstance(node, rdflib.BNode):
            return f"_:{text}"
        return self._literals[int(text[len(_OPAQUE) :])] if text.startswith(_OPAQUE) else text

    def readable(self, message: str) -> str:
        """A message of owlrl's with the literals in place of their IRIs."""
        for place in range(len(self._literals) - 1, -1, -1):
            name = f"{_OPAQUE}{place}"
            if name in message:
                message = message.replace(name, self._literals[place])
        return message
