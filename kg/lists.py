"""RDF collections (RDF 1.1 Semantics, appendix D.3): the members of lists that axioms and shapes hold.

A list is a chain of `rdf:rest` that `rdf:nil` ends. One that comes back to itself has no end: what walks it hangs or
breaks off, so it is refused with its name.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from groundwire.kg.errors import GraphError
from groundwire.kg.settings import RDF

Triple = tuple[str, str, str]

_FIRST, _REST, _NIL = RDF + "first", RDF + "rest", RDF + "nil"


class Lists:
    """The lists among triples of string forms (`groundwire.kg.terms`)."""

    def __init__(self, triples: Iterable[Triple]) -> None:
        self._first: defaultdict[str, list[str]] = defaultdict(list)
        self._rest: defaultdict[str, list[str]] = defaultdict(list)
        for s, p, o in triples:
            if p == _FIRST:
                self._first[s].append(o)
            elif p == _REST:
                self._rest[s].append(o)

    def members(self, held: Triple) -> list[str]:
        """The members of the list that the object of a triple begins, in order.

        Raises `GraphError` that names the list when it comes back to itself.
        """
        subject, predicate, head = held
        found: list[str] = []
        seen: set[str] = set()
        ahead = [head]
        while ahead:
            node = ahead.pop()
            if node in seen:
                raise GraphError(
                    f"the list {head} of {subject} {predicate} comes back to {node} and has no end; end it in rdf:nil"
                )
            seen.add(node)
            found += sorted(self._first.get(node, ()))
            ahead += [rest for rest in self._rest.get(node, ()) if rest != _NIL]
        return found


def check_lists(triples: Collection[Triple], vocabulary: str) -> None:
    """Raise `GraphError` when a list that a predicate of the vocabulary holds comes back to itself."""
    lists = Lists(triples)
    for triple in sorted(triple for triple in triples if triple[1].startswith(vocabulary)):
        lists.members(triple)
