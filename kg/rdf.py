"""An rdflib graph as an index: any `Graph` or `Dataset` in any store. The reference for the compiled one.

Labels and word counts are taken once, when the retriever is made (and at `refresh`); triples are read from the graph at
each request with `Graph.triples`, never with SPARQL.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rdflib
from numpy.typing import NDArray

from groundwire.kg.index import ALTERNATIVE, LABEL, Facts, GraphIndex, Ints, Match, Posting
from groundwire.kg.info import graph_version
from groundwire.kg.labels import LabelRules, Preference, matched_key, shape_of
from groundwire.kg.read import graph_key, node_key, read_quads, source_hashes
from groundwire.kg.retrieve import IndexRetriever
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.terms import Quad, fallback_label, is_iri, literal_parts
from groundwire.kg.text import Words, squeeze
from groundwire.kg.types import GraphInfo
from groundwire.kg.words import label_stems


class RdflibRetriever(IndexRetriever):
    """A `Retriever` on an rdflib graph. `hashes` are the sources' hashes where the caller knows them."""

    def __init__(
        self,
        graph: rdflib.Graph,
        settings: GraphSettings | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(RdflibIndex(graph, settings or GraphSettings(), hashes))


class RdflibIndex(GraphIndex):
    """Labels and word statistics of an rdflib graph in dictionaries; nodes and words are numbered as they are seen."""

    def __init__(self, graph: rdflib.Graph, settings: GraphSettings, hashes: Mapping[str, str] | None) -> None:
        self.settings = settings
        self._graph = graph
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._strings: list[str] = []
        self._nodes: list[Any] = []
        self._node_words: dict[int, tuple[int, ...]] = {}
        self._word_numbers: dict[str, int] = {}
        self._frequency: list[int] = []
        self._graph_names: list[str] = [""]
        self._graph_numbers: dict[str, int] = {"": 0}
        self._labels: dict[str, str] = {}
        self._postings: dict[str, tuple[Posting, ...]] = {}
        self._longest_words = 0
        self._scan(dict(hashes) if hashes is not None else source_hashes([graph]))

    def _scan(self, hashes: dict[str, str]) -> None:
        rules = LabelRules(self.settings)
        preferred: dict[str, Preference] = {}
        labels: dict[str, dict[str, int]] = defaultdict(dict)
        schema: set[str] = set()
        said: Counter[str] = Counter()
        used: set[str] = set()
        predicates: set[str] = set()
        graphs: set[str] = set()
        triples: set[Quad] = set()
        for quad in read_quads(self._graph):
            s, p, o, g = quad
            schema.update(rules.schema_terms(quad))
            if p not in rules.not_evidence:
                triples.add(quad)
            elif o.startswith('"') and (p in rules.names or p in rules.alternatives):
                label = squeeze(literal_parts(o)[0])
                if p in rules.names:
                    preference = rules.preference(p, o)
                    if preference is not None and (s not in preferred or preference < preferred[s]):
                        preferred[s] = preference
                key = matched_key(label)
                if key:
                    kind = (LABEL if p in rules.names else ALTERNATIVE) + 2 * shape_of(label)
                    labels[key][s] = min(kind, labels[key].get(s, kind))
        for s, p, o, g in triples:
            used.update((s, o))
            predicates.add(p)
            graphs.add(g)
            said[p] += 1
            said[o] += 1
        self._labels = {key: label for key, (_, _, label) in preferred.items()}
        frequency: Counter[str] = Counter()
        for key in used | predicates | (graphs - {""}):
            for word in label_stems(self._label_of(key)):
                frequency[word] += said[key]
        self._word_numbers = {word: number for number, word in enumerate(frequency)}
        self._frequency = list(frequency.values())
        linkable = {key for key in used if is_iri(key)} - schema
        entities: set[str] = set()
        for key, owners in labels.items():
            kept = sorted((owner, kind) for owner, kind in owners.items() if owner in linkable)
            if kept:
                entities.update(owner for owner, _ in kept)
                self._postings[key] = tuple(Posting(self._number(owner), kind & 1, kind >> 1) for owner, kind in kept)
        self._longest_words = max((key.count(" ") + 1 for key in self._postings), default=0)
        self.type_node = self._number(RDF_TYPE)
        self.info = GraphInfo(
            version=graph_version(hashes, self.settings),
            triples=len(triples),
            entities=len(entities),
            labels=len(self._postings),
            predicates=len(predicates),
            named_graphs=len(graphs - {""}),
            retriever="rdflib",
            source_hashes=hashes,
        )

    def _label_of(self, key: str) -> str:
        return self._labels.get(key) or fallback_label(key)

    def _number(self, key: str, node: Any = None) -> int:
        number = self._numbers.get(key)
        if number is None:
            with self._lock:
                number = self._numbers.get(key)
                if number is None:
                    number = len(self._strings)
                    self._strings.append(key)
                    self._nodes.append(rdflib.URIRef(key) if node is None else node)
                    # Last, since other threads look here without the lock.
                    self._numbers[key] = number
        return number

    def matches(self, words: Words) -> list[Match]:
        """All spans of `words` that are a label of an entity."""
        found = []
        for first in range(len(words.words)):
            for last in range(first + 1, min(len(words.words), first + self._longest_words) + 1):
                postings = self._postings.get(words.key[words.key_starts[first] : words.key_ends[last - 1]])
                if postings:
                    found.append(Match(first, last, postings))
        return found

    def find(self, iri: str) -> int | None:
        """The node of an IRI, None when unknown."""
        if iri in self._numbers:
            return self._numbers[iri]
        node = rdflib.URIRef(iri)
        for pattern in ((node, None, None), (None, None, node), (None, node, None)):
            if next(self._quads(*pattern), None) is not None:
                return self._number(iri, node)
        return None

    def key(self, node: int) -> str:
        """The string form of a node."""
        return self._strings[node]

    def label(self, node: int) -> str:
        """The label that people read."""
        return self._label_of(self._strings[node])

    def graph_name(self, graph: int) -> str:
        """IRI of a named graph, empty for the default graph."""
        return self._graph_names[graph]

    def degree(self, node: int) -> int:
        """Triples with the node as subject or object."""
        return len(self._pattern(node, True)) + len(self._pattern(node, False))

    def facts(self, nodes: Sequence[int]) -> Facts:
        """The triples of `nodes` in canonical order."""
        quads: dict[Quad, None] = {}
        for node in nodes:
            outgoing = sorted(self._pattern(node, True))[: self.settings.outgoing_limit]
            incoming = sorted(self._pattern(node, False))[: self.settings.incoming_limit]
            quads.update(dict.fromkeys(outgoing + incoming))
        rows = [
            (self._numbers[s], self._numbers[p], self._numbers[o], self._graph_number(g))
            for s, p, o, g in sorted(quads)
        ]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return Facts(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])

    def _pattern(self, node: int, as_subject: bool) -> set[Quad]:
        """The distinct evidence quads that have the node as subject, or as object."""
        term = self._nodes[node]
        if as_subject and isinstance(term, rdflib.Literal):
            return set()
        skipped = self.settings.naming_predicates
        return {quad for quad in (self._quads(term, None, None) if as_subject else self._quads(None, None, term))
                if quad[1] not in skipped}  # fmt: skip

    def _quads(self, s: Any, p: Any, o: Any) -> Iterator[Quad]:
        if isinstance(self._graph, rdflib.ConjunctiveGraph):
            found = self._graph.quads((s, p, o, None))
        else:
            found = ((s, p, o, None) for s, p, o in self._graph.triples((s, p, o)))
        for subject, predicate, obj, graph in found:
            keys = node_key(subject), node_key(predicate), node_key(obj)
            for key, node in zip(keys, (subject, predicate, obj), strict=True):
                self._number(key, node)
            yield (*keys, graph_key(self._graph, graph))

    def _graph_number(self, name: str) -> int:
        number = self._graph_numbers.get(name)
        if number is None:
            with self._lock:
                if name not in self._graph_numbers:
                    self._graph_names.append(name)
                    self._graph_numbers[name] = len(self._graph_names) - 1
                number = self._graph_numbers[name]
        return number

    def word_ids(self, stems: Sequence[str]) -> Ints:
        """The word of each stem, -1 when unknown."""
        return np.fromiter((self._word(stem) for stem in stems), np.int64, len(stems))

    def _word(self, stem: str) -> int:
        return self._word_numbers.get(stem, -1)

    def frequencies(self, words: Ints) -> Ints:
        """Triples that hold each word."""
        return np.fromiter((self._frequency[word] for word in words.tolist()), np.int64, len(words))

    def words_of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The words of each node, and how many."""
        lists = [self._words_of(node) for node in nodes.tolist()]
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.array([word for words in lists for word in words], dtype=np.int64), counts

    def _words_of(self, node: int) -> tuple[int, ...]:
        words = self._node_words.get(node)
        if words is None:
            stems = label_stems(self.label(node))
            with self._lock:
                for stem in stems:
                    if stem not in self._word_numbers:
                        self._frequency.append(0)
                        self._word_numbers[stem] = len(self._frequency) - 1
            words = self._node_words[node] = tuple(self._word_numbers[stem] for stem in stems)
        return words

    def has_digit(self, nodes: Ints) -> NDArray[np.bool_]:
        """Whether each label holds a digit."""
        return np.fromiter((any(map(str.isdigit, self.label(node))) for node in nodes.tolist()), bool, len(nodes))
