"""Conflicts: a functional predicate with several values for one subject.

A predicate is functional when the graph declares it an `owl:FunctionalProperty` (OWL 2, section 9.2.7) or the settings'
`functional_predicates` name it. All values are kept as evidence and marked (`Evidence.conflicting`). Values are
compared as RDF terms after fusion: "042" and "42", or one name in two languages, are two values.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from groundwire.kg.fuse import Fusion
from groundwire.kg.settings import OWL, RDF_TYPE, GraphSettings
from groundwire.kg.terms import Quad, make_term

OWL_FUNCTIONAL = OWL + "FunctionalProperty"
MOST_EXAMPLES = 1000  # conflicts told one by one in a compiled graph


@dataclass(frozen=True, slots=True)
class Conflict:
    """A subject and a functional predicate (string forms) with its values: (string form, named graphs that state it).

    An empty graph is the default graph. Values are sorted, and so are the graphs of each.
    """

    subject: str
    predicate: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    def to_json(self, same_as: Iterable[str] = ()) -> dict[str, Any]:
        """The conflict as plain JSON values, with the subject's other IRIs."""
        return {
            "subject": self.subject,
            "same_as": list(same_as),
            "predicate": self.predicate,
            "values": [{**_value(key), "graphs": list(graphs)} for key, graphs in self.values],
        }


def _value(key: str) -> dict[str, str]:
    term = make_term(key, "")
    if term.kind != "literal":
        return {"kind": term.kind, "value": term.value}
    extra = {"language": term.language} if term.language else {"datatype": term.datatype}
    return {"kind": term.kind, "value": term.value, **extra}


def functional_predicates(quads: Iterable[Quad], settings: GraphSettings, fusion: Fusion) -> frozenset[str]:
    """The functional predicates: those of the settings, and those that a (fused) quad declares."""
    declared = {s for s, p, o, _ in quads if p == RDF_TYPE and o == OWL_FUNCTIONAL}
    return frozenset(declared.union(map(fusion.of, settings.functional_predicates)))


def find_conflicts(quads: Iterable[Quad], functional: frozenset[str]) -> list[Conflict]:
    """The conflicts among (fused) quads, by subject and predicate."""
    stated: defaultdict[tuple[str, str], defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for s, p, o, g in quads:
        if p in functional:
            stated[s, p][o].add(g)
    return [
        Conflict(subject, predicate, tuple((value, tuple(sorted(values[value]))) for value in sorted(values)))
        for (subject, predicate), values in sorted(stated.items())
        if len(values) > 1
    ]
