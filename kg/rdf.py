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

from groundwire.kg.conflicts import find_conflicts, functional_predicates
from groundwire.kg.fuse import make_fusion
from groundwire.kg.index import ALTERNATIVE, LABEL, Facts, Found, GraphIndex, Ints, PartsOf, Posting
from groundwire.kg.info import graph_version
from groundwire.kg.labels import COMMON, MOST_SHARED, LabelRules, Preference, lower_case_words, matched_key, shape_of
from groundwire.kg.parts import parts_of
from groundwire.kg.read import graph_key, node_key, read_quads, source_hashes
from groundwire.kg.retrieve import IndexRetriever
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.spell import deletions, neighbours, spellable
from groundwire.kg.terms import Quad, fallback_label, is_blank, is_iri, literal_parts
from groundwire.kg.text import squeeze
from groundwire.kg.types import GraphInfo
from groundwire.kg.vectors import Floats32, WordVectors, with_vectors
from groundwire.kg.words import label_stems


class RdflibRetriever(IndexRetriever):
    """A `Retriever` on an rdflib graph. `hashes` are the sources' hashes where the caller knows them.

    It fuses entities as the settings say, and never infers: `open_graph` makes a copy with what `entailment` asks for.
    """

    def __init__(
        self,
        graph: rdflib.Graph,
        settings: GraphSettings | None = None,
        hashes: Mapping[str, str] | None = None,
        vectors: WordVectors | None = None,
    ) -> None:
        super().__init__(RdflibIndex(graph, with_vectors(settings or GraphSettings(), vectors), hashes, vectors))


def _prefer(chosen: dict[str, Preference], owner: str, preference: Preference | None) -> None:
    if preference is not None and (owner not in chosen or preference < chosen[owner]):
        chosen[owner] = preference


def _node(key: str) -> rdflib.URIRef | rdflib.BNode:
    return rdflib.BNode(key[2:]) if is_blank(key) else rdflib.URIRef(key)


