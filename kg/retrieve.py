"""The way of a text through the graph: words, mentions, triples ranked, coverage. One for every index."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress

from groundwire.kg.index import GraphIndex
from groundwire.kg.link import link
from groundwire.kg.rank import Query, best, make_query
from groundwire.kg.text import Words, split
from groundwire.kg.types import Evidence, GraphInfo, Grounding, Mention


def _plain(text: str) -> str:
    """The text as a `str` itself, as compiled code asks for: it may be of a subclass, such as rdflib's or numpy's."""
    return text if type(text) is str else str.__str__(text)


class IndexRetriever:
    """A `Retriever` on any `GraphIndex`."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index

    @property
    def info(self) -> GraphInfo:
        """The graph in numbers."""
        return self.index.info

    def link(self, text: str) -> list[Mention]:
        """Find the mentions in `text`, in order of their start, none overlapping another."""
        text = _plain(text)
        words = split(text)
        return [mention for mention, _ in link(self.index, text, words, make_query(self.index, words))]

    def retrieve(self, text: str, entities: Sequence[str], top_k: int) -> list[Evidence]:
        """Rank the triples of `entities` (IRIs; unknown ones are passed over) against `text`; at most `top_k`."""
        query = make_query(self.index, split(_plain(text)))
        rows, scores, _ = best(self.index, query, self._nodes(entities), top_k)
        return self.index.evidence(rows, scores)

    def ground(self, text: str, top_k: int, entities: Sequence[str] | None = None) -> Grounding:
        """Link `text` (unless `entities` are given), retrieve at most `top_k` triples, and measure the coverage."""
        text = _plain(text)
        words = split(text)
        query = make_query(self.index, words)
        if entities is None:
            linked = link(self.index, text, words, query)
            mentions = tuple(mention for mention, _ in linked)
            nodes = list(dict.fromkeys(candidates[0] for _, candidates in linked))
        else:
            mentions, nodes = (), self._nodes(entities)
        rows, scores, said = best(self.index, query, nodes, top_k)
        coverage = _coverage(words, query, mentions, said) if nodes else 0.0
        return Grounding(mentions, tuple(self.index.evidence(rows, scores)), coverage)

    def close(self) -> None:
        """Release files and connections."""
        self.index.close()

    def _nodes(self, entities: Sequence[str]) -> list[int]:
        found = (self.index.find(_plain(iri)) for iri in dict.fromkeys(entities))
        return [node for node in found if node is not None and self.index.degree(node)]


def _coverage(words: Words, query: Query, mentions: Sequence[Mention], said: set[int]) -> float:
    covered = [query.numbers.get(reduced, -1) in said for reduced in query.stems]
    for mention in mentions:
        first, last = bisect_left(words.starts, mention.start), bisect_left(words.starts, mention.end)
        covered[first:last] = [True] * (last - first)
    content = len(query.stems) - query.stems.count("")
    return sum(map(bool, compress(query.stems, covered))) / content if content else 0.0
