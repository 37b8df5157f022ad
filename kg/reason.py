"""Reasoning: the triples that RDFS or OWL 2 RL entail, in a named graph of their own, which tells them apart.

The rules are owlrl's (RDF 1.1 Semantics, section 9.2; OWL 2 Profiles, section 4.3). owlrl works on a rdflib graph
in memory: 3 KiB and about a millisecond for each triple that a rule may use, and all triples are held once beside. What
grounding needs sets what is inferred:

- Axioms are left out: reflexive triples, triples about RDF, RDFS, OWL and XSD or with an object among them
  (`owl:Thing`), triples with a literal as subject.
- Literals are opaque: equal ones are the same term, and no rule looks at their value.
- Functional properties are not used to infer that two values are the same: two values are a conflict, which is kept,
  marked and reported (`groundwire.kg.conflicts`). Inverse functional properties and keys do identify their subjects.
- With fusion, each cluster is one term while rules run, instead of every triple repeated for every member. That two of
  its members are said to be different, which no rule can see then, is looked for beside.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import rdflib

from groundwire.kg.conflicts import OWL_FUNCTIONAL
from groundwire.kg.errors import GraphError, GraphWarning
from groundwire.kg.fuse import Fusion, make_fusion
from groundwire.kg.lists import Lists, Triple, check_lists
from groundwire.kg.settings import INFERRED_GRAPH, OWL, OWL_SAME_AS, RDF, RDF_TYPE, RDFS, XSD, GraphSettings
from groundwire.kg.terms import Quad, is_blank, is_literal, literal_parts

ENTAILMENTS = ("rdfs", "owlrl")
_MANY = 200_000  # triples; more deserve a warning
_AXIOMATIC = (RDF, RDFS, OWL, XSD)
_NOTES = frozenset(RDFS + name for name in ("label", "comment", "seeAlso", "isDefinedBy"))
_PROPERTY_CLASSES = frozenset(
    (RDF + "Property", OWL + "DatatypeProperty", OWL + "ObjectProperty", OWL + "AnnotationProperty", OWL_FUNCTIONAL)
)
_SAME = rdflib.URIRef(OWL_SAME_AS)
_DIFFERENT, _ALL_DIFFERENT = OWL + "differentFrom", OWL + "AllDifferent"
_MEMBERS = (OWL + "members", OWL + "distinctMembers")
_OPAQUE = "urn:groundwire:literal:"


@dataclass(frozen=True, slots=True)
class Inference:
    """What was inferred: quads in the graph `INFERRED_GRAPH`, sorted, and the inconsistencies that rules found."""

    quads: tuple[Quad, ...] = ()
    inconsistencies: tuple[str, ...] = ()


def infer(quads: Iterable[Quad], settings: GraphSettings, report: Callable[[str, int], None]) -> Inference:
    """The triples that the quads entail under `settings.entailment`, and that they don't state in any graph.

    Triples about fused entities are told of the term that stands for them. Raises `GraphError` for an entailment regime
    that is not known, without owlrl, or for axioms that can't be used; warns with `GraphWarning` when rules run over
    more than 200,000 triples.
    """
    rules = rules_of(settings.entailment)
    stated = {(s, p, o) for s, p, o, _ in quads}
    pairs = {(s, o) for s, p, o in stated if p in settings.fusion_predicates}
    warned = False
    while True:
        report("reason", len(stated))
        with warnings.catch_warnings():
            # The fusion that comes after warns of the same clusters.
            warnings.simplefilter("ignore", GraphWarning)
            fusion = make_fusion(pairs, lambda key: None, settings)
        fused = {(fusion.of(s), fusion.of(p), fusion.of(o)) for s, p, o in stated}
        taken = relevant(fused, settings)
        if not warned and len(taken) > _MANY:
            warned = True
            warnings.warn(
                f"rules run over {len(taken):,} triples, which takes about {len(taken) * 3 >> 10:,} MiB of memory and "
                f"{len(taken) // 60_000:,} minutes or more; leave out what needs no reasoning",
                GraphWarning,
                stacklevel=2,
            )
        if settings.entailment == "owlrl":
            check_lists(taken, OWL)
        entailed, inconsistencies = close(taken, rules)
        same = {(s, o) for s, p, o in entailed if p in settings.fusion_predicates and not is_literal(o)}
        if same <= pairs:
            break
        pairs |= same
    found = entailed - fused
    found |= {(s, OWL_SAME_AS, o) for s, o in pairs} - stated if settings.fusion_predicates else set()
    if settings.entailment == "owlrl" and settings.fusion_predicates:
        inconsistencies = tuple(sorted({*inconsistencies, *_fused_though_different(stated, fusion)}))
    return Inference(tuple((*triple, INFERRED_GRAPH) for triple in sorted(found)), inconsistencies)


def _fused_though_different(triples: set[Triple], fusion: Fusion) -> Iterator[str]:
    """What is wrong with fused terms that are said to be different (rules eq-diff1 to 3 of OWL 2 RL)."""
    for s, p, o in triples:
        if p == _DIFFERENT and fusion.of(s) == fusion.of(o):
            yield _told_different(s, o)
    lists = Lists(triples)
    groups = {s for s, p, o in triples if p == RDF_TYPE and o == _ALL_DIFFERENT}
    for s, p, o in triples:
        if p in _MEMBERS and s in groups:
            first: dict[str, str] = {}
            for member in sorted(set(lists.members((s, p, o)))):
                other = first.setdefault(fusion.of(member), member)
                if other != member:
                    yield _told_different(other, member)


def _told_different(one: str, other: str) -> str:
    one, other = sorted((one, other))
    return f"{one} and {other} are the same entity, and said to be different"


def rules_of(entailment: str) -> Any:
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
            same = predicate == _SAME
            if not isinstance(subject, rdflib.Literal) and not (
                same and (subject == obj or _is_value(subject) or _is_value(obj))
            ):
                super().store_triple(triple)

    return Rules


def _is_value(node: Any) -> bool:
    return isinstance(node, rdflib.Literal) or str(node).startswith(_OPAQUE)


def relevant(triples: set[Triple], settings: GraphSettings) -> set[Triple]:
    """The triples that a rule may use: a fraction, where most predicates have no axiom.

    Rules of RDFS and OWL 2 RL join triples of RDF's, RDFS's and OWL's own predicates with triples of predicates that
    the former mention; only the replacement of equals by equals (eq-rep) takes any triple, and with fusion that is done
    before.
    """
    quiet = {*settings.label_predicates, *settings.alternative_predicates, *settings.description_predicates, *_NOTES}
    mentioned = {
        key
        for s, p, o in triples
        if p not in quiet and not (p == RDF_TYPE and o in _PROPERTY_CLASSES)
        for key in (s, o)
        if not is_literal(key)
    }
    whole = settings.entailment != "rdfs" and not settings.fusion_predicates
    return {
        (s, p, o)
        for s, p, o in triples
        if (whole or p in mentioned or (p.startswith(_AXIOMATIC) and p not in _NOTES))
        and not (p == RDF_TYPE and o == OWL_FUNCTIONAL)
        and p not in settings.fusion_predicates
    }


def close(triples: set[Triple], rules: Any) -> tuple[set[Triple], tuple[str, ...]]:
    """The closure of the triples under owlrl's class, axioms left out, and the inconsistencies that it found.

    Raises `GraphError` for axioms that owlrl can't use.
    """
    graph, names = rdflib.Graph(), _Names()
    for triple in sorted(triples):
        graph.add(names.triple(triple))
    closure = rules(graph, False, False, False)
    try:
        closure.closure()
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise GraphError(f"the graph's axioms can't be used: {error}; correct them, or leave reasoning out") from error
    blanks = {key for s, _, o in triples for key in (s, o) if is_blank(key)}
    found = set(_news((names.keys(triple) for triple in graph), blanks))
    return found, tuple(sorted(map(names.readable, closure.error_messages)))


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
