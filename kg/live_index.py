"""A live graph and a scan of it, as an index: what `groundwire.kg.rdf` answers from until it reads again."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.index import Facts, Found, GraphIndex, Ints, PartsOf, Place, Posting
from groundwire.kg.pattern_cache import PatternCache
from groundwire.kg.scan import Scan
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.source import QuadSource
from groundwire.kg.spell import Spelling, deletions, nearest
from groundwire.kg.terms import Quad
from groundwire.kg.vectors import Bytes, WordVectors
from groundwire.kg.words import label_stems


class RdflibIndex(GraphIndex):
    """A scan of the graph and the graph itself; nodes and words are numbered as they are seen."""

    def __init__(
        self,
        scan: Scan,
        settings: GraphSettings,
        vectors: WordVectors | None,
        source: QuadSource,
        cache: PatternCache[tuple[str, str], set[Quad]],
    ) -> None:
        self.settings = settings
        self.vectors = vectors
        self.info = scan.info
        self.content = scan.content
        self.longest_key_words, self.longest_key = scan.longest_key_words, scan.longest_key
        self._scan = scan
        self._source = source
        self._cache = cache
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._strings: list[str] = []
        self._node_words: dict[int, tuple[int, ...]] = {}
        self._word_numbers = {word: number for number, word in enumerate(scan.frequency)}
        self._frequency = list(scan.frequency.values())
        self._graph_names: list[str] = [""]
        self._graph_numbers: dict[str, int] = {"": 0}
        self._keys, self._parts, self._spellings = scan.keys, scan.parts, scan.spellings
        self._postings = [
            tuple(Posting(self._number(owner), kind & 1, kind >> 1) for owner, kind in postings)
            for postings in scan.postings
        ]
        self.type_node = self._number(RDF_TYPE)

    def _number(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            with self._lock:
                number = self._numbers.get(key)
                if number is None:
                    number = len(self._strings)
                    self._strings.append(key)
                    # Last, since other threads look here without the lock.
                    self._numbers[key] = number
        return number

    def lookup(
        self, words: Sequence[str], starts: int, longest: int, center: int = -1
    ) -> tuple[Found, list[Place], PartsOf]:
        """The sequences of words that are labels, and a way to those that are parts of labels."""
        labels: Found = []
        maybe: list[Place] = []
        for first in range(starts if center < 0 else min(starts, center + 1)):
            joined = ""
            for last in range(first, min(first + longest, len(words))):
                joined += words[last]
                if last >= center:
                    labels += [(first, last + 1, key) for key in self._keys.get(joined, ())]
                    if joined in self._parts:
                        maybe.append((first, last + 1, 0))

        def parts(places: list[Place]) -> Found:
            return [(a, b, key) for a, b, _ in places for key in self._parts["".join(words[a:b])]]

        return labels, maybe, parts

    def key_text(self, key: int) -> str:
        """The folded label of a key, with its spaces."""
        return self._scan.key_texts[key]

    def postings(self, key: int) -> tuple[Posting, ...]:
        """The entities of a key, ordered by IRI."""
        return self._postings[key]

    def spellings(self, words: Sequence[str]) -> list[list[Spelling]]:
        """For each word the nearest label words; none for a word that labels hold."""

        def look_up(wanted: list[str], shortest_for_two: int) -> list[set[str]]:
            forms = (deletions(word, shortest_for_two) for word in wanted)
            return [{word for form in group for word in self._spellings.get(form, ())} for group in forms]

        return nearest(words, look_up, self.holds_word)

    def lower_case_counts(self, words: Sequence[str]) -> list[int]:
        """How often each word stands in lower case in the graph's own texts."""
        return [self._scan.lower.get(word, 0) for word in words]

    def about(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The distinct words of the nodes' descriptions that labels hold too, and how many each node has."""
        lists = []
        for node in nodes.tolist():
            stems = label_stems(self._scan.descriptions.get(self._strings[node], ""))
            lists.append([self._word_numbers[stem] for stem in stems if stem in self._word_numbers])
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.array([word for words in lists for word in words], dtype=np.int64), counts

    def find(self, iri: str) -> int | None:
        """The node of an IRI, None when unknown."""
        fusion = self._scan.fusion
        iri = fusion.of(iri)
        if iri in self._numbers:
            return self._numbers[iri]

        def ask() -> set[Quad]:
            found = any(self._source.holds(member) for member in (iri, *fusion.iris(iri)))
            return {(iri, "", "", "")} if found else set()

        held = self._cache.get(("?", iri), ask)  # it holds quads; any one says that the graph holds the IRI
        return self._number(iri) if held else None

    def same_as(self, node: int) -> tuple[str, ...]:
        """The other IRIs of a fused entity."""
        return self._scan.fusion.iris(self._strings[node])

    def conflicting(self, subject: int, predicate: int) -> bool:
        """Whether subject and predicate are in conflict."""
        return (self._strings[subject], self._strings[predicate]) in self._scan.conflicts

    def key(self, node: int) -> str:
        """The string form of a node."""
        return self._strings[node]

    def label(self, node: int) -> str:
        """The label that people read."""
        return self._scan.label(self._strings[node])

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
        """The distinct evidence quads that have the node, or a term fused with it, as subject or as object."""
        first, fusion, skipped = self._strings[node], self._scan.fusion, self.settings.naming_predicates
        quads: set[Quad] = set()
        for key in (first, *fusion.members.get(first, ())):
            quads.update(quad for quad in self._asked(key, as_subject) if quad[1] not in skipped)
        if fusion.canonical:
            quads = {(fusion.of(s), fusion.of(p), fusion.of(o), g) for s, p, o, g in quads}
        for s, p, o, _ in quads:
            for term in (s, p, o):
                self._number(term)
        return quads

    def _asked(self, key: str, as_subject: bool) -> set[Quad]:
        ask: Callable[[str], set[Quad]] = self._source.outgoing if as_subject else self._source.incoming
        return self._cache.get(("s" if as_subject else "o", key), lambda: ask(key))

    def _graph_number(self, name: str) -> int:
        number = self._graph_numbers.get(name)
        if number is None:
            with self._lock:
                if name not in self._graph_numbers:
                    self._graph_names.append(name)
                    self._graph_numbers[name] = len(self._graph_names) - 1
                number = self._graph_numbers[name]
        return number

    def word_ids(self, stems: Sequence[str]) -> list[int]:
        """The word of each stem, -1 when unknown."""
        return [self._word_numbers.get(stem, -1) for stem in stems]

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

    def label_vectors(self, nodes: Ints) -> Bytes:
        """The vectors of the nodes' labels."""
        assert self.vectors is not None
        return self.vectors.labels([self.label(node) for node in nodes.tolist()])
