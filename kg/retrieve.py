"""The way of a text through the graph: words, mentions, triples ranked, coverage. One for every index."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress

from groundwire.kg.index import Facts, GraphIndex
from groundwire.kg.link import link
from groundwire.kg.rank import Query, best_first, make_query, rank
from groundwire.kg.text import Words, split
from groundwire.kg.types import Evidence, GraphInfo, Grounding, Mention
from groundwire.kg.verbalise import verbalise


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
        words = split(text)
        return [mention for mention, _ in link(self.index, text, words, make_query(self.index, words))]

    def retrieve(self, text: str, entities: Sequence[str], top_k: int) -> list[Evidence]:
        """Rank the triples of `entities` (IRIs; unknown ones are passed over) against `text`; at most `top_k`."""
        return self._evidence(*self._ranked(make_query(self.index, split(text)), self._nodes(entities), top_k)[:3])

    def ground(self, text: str, top_k: int, entities: Sequence[str] | None = None) -> Grounding:
        """Link `text` (unless `entities` are given), retrieve at most `top_k` triples, and measure the coverage."""
        words = split(text)
        query = make_query(self.index, words)
        if entities is None:
            linked = link(self.index, text, words, query)
            mentions = tuple(mention for mention, _ in linked)
            nodes = list(dict.fromkeys(candidates[0] for _, candidates in linked))
        else:
            mentions, nodes = (), self._nodes(entities)
        facts, order, scores, said = self._ranked(query, nodes, top_k)
        coverage = _coverage(words, query, mentions, said) if nodes else 0.0
        return Grounding(mentions, tuple(self._evidence(facts, order, scores)), coverage)

    def close(self) -> None:
        """Release files and connections."""
        self.index.close()

    def _nodes(self, entities: Sequence[str]) -> list[int]:
        found = (self.index.find(iri) for iri in dict.fromkeys(entities))
        return [node for node in found if node is not None and self.index.degree(node)]

    def _ranked(self, query: Query, nodes: Sequence[int], top_k: int) -> tuple[Facts, list[int], list[float], set[int]]:
        """The facts of the nodes, the places of the best, their scores, and the words that these and the nodes hold."""
        facts = self.index.facts(nodes)
        if not len(facts) or top_k <= 0:
            return facts, [], [], set()
        ranking = rank(self.index, query, facts, nodes)
        order = best_first(ranking.scores, top_k)
        return facts, order, ranking.scores[order].tolist(), ranking.words_of(order)

    def _evidence(self, facts: Facts, order: Sequence[int], scores: Sequence[float]) -> list[Evidence]:
        term, graph_name = self.index.term, self.index.graph_name
        columns = (facts.subjects, facts.predicates, facts.objects, facts.graphs)
        rows = zip(*(column[order].tolist() for column in columns), strict=True) if order else ()
        evidence = []
        for (subject, predicate, obj, graph), score in zip(rows, scores, strict=True):
            s, p, o = term(subject), term(predicate), term(obj)
            said = verbalise(s.label, p.label, o.label)
            conflicting = self.index.conflicting(subject, predicate)
            evidence.append(Evidence(s, p, o, graph_name(graph), said, score, conflicting))
        return evidence


def _coverage(words: Words, query: Query, mentions: Sequence[Mention], said: set[int]) -> float:
    covered = [query.numbers.get(reduced, -1) in said for reduced in query.stems]
    for mention in mentions:
        first, last = bisect_left(words.starts, mention.start), bisect_left(words.starts, mention.end)
        covered[first:last] = [True] * (last - first)
    content = len(query.stems) - query.stems.count("")
    return sum(map(bool, compress(query.stems, covered))) / content if content else 0.0
