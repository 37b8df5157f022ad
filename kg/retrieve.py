"""The way of a text through the graph: words, mentions, triples ranked, coverage. One for every index."""

from collections.abc import Sequence

import numpy as np

from groundwire.kg.index import Facts, GraphIndex
from groundwire.kg.link import link
from groundwire.kg.rank import best_first, make_query, relevance
from groundwire.kg.stems import stem
from groundwire.kg.terms import make_term
from groundwire.kg.text import Words, split
from groundwire.kg.types import Evidence, GraphInfo, Grounding, Mention, Term
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
        return [mention for mention, _ in link(self.index, text, split(text))]

    def retrieve(self, text: str, entities: Sequence[str], top_k: int) -> list[Evidence]:
        """Rank the triples of `entities` (IRIs; unknown ones are passed over) against `text`; at most `top_k`."""
        facts, order, scores = self._ranked(split(text), self._nodes(entities), top_k)
        return self._evidence(facts, order, scores)

    def ground(self, text: str, top_k: int, entities: Sequence[str] | None = None) -> Grounding:
        """Link `text` (unless `entities` are given), retrieve at most `top_k` triples, and measure the coverage."""
        words = split(text)
        if entities is None:
            linked = link(self.index, text, words)
            mentions = tuple(mention for mention, _ in linked)
            nodes = list(dict.fromkeys(candidates[0] for _, candidates in linked))
        else:
            mentions, nodes = (), self._nodes(entities)
        facts, order, scores = self._ranked(words, nodes, top_k)
        coverage = self._coverage(words, mentions, facts, order) if nodes else 0.0
        return Grounding(mentions, tuple(self._evidence(facts, order, scores)), coverage)

    def close(self) -> None:
        """Release files and connections."""
        self.index.close()

    def _nodes(self, entities: Sequence[str]) -> list[int]:
        found = (self.index.find(iri) for iri in dict.fromkeys(entities))
        return [node for node in found if node is not None]

    def _ranked(self, words: Words, nodes: Sequence[int], top_k: int) -> tuple[Facts, list[int], list[float]]:
        facts = self.index.facts(nodes)
        if not len(facts) or top_k <= 0:
            return facts, [], []
        scores = relevance(self.index, make_query(self.index, words), facts, nodes)
        order = best_first(scores, top_k)
        return facts, order, scores[order].tolist()

    def _evidence(self, facts: Facts, order: Sequence[int], scores: Sequence[float]) -> list[Evidence]:
        terms: dict[int, Term] = {}

        def term(node: int) -> Term:
            found = terms.get(node)
            if found is None:
                found = terms[node] = make_term(self.index.key(node), self.index.label(node))
            return found

        evidence = []
        for place, score in zip(order, scores, strict=True):
            s, p, o = (
                term(int(facts.subjects[place])),
                term(int(facts.predicates[place])),
                term(int(facts.objects[place])),
            )
            graph = self.index.graph_name(int(facts.graphs[place]))
            evidence.append(Evidence(s, p, o, graph, verbalise(s.label, p.label, o.label), score))
        return evidence

    def _coverage(self, words: Words, mentions: Sequence[Mention], facts: Facts, order: Sequence[int]) -> float:
        stems = [stem(word) for word in words.words]
        content = [place for place, reduced in enumerate(stems) if reduced]
        if not content:
            return 0.0
        ids = self.index.word_ids([stems[place] for place in content])
        places = np.asarray(order, dtype=np.int64)
        nodes = np.unique(np.concatenate([facts.subjects[places], facts.predicates[places], facts.objects[places]]))
        said, _ = self.index.words_of(nodes)
        covered = np.isin(ids, said) & (ids >= 0)
        starts = np.asarray(words.starts, dtype=np.int64)[content]
        for mention in mentions:
            covered |= (starts >= mention.start) & (starts < mention.end)
        return float(np.count_nonzero(covered)) / len(content)