class RdflibIndex(GraphIndex):
    """Labels and word statistics of an rdflib graph in dictionaries; nodes and words are numbered as they are seen."""

    def __init__(
        self,
        graph: rdflib.Graph,
        settings: GraphSettings,
        hashes: Mapping[str, str] | None,
        vectors: WordVectors | None,
    ) -> None:
        self.settings = settings
        self.vectors = vectors
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
        self._descriptions: dict[str, str] = {}
        self._key_texts: list[str] = []
        self._keys: dict[str, list[int]] = defaultdict(list)
        self._postings: list[tuple[Posting, ...]] = []
        self._parts: dict[str, list[int]] = {}
        self._spellings: dict[str, set[str]] = defaultdict(set)
        self._lower: dict[str, int] = {}
        self._scan(dict(hashes) if hashes is not None else source_hashes([graph]))

    def _scan(self, hashes: dict[str, str]) -> None:
        rules = LabelRules(self.settings)
        preferred: dict[str, Preference] = {}
        described: dict[str, Preference] = {}
        labels: list[tuple[str, str, int]] = []
        schema: set[str] = set()
        triples: set[Quad] = set()
        same: list[tuple[str, str]] = []
        for quad in read_quads(self._graph):
            s, p, o, _ = quad
            schema.update(rules.schema_terms(quad))
            if p not in rules.not_evidence:
                triples.add(quad)
            elif p in rules.fusing:
                same.append((s, o))
            elif not o.startswith('"'):
                continue
            elif p in rules.names or p in rules.alternatives:
                label = squeeze(literal_parts(o)[0])
                if p in rules.names:
                    _prefer(preferred, s, rules.preference(p, o))
                labels.append((label, s, (LABEL if p in rules.names else ALTERNATIVE) + 2 * shape_of(label)))
            elif p in rules.descriptions:
                _prefer(described, s, rules.preference(p, o))
        self._fusion = fusion = make_fusion(same, preferred.get, self.settings)
        if fusion.canonical:
            triples = set(map(self._fused, triples))
            labels = [(label, fusion.of(s), kind) for label, s, kind in labels]
            schema = set(map(fusion.of, schema))
            preferred, described = self._merged(preferred), self._merged(described)
        conflicts = find_conflicts(triples, functional_predicates(triples, self.settings, fusion))
        self._conflicts = {(conflict.subject, conflict.predicate) for conflict in conflicts}
        self._labels = {key: label for key, (_, _, label) in preferred.items()}
        used = {key for s, _, o, _ in triples for key in (s, o)}
        named = used | {p for _, p, _, _ in triples} | {g for _, _, _, g in triples if g}
        self._count_words(triples, named)
        self._descriptions = {key: text for key, (_, _, text) in described.items() if key in named}
        lower: Counter[str] = Counter()
        for text in self._descriptions.values():
            lower.update(lower_case_words(text))
        for key in used:
            if key.startswith('"'):
                lower.update(lower_case_words(literal_parts(key)[0]))
        self._lower = {word: count for word, count in lower.items() if count >= COMMON}
        linkable = {key for key in used if is_iri(key)} - schema
        entities = self._index_names([(label, s, kind) for label, s, kind in labels if s in linkable])
        self.type_node = self._number(RDF_TYPE)
        self.info = GraphInfo(
            version=graph_version(hashes, self.settings),
            triples=len(triples),
            entities=len(entities),
            labels=len(self._key_texts),
            predicates=len({p for _, p, _, _ in triples}),
            named_graphs=len({g for _, _, _, g in triples if g}),
            retriever="rdflib",
            source_hashes=hashes,
        )

    def _fused(self, quad: Quad) -> Quad:
        of = self._fusion.of
        return of(quad[0]), of(quad[1]), of(quad[2]), quad[3]

    def _merged(self, chosen: dict[str, Preference]) -> dict[str, Preference]:
        merged: dict[str, Preference] = {}
        for key, preference in chosen.items():
            _prefer(merged, self._fusion.of(key), preference)
        return merged

    def _count_words(self, triples: set[Quad], named: set[str]) -> None:
        said: Counter[str] = Counter()
        for _, p, o, _ in triples:
            said.update((p, o))
        frequency: Counter[str] = Counter()
        for key in named:
            for word in label_stems(self._label_of(key)):
                frequency[word] += said[key]
        self._word_numbers = {word: number for number, word in enumerate(frequency)}
        self._frequency = list(frequency.values())

    def _index_names(self, labels: list[tuple[str, str, int]]) -> set[str]:
        """Fill the tables that `lookup` and `spellings` read; returns the entities that have a label."""
        owners: dict[str, dict[str, int]] = defaultdict(dict)
        parts: dict[str, set[str]] = defaultdict(set)
        for label, owner, kind in labels:
            key = matched_key(label)
            if key:
                owners[key][owner] = min(kind, owners[key].get(owner, kind))
                for part in parts_of(label):
                    parts[part].add(key)
        self._key_texts = sorted(owners)
        numbers = {key: number for number, key in enumerate(self._key_texts)}
        for key in self._key_texts:
            self._keys[key.replace(" ", "")].append(numbers[key])
            self._postings.append(
                tuple(Posting(self._number(owner), kind & 1, kind >> 1) for owner, kind in sorted(owners[key].items()))
            )
            for word in filter(spellable, key.split(" ")):
                for form in deletions(word):
                    self._spellings[form].add(word)
        self._parts = {
            part: sorted(numbers[key] for key in keys) for part, keys in parts.items() if len(keys) <= MOST_SHARED
        }
        self.longest_key_words = max((key.count(" ") + 1 for key in owners), default=0)
        self.longest_key = max((len(key.replace(" ", "")) for key in owners), default=0)
        return {owner for some in owners.values() for owner in some}

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

    def lookup(self, text: str, starts: Ints, ends: Ints) -> tuple[Found, list[int], PartsOf]:
        """The slices of `text` that are labels, and a way to those that are parts of labels."""
        slices = [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        labels = [(place, key) for place, slice_ in enumerate(slices) for key in self._keys.get(slice_, ())]

        def parts(places: list[int]) -> Found:
            return [(place, key) for place in places for key in self._parts[slices[place]]]

        return labels, [place for place, slice_ in enumerate(slices) if slice_ in self._parts], parts

    def key_text(self, key: int) -> str:
        """The folded label of a key, with its spaces."""
        return self._key_texts[key]

    def postings(self, key: int) -> tuple[Posting, ...]:
        """The entities of a key, ordered by IRI."""
        return self._postings[key]

    def spellings(self, words: Sequence[str]) -> list[list[str]]:
        """For each word the label words one slip away; none for a word that labels hold."""
        found: list[list[str]] = []
        for word in words:
            if word in self._spellings.get(word, ()):
                found.append([])
            else:
                others = {other for form in deletions(word) for other in self._spellings.get(form, ())}
                found.append(sorted(other for other in others if neighbours(word, other)))
        return found

    def lower_case_counts(self, words: Sequence[str]) -> list[int]:
        """How often each word stands in lower case in the graph's own texts."""
        return [self._lower.get(word, 0) for word in words]

    def about(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The distinct words of the nodes' descriptions that labels hold too, and how many each node has."""
        lists = []
        for node in nodes.tolist():
            stems = label_stems(self._descriptions.get(self._strings[node], ""))
            lists.append([self._word_numbers[stem] for stem in stems if stem in self._word_numbers])
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        return np.array([word for words in lists for word in words], dtype=np.int64), counts

    def find(self, iri: str) -> int | None:
        """The node of an IRI, None when unknown."""
        iri = self._fusion.of(iri)
        if iri in self._numbers:
            return self._numbers[iri]
        node = rdflib.URIRef(iri)
        for pattern in ((node, None, None), (None, None, node), (None, node, None)):
            if next(self._quads(*pattern), None) is not None:
                return self._number(iri, node)
        return None

    def same_as(self, node: int) -> tuple[str, ...]:
        """The other IRIs of a fused entity."""
        return self._fusion.iris(self._strings[node])

    def conflicting(self, subject: int, predicate: int) -> bool:
        """Whether subject and predicate are in conflict."""
        return (self._strings[subject], self._strings[predicate]) in self._conflicts

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
        """The quads of a pattern with one term given: those of all terms that are fused with it."""
        for subject, predicate, obj in ((s, p, o), *self._fused_patterns(s, p, o)):
            yield from self._plain_quads(subject, predicate, obj)

    def _fused_patterns(self, *pattern: Any) -> Iterator[tuple[Any, ...]]:
        for term in filter(None, pattern) if self._fusion.members else ():
            for member in self._fusion.members.get(node_key(term), ()):
                yield tuple(_node(member) if one is term else one for one in pattern)

    def _plain_quads(self, s: Any, p: Any, o: Any) -> Iterator[Quad]:
        if isinstance(self._graph, rdflib.ConjunctiveGraph):
            found = self._graph.quads((s, p, o, None))
        else:
            found = ((s, p, o, None) for s, p, o in self._graph.triples((s, p, o)))
        for subject, predicate, obj, graph in found:
            quad = node_key(subject), node_key(predicate), node_key(obj), graph_key(self._graph, graph)
            fused = self._fused(quad)
            for key, plain, node in zip(fused[:3], quad[:3], (subject, predicate, obj), strict=True):
                self._number(key, node if key is plain else _node(key))
            yield fused

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

    def label_vectors(self, nodes: Ints) -> Floats32:
        """The vectors of the nodes' labels."""
        assert self.vectors is not None
        return self.vectors.labels([self.label(node) for node in nodes.tolist()]).astype(np.float32)
