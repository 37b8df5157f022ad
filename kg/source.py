"""Where the rdflib retriever reads its triples: an rdflib graph in any store, or something that answers like one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import rdflib

from groundwire.kg.endpoint import without_secrets
from groundwire.kg.labels import LabelRules
from groundwire.kg.read import graph_key, node_key, read_quads
from groundwire.kg.sum_hash import SumHash
from groundwire.kg.terms import Quad, is_blank
from groundwire.kg.time_limit import within_limit

# Stores that answer from this process' memory: they can't hang, and a thread for each pattern would cost more than it.
_IN_MEMORY = ("rdflib.plugins.stores.memory", "oxrdflib.")


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live graph is asked.

    `request_seconds` bound what one request asks of the store, all its patterns together; `scan_seconds` one scan of
    the labels. `cache_entries` answers to patterns are kept for `cache_seconds` each; None keeps 4,096 for a remote
    store and none for one in memory. With `refresh_seconds` above 0 the labels are scanned again at this interval.
    Of an endpoint with more than `whole_triples` triples only names and descriptions are read, not all triples.
    `page_rows` are asked of an endpoint at a time.
    """

    request_seconds: float = 5.0
    scan_seconds: float = 600.0
    cache_entries: int | None = None
    cache_seconds: float = 60.0
    refresh_seconds: float = 0.0
    whole_triples: int = 1_000_000
    page_rows: int = 10_000


@dataclass(slots=True)
class Contents:
    """What a scan reads: the quads, and in `counts` what they don't show when they are not all there are.

    `schema` are terms that are known to be schema. `said` counts the triples of each predicate.
    """

    quads: Iterable[Quad]
    whole: bool = True
    schema: set[str] = field(default_factory=set)
    said: dict[str, int] = field(default_factory=dict)
    triples: int = 0
    named_graphs: int = 0


class QuadSource(ABC):
    """A graph as quads of strings (`groundwire.kg.terms`). Methods may be called from several threads at once."""

    name: str
    remote: bool

    @abstractmethod
    def contents(self, rules: LabelRules) -> Contents:
        """The quads that names and word statistics are taken from; may be lazy."""

    @abstractmethod
    def outgoing(self, key: str) -> set[Quad]:
        """The quads with this subject."""

    @abstractmethod
    def incoming(self, key: str) -> set[Quad]:
        """The quads with this object."""

    @abstractmethod
    def holds(self, iri: str) -> bool:
        """Whether some quad has the IRI as subject, predicate or object."""

    def close(self) -> None:  # noqa: B027 - a graph belongs to the caller
        """Release connections."""


class GraphSource(QuadSource):
    """Any rdflib graph. Patterns on a store that is not in this process' memory run under the request's time limit."""

    def __init__(self, graph: rdflib.Graph) -> None:
        self._graph = graph
        store = type(graph.store)
        self.remote = not store.__module__.startswith(_IN_MEMORY)
        url = getattr(graph.store, "query_endpoint", None)
        self.name = f"{store.__name__} {without_secrets(url)}" if url else store.__name__
        self._nodes: dict[str, Any] = {}  # literals and blank nodes as the store gave them

    def contents(self, rules: LabelRules) -> Contents:
        """All quads."""
        if self.remote:
            return Contents(within_limit(lambda: list(read_quads(self._graph)), self.name))
        return Contents(read_quads(self._graph))

    def outgoing(self, key: str) -> set[Quad]:
        """The quads with this subject."""
        if key.startswith('"'):
            return set()
        return self._ask(self._node(key), None, None)

    def incoming(self, key: str) -> set[Quad]:
        """The quads with this object."""
        return self._ask(None, None, self._node(key))

    def holds(self, iri: str) -> bool:
        """Whether some quad has the IRI as subject, predicate or object."""
        node = rdflib.URIRef(iri)
        patterns = ((node, None, None), (None, None, node), (None, node, None))
        return any(self._ask(s, p, o, first=True) for s, p, o in patterns)

    def _node(self, key: str) -> Any:
        return self._nodes.get(key) or (rdflib.BNode(key[2:]) if is_blank(key) else rdflib.URIRef(key))

    def _ask(self, s: Any, p: Any, o: Any, first: bool = False) -> set[Quad]:
        def read() -> set[Quad]:
            found = self._quads(s, p, o)
            if first:
                return {quad for quad, _ in zip(found, range(1), strict=False)}
            return set(found)

        return within_limit(read, self.name) if self.remote else read()

    def _quads(self, s: Any, p: Any, o: Any) -> Iterator[Quad]:
        if isinstance(self._graph, rdflib.ConjunctiveGraph):
            found = self._graph.quads((s, p, o, None))
        else:
            found = ((s, p, o, None) for s, p, o in self._graph.triples((s, p, o)))
        for subject, predicate, obj, graph in found:
            keys = node_key(subject), node_key(predicate), node_key(obj)
            for key, node in ((keys[0], subject), (keys[2], obj)):
                if not isinstance(node, rdflib.URIRef):
                    self._nodes.setdefault(key, node)
            yield (*keys, graph_key(self._graph, graph))


class ContentHash:
    """Hash of quads in any order, taken while they are read: as `groundwire.kg.read.graph_hash`."""

    def __init__(self, blank_nodes: bool) -> None:
        self._hash = SumHash()
        self._blank_nodes = blank_nodes  # whether their names mean something from one scan to the next

    def over(self, quads: Iterable[Quad]) -> Iterator[Quad]:
        """The quads, as they are added to the hash."""
        for quad in quads:
            told = quad if self._blank_nodes else tuple("_:" if key.startswith("_:") else key for key in quad)
            self._hash.add("\0".join(told).encode("utf-8", "surrogatepass"))
            yield quad

    def hexdigest(self) -> str:
        """The hash, hexadecimal."""
        return self._hash.hexdigest()
