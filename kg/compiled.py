"""The compiled graph as an index: memory-mapped arrays, a few numpy calls a look-up, shared between processes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.aliases import Aliases
from groundwire.kg.errors import CompiledGraphError
from groundwire.kg.format import FORMAT_VERSION, Folder
from groundwire.kg.index import Facts, Found, GraphIndex, Ints, PartsOf, Place, Posting, Row
from groundwire.kg.kernel import open_finder, open_kernel, open_lexicon, open_scorer, open_writer
from groundwire.kg.retrieve import IndexRetriever
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.spell import LONGEST_FOR_TWO, Spelling, nearest
from groundwire.kg.strings import open_strings
from groundwire.kg.tables import Tables, places
from groundwire.kg.terms import fallback_label
from groundwire.kg.types import Evidence, GraphInfo
from groundwire.kg.vectors import Bytes, WordVectors

_NO_INTS = np.zeros(0, dtype=np.int64)
_NO_PAIRS = np.zeros(0, dtype=np.uint64)
_MOST_WORDS = 1 << 16  # kept ready, about 10 MB
_MOST_TERMS = 1 << 15  # kept ready, about 20 MB


class CompiledRetriever(IndexRetriever):
    """A `Retriever` on a folder made by `compile_graph`. Raises `CompiledGraphError` when the folder is not whole.

    Folders of up to 64 MiB are hashed whole when opened, larger ones by sample; `full_check` decides otherwise.
    `native` says whether the compiled kernel is used where the package was built with it: answers are the same.
    """

    def __init__(self, path: str | os.PathLike[str], full_check: bool | None = None, *, native: bool = True) -> None:
        super().__init__(CompiledIndex(Path(path), full_check, native))


def _gather(offsets: Ints, values: NDArray[np.uint32], nodes: Ints) -> tuple[Ints, Ints]:
    """The runs of `values` of each node, one after another, and their lengths."""
    starts = offsets[nodes].astype(np.int64, copy=False)
    counts = offsets[nodes + 1] - starts
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    within = np.arange(total)
    within += (starts - ends + counts).repeat(counts)
    return values[within].astype(np.int64), counts


class CompiledIndex(GraphIndex):
    """The arrays of a compiled graph (see `groundwire.kg.format` for what each holds)."""

    def __init__(self, path: Path, full_check: bool | None = None, native: bool = True) -> None:
        folder = Folder(path, full_check)
        try:
            self._open(folder, native)
        except CompiledGraphError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CompiledGraphError(f"{path} is damaged ({error!r}); compile the graph again") from error

    def _open(self, folder: Folder, native: bool) -> None:
        meta = folder.meta
        try:
            self.settings = GraphSettings.from_json(meta["settings"])
            counts: dict[str, Any] = {
                name: int(meta[name]) for name in ("triples", "entities", "labels", "predicates", "named_graphs")
            }
            self.longest_key_words = int(meta["longest_key_words"])
            self.longest_key = int(meta["longest_key"])
            self.info = GraphInfo(
                version=str(meta["version"]),
                retriever="compiled",
                format_version=FORMAT_VERSION,
                source_hashes=dict(meta["source_hashes"]),
                **counts,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CompiledGraphError(
                f"{folder.path}/meta.json is damaged ({error!r}); compile the graph again"
            ) from error
        self._terms = open_strings(folder, "terms")
        self._labels = open_strings(folder, "labels")
        self._keys = open_strings(folder, "keys")
        array = folder.array
        self._subject, self._predicate = array("triple_subject"), array("triple_predicate")
        self._object, self._graph = array("triple_object"), array("triple_graph")
        self._outgoing, self._incoming = array("outgoing"), array("incoming")
        self._incoming_triple = array("incoming_triple")
        self._vocabulary_hash, self._vocabulary_frequency = array("vocabulary_hash"), array("vocabulary_frequency")
        self._words_offset, self._words = array("term_words_offset"), array("term_words")
        self._digit = array("term_digit")
        self._key_posting = array("key_posting")
        self._posting_term, self._posting_kind = array("posting_term"), array("posting_kind")
        self._part_key, self._spelling_word = array("part_key"), array("spelling_word")
        self._label_words = open_strings(folder, "label_words")
        self._lower_hash, self._lower_count = array("lower_hash"), array("lower_count")
        self._about_offset, self._about = array("about_offset"), array("about")
        self._graph_names = ["", *(self._terms[term] for term in array("graphs")[1:].tolist())]
        if folder.has("term_vectors"):
            self._term_vectors = array("term_vectors")
            self.vectors = WordVectors(array("token_vectors"), open_strings(folder, "tokenizer")[0])
        self._aliases = Aliases(folder)
        self._conflict_pair = array("conflict_pair") if folder.has("conflict_pair") else _NO_PAIRS
        self._known_spellings: dict[str, list[Spelling]] = {}
        self._known_postings: dict[int, tuple[Posting, ...]] = {}
        self.type_node = -1
        type_node = self.find(RDF_TYPE)
        if type_node is not None:
            self.type_node = type_node
        tables = {name: array(name) for name in ("key_hash", "key_filter", "part_hash", "spelling_hash")}
        shift = 64 - (len(tables["key_filter"]) * 8).bit_length() + 1
        self._tables = Tables(tables, shift)
        self.kernel = open_kernel(folder, self.settings, self.type_node) if native else None
        self.scorer = open_scorer(folder, self._keys) if native else None
        self._lexicon = open_lexicon(folder, self.info.triples) if native else None
        if self._lexicon is not None:
            longest = self.longest_key_words
            self.finder = open_finder(folder, self._keys, self._label_words, self._lexicon, shift, longest)
        self._writer = (
            open_writer(self._terms, self._labels, self._graph_names, self._conflict_pair) if native else None
        )

    def lookup(
        self, words: Sequence[str], starts: int, longest: int, center: int = -1
    ) -> tuple[Found, list[Place], PartsOf]:
        """The sequences of words that are labels, and a way to those that are parts of labels."""
        hits, maybe = self._tables.sequences(words, starts, longest, center)
        labels = [(a, b, key) for a, b, key in hits if self._keys[key].replace(" ", "") == "".join(words[a:b])]

        def parts(places: list[Place]) -> Found:
            found: Found = []
            for a, b, hashed in places:
                for entry in self._tables.parts(hashed):
                    key = int(self._part_key[entry])
                    # The label holds the part as a run of letters; that it holds it as a run of words, the hash says.
                    if "".join(words[a:b]) in self._keys[key].replace(" ", ""):
                        found.append((a, b, key))
            return found

        return labels, maybe, parts

    def key_text(self, key: int) -> str:
        """The folded label of a key, with its spaces."""
        return self._keys[key]

    def postings(self, key: int) -> tuple[Posting, ...]:
        """The entities of a key, ordered by IRI."""
        found = self._known_postings.get(key)
        if found is None:
            if len(self._known_postings) >= _MOST_TERMS:
                self._known_postings.clear()
            found = self._known_postings[key] = self._read_postings(key)
        return found

    def _read_postings(self, key: int) -> tuple[Posting, ...]:
        start, end = self._key_posting[key : key + 2].tolist()
        return tuple(
            Posting(node, kind & 1, kind >> 1)
            for node, kind in zip(
                self._posting_term[start:end].tolist(), self._posting_kind[start:end].tolist(), strict=True
            )
        )

    def spellings(self, words: Sequence[str]) -> list[list[Spelling]]:
        """For each word the nearest label words; none for a word that labels hold."""
        known = self._known_spellings
        new = [word for word in words if word not in known]
        if new:
            if len(known) + len(new) > _MOST_WORDS:
                # A new dictionary, since other threads may still read the old one.
                known = self._known_spellings = {word: known[word] for word in words if word in known}
            known.update(zip(new, self._spellings(new), strict=True))
        return [known[word] for word in words]

    def _spellings(self, words: Sequence[str]) -> list[list[Spelling]]:
        def look_up(wanted: list[str], shortest_for_two: int) -> list[set[str]]:
            entries = (self._tables.misspelt(word, shortest_for_two, LONGEST_FOR_TWO) for word in wanted)
            return [{self._label_words[number] for number in self._spelling_word[some].tolist()} for some in entries]

        return nearest(words, look_up, self.holds_word)

    def lower_case_counts(self, words: Sequence[str]) -> list[int]:
        """How often each word stands in lower case in the graph's own texts."""
        counts = self._lower_count
        return [int(counts[place]) if place >= 0 else 0 for place in places(self._lower_hash, words)]

    def about(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The distinct words of the nodes' descriptions, and how many each node has."""
        return _gather(self._about_offset, self._about, nodes)

    def find(self, iri: str) -> int | None:
        """The node of an IRI, None when unknown."""
        # Aliases first: one may be a term too, as the name of a graph.
        alias = self._aliases.find(iri)
        return self._terms.find(iri) if alias is None else alias

    def same_as(self, node: int) -> tuple[str, ...]:
        """The other IRIs of a fused entity."""
        return self._aliases.of(node)

    def conflicting(self, subject: int, predicate: int) -> bool:
        """Whether subject and predicate are in conflict."""
        pairs = self._conflict_pair
        if not len(pairs):
            return False
        pair = np.uint64(subject << 32 | predicate)
        place = int(pairs.searchsorted(pair))
        return place < len(pairs) and bool(pairs[place] == pair)

    def key(self, node: int) -> str:
        """The string form of a node."""
        return self._terms[node]

    def label(self, node: int) -> str:
        """The label that people read."""
        return self._labels[node] or fallback_label(self._terms[node])

    def evidence(self, rows: list[Row], scores: list[float]) -> list[Evidence]:
        """Triples as evidence."""
        return super().evidence(rows, scores) if self._writer is None else self._writer.evidence(rows, scores)

    def graph_name(self, graph: int) -> str:
        """IRI of a named graph, empty for the default graph."""
        return self._graph_names[graph]

    def degree(self, node: int) -> int:
        """Triples with the node as subject or object."""
        if self.kernel is not None:
            return self.kernel.degree(node)
        out_start, out_end = self._outgoing[node : node + 2].tolist()
        in_start, in_end = self._incoming[node : node + 2].tolist()
        return int(out_end - out_start + in_end - in_start)

    def facts(self, nodes: Sequence[int]) -> Facts:
        """The triples of `nodes` in canonical order."""
        rows: list[NDArray[np.int64]] = []
        for node in nodes:
            start, end = self._outgoing[node : node + 2].tolist()
            rows.append(np.arange(start, min(end, start + self.settings.outgoing_limit)))
            start, end = self._incoming[node : node + 2].tolist()
            if end > start:
                rows.append(
                    self._incoming_triple[start : min(end, start + self.settings.incoming_limit)].astype(np.int64)
                )
        triples = np.concatenate(rows) if rows else _NO_INTS
        if len(rows) > 1:
            triples.sort()
            new = np.ones(len(triples), dtype=bool)
            np.not_equal(triples[1:], triples[:-1], out=new[1:])
            triples = triples[new]
        return Facts(
            self._subject[triples].astype(np.int64),
            self._predicate[triples].astype(np.int64),
            self._object[triples].astype(np.int64),
            self._graph[triples].astype(np.int64),
        )

    def word_ids(self, stems: Sequence[str]) -> list[int]:
        """The word of each stem, -1 when unknown."""
        return places(self._vocabulary_hash, stems)

    def look_up(self, words: list[str]) -> tuple[list[str], dict[str, int], list[int], list[float]]:
        """Stems, the numbers of those known, the numbers in order and their weights."""
        return super().look_up(words) if self._lexicon is None else self._lexicon.look_up(words)

    def frequencies(self, words: Ints) -> Ints:
        """Triples that hold each word."""
        return self._vocabulary_frequency[words].astype(np.int64)

    def words_of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The words of each node, and how many."""
        return _gather(self._words_offset, self._words, nodes)

    def label_vectors(self, nodes: Ints) -> Bytes:
        """The vectors of the nodes' labels."""
        vectors: Bytes = self._term_vectors[nodes]
        return vectors

    def has_digit(self, nodes: Ints) -> NDArray[np.bool_]:
        """Whether each label holds a digit."""
        return self._digit[nodes].astype(bool)
