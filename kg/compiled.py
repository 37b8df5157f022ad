"""The compiled graph as an index: memory-mapped arrays, a few numpy calls a look-up, shared between processes."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.errors import CompiledGraphError
from groundwire.kg.format import FORMAT_VERSION, Folder
from groundwire.kg.hashing import hash_all, hash_slices
from groundwire.kg.index import Facts, GraphIndex, Ints, Match, Posting
from groundwire.kg.retrieve import IndexRetriever
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.terms import fallback_label
from groundwire.kg.text import Words
from groundwire.kg.types import GraphInfo

_CHUNK = 1024  # words whose sequences are hashed at a time: bounds the memory that a long text takes
_NO_INTS = np.zeros(0, dtype=np.int64)


class CompiledRetriever(IndexRetriever):
    """A `Retriever` on a folder made by `compile_graph`. Raises `CompiledGraphError` when the folder is not whole.

    Folders of up to 128 MiB are hashed whole when opened, larger ones by sample; `full_check` decides otherwise.
    """

    def __init__(self, path: str | os.PathLike[str], full_check: bool | None = None) -> None:
        super().__init__(CompiledIndex(Path(path), full_check))


class _Strings:
    """Strings of a blob by number."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._blob = folder.blob(name)
        self._offsets = folder.array(f"{name}_offset")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._offsets[number : number + 2].tolist()
        return self._blob[start:end].decode("utf-8", "surrogatepass")


@lru_cache(maxsize=512)
def _sequences(count: int, starts: int, longest: int) -> tuple[Ints, Ints]:
    """First and last (exclusive) of all sequences of 1 to `longest` of `count` words begun in the first `starts`."""
    first = np.repeat(np.arange(starts), longest)
    last = first + np.tile(np.arange(1, longest + 1), starts)
    fits = last <= count
    return first[fits], last[fits]


