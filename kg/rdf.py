"""A live graph as an index: any rdflib `Graph` or `Dataset` in any store, or a SPARQL endpoint. The reference.

Labels and word counts are taken once, when the retriever is made and at `refresh`; triples are read from the graph at
each request, pattern by pattern, never with SPARQL on an rdflib graph. One request may take so long of the store, and
answers of a remote store are kept for a while.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import cast

import rdflib

from groundwire.kg.errors import GraphError
from groundwire.kg.live_index import RdflibIndex
from groundwire.kg.pattern_cache import PatternCache
from groundwire.kg.retrieve import IndexRetriever
from groundwire.kg.scan import Scan
from groundwire.kg.settings import GraphSettings
from groundwire.kg.source import GraphSource, LiveOptions, QuadSource
from groundwire.kg.terms import Quad
from groundwire.kg.time_limit import time_limit
from groundwire.kg.types import Evidence, Grounding, Mention
from groundwire.kg.vectors import WordVectors, with_vectors

_MOST_CACHED = 4096
_log = logging.getLogger("groundwire.kg")


class RdflibRetriever(IndexRetriever):
    """A `Retriever` on a live graph. `hashes` are the sources' hashes where the caller knows them.

    It fuses entities as the settings say, and never infers: `open_graph` makes a copy with what `entailment` asks for.

    Every method raises `GraphTimeoutError` when the store takes longer than `options.request_seconds`, and
    `GraphUnavailableError` when it fails; only a store outside this process' memory is watched so.
    """

    def __init__(
        self,
        graph: rdflib.Graph | QuadSource,
        settings: GraphSettings | None = None,
        hashes: Mapping[str, str] | None = None,
        vectors: WordVectors | None = None,
        options: LiveOptions | None = None,
    ) -> None:
        self._source = graph if isinstance(graph, QuadSource) else GraphSource(graph)
        self._options = options or LiveOptions()
        self._settings = with_vectors(settings or GraphSettings(), vectors)
        self._vectors = vectors
        entries = self._options.cache_entries
        if entries is None:
            entries = _MOST_CACHED if self._source.remote else 0
        self._cache: PatternCache[tuple[str, str], set[Quad]] = PatternCache(entries, self._options.cache_seconds)
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._hashes = hashes
        self._hashed: str | None = None
        index = self._scan()
        self._hashed = index.content
        super().__init__(index)
        if self._options.refresh_seconds > 0:
            threading.Thread(target=self._refresh_again, daemon=True, name="graph-refresh").start()

    def link(self, text: str) -> list[Mention]:
        """Find the mentions in `text`, in order of their start, none overlapping another."""
        with time_limit(self._options.request_seconds):
            return IndexRetriever(self.index).link(text)

    def retrieve(self, text: str, entities: Sequence[str], top_k: int) -> list[Evidence]:
        """Rank the triples of `entities` (IRIs; unknown ones are passed over) against `text`; at most `top_k`."""
        with time_limit(self._options.request_seconds):
            return IndexRetriever(self.index).retrieve(text, entities, top_k)

    def ground(self, text: str, top_k: int, entities: Sequence[str] | None = None) -> Grounding:
        """Link `text` (unless `entities` are given), retrieve at most `top_k` triples, and measure the coverage."""
        with time_limit(self._options.request_seconds):
            return IndexRetriever(self.index).ground(text, top_k, entities)

    def refresh(self) -> bool:
        """Read labels and word statistics again, forget kept answers; returns whether the graph had changed.

        Requests go on meanwhile with what was read before; each sees either the old or the new, whole. `info.version`
        changes when the content did. Raises `GraphError`, and goes on with the old, when the graph can't be read.
        """
        with self._refreshing:
            fresh = self._scan()
            changed = fresh.content != cast(RdflibIndex, self.index).content
            if changed:
                self.index = fresh
            self._cache.clear()
            return changed

    def close(self) -> None:
        """Stop the refreshing."""
        self._closed.set()
        self._source.close()

    def _scan(self) -> RdflibIndex:
        with time_limit(self._options.scan_seconds):
            scan = Scan(self._source, self._settings, self._hashes, self._hashed)
        return RdflibIndex(scan, self._settings, self._vectors, self._source, self._cache)

    def _refresh_again(self) -> None:
        while not self._closed.wait(self._options.refresh_seconds):
            try:
                changed = self.refresh()
            except GraphError as error:
                _log.warning("the graph was not read again: %s", error)
            else:
                if changed:
                    _log.info("the graph changed: version %s", self.info.version)