class CompiledIndex(GraphIndex):
    """The arrays of a compiled graph (see `groundwire.kg.format` for what each holds)."""

    def __init__(self, path: Path, full_check: bool | None = None) -> None:
        folder = Folder(path, full_check)
        meta = folder.meta
        try:
            self.settings = GraphSettings.from_json(meta["settings"])
            counts: dict[str, Any] = {
                name: int(meta[name]) for name in ("triples", "entities", "labels", "predicates", "named_graphs")
            }
            self._longest_words = int(meta["longest_key_words"])
            self._longest_key = int(meta["longest_key"])
            self.info = GraphInfo(
                version=str(meta["version"]),
                retriever="compiled",
                format_version=FORMAT_VERSION,
                source_hashes=dict(meta["source_hashes"]),
                **counts,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CompiledGraphError(f"{path}/meta.json is damaged ({error!r}); compile the graph again") from error
        self._terms = _Strings(folder, "terms")
        self._labels = _Strings(folder, "labels")
        self._keys = _Strings(folder, "keys")
        array = folder.array
        self._subject, self._predicate = array("triple_subject"), array("triple_predicate")
        self._object, self._graph = array("triple_object"), array("triple_graph")
        self._outgoing, self._incoming = array("outgoing"), array("incoming")
        self._incoming_triple = array("incoming_triple")
        self._vocabulary_hash, self._vocabulary_frequency = array("vocabulary_hash"), array("vocabulary_frequency")
        self._words_offset, self._words = array("term_words_offset"), array("term_words")
        self._digit = array("term_digit")
        self._key_hash, self._key_filter = array("key_hash"), array("key_filter")
        self._key_posting = array("key_posting")
        self._posting_term, self._posting_kind = array("posting_term"), array("posting_kind")
        self._filter_shift = np.uint64(64 - (len(self._key_filter) * 8).bit_length() + 1)
        self._graph_names = ["", *(self._terms[term] for term in array("graphs")[1:].tolist())]
        self.type_node = -1
        type_node = self.find(RDF_TYPE)
        if type_node is not None:
            self.type_node = type_node

    def matches(self, words: Words) -> list[Match]:
        """All spans of `words` that are a label of an entity."""
        found: list[Match] = []
        total = len(words.words)
        longest = self._longest_words
        for begin in range(0, total, _CHUNK) if longest else ():
            starts = min(_CHUNK, total - begin)
            end = min(total, begin + starts + longest - 1)
            first, last = _sequences(end - begin, starts, longest)
            base = words.key_starts[begin]
            text = words.key[base : words.key_ends[end - 1]]
            from_ = np.asarray(words.key_starts[begin:end])[first] - base
            to = np.asarray(words.key_ends[begin:end])[last - 1] - base
            short = to - from_ <= self._longest_key
            first, last, from_, to = first[short], last[short], from_[short], to[short]
            for place, key in self._find_keys(text, from_, to):
                match = Match(begin + int(first[place]), begin + int(last[place]), self._postings(key))
                found.append(match)
        return found

    def _find_keys(self, text: str, starts: Ints, ends: Ints) -> list[tuple[int, int]]:
        """The slices of `text` that are keys: (place of the slice, key)."""
        hashes = hash_slices(text, starts, ends)
        bits = hashes >> self._filter_shift
        passed = np.flatnonzero((self._key_filter[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8)) & 1)
        if not len(passed):
            return []
        hashes = hashes[passed]
        places = np.searchsorted(self._key_hash, hashes)
        equal = np.flatnonzero(self._key_hash[np.minimum(places, len(self._key_hash) - 1)] == hashes)
        found = []
        for place, key, wanted in zip(passed[equal].tolist(), places[equal].tolist(), hashes[equal], strict=True):
            label = text[starts[place] : ends[place]]
            while key < len(self._key_hash) and self._key_hash[key] == wanted:
                if self._keys[key] == label:
                    found.append((place, key))
                    break
                key += 1  # noqa: PLW2901 - walk on over keys of the same hash
        return found

    def _postings(self, key: int) -> tuple[Posting, ...]:
        start, end = self._key_posting[key : key + 2].tolist()
        return tuple(
            Posting(node, kind & 1, kind >> 1)
            for node, kind in zip(
                self._posting_term[start:end].tolist(), self._posting_kind[start:end].tolist(), strict=True
            )
        )

    def find(self, iri: str) -> int | None:
        """The node of an IRI, None when unknown."""
        low, high = 0, len(self._terms)
        while low < high:
            middle = (low + high) // 2
            if self._terms[middle] < iri:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._terms) and self._terms[low] == iri else None

    def key(self, node: int) -> str:
        """The string form of a node."""
        return self._terms[node]

    def label(self, node: int) -> str:
        """The label that people read."""
        return self._labels[node] or fallback_label(self._terms[node])

    def graph_name(self, graph: int) -> str:
        """IRI of a named graph, empty for the default graph."""
        return self._graph_names[graph]

    def degree(self, node: int) -> int:
        """Triples with the node as subject or object."""
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
        triples = np.unique(np.concatenate(rows)) if rows else _NO_INTS
        return Facts(
            self._subject[triples].astype(np.int64),
            self._predicate[triples].astype(np.int64),
            self._object[triples].astype(np.int64),
            self._graph[triples].astype(np.int64),
        )

    def word_ids(self, stems: Sequence[str]) -> Ints:
        """The word of each stem, -1 when unknown."""
        if not len(self._vocabulary_hash):
            return np.full(len(stems), -1, dtype=np.int64)
        hashes = hash_all(list(stems))
        places = np.minimum(np.searchsorted(self._vocabulary_hash, hashes), len(self._vocabulary_hash) - 1)
        return np.where(self._vocabulary_hash[places] == hashes, places, -1)

    def frequencies(self, words: Ints) -> Ints:
        """Triples that hold each word."""
        return self._vocabulary_frequency[words].astype(np.int64)

    def words_of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The words of each node, and how many."""
        starts = self._words_offset[nodes].astype(np.int64)
        counts = self._words_offset[nodes + 1].astype(np.int64) - starts
        total = int(counts.sum())
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._words[np.repeat(starts, counts) + within].astype(np.int64), counts

    def has_digit(self, nodes: Ints) -> NDArray[np.bool_]:
        """Whether each label holds a digit."""
        return self._digit[nodes].astype(bool)
