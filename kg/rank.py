"""Triples ranked against a text by the words they share.

Words are weighted by inverse document frequency (Spärck Jones 1972), a triple being a document. Triples that share no
word follow in a fixed order, since what decides a claim is often said in other words.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.index import Facts, GraphIndex, Ints
from groundwire.kg.stems import stem
from groundwire.kg.text import Words

Floats = NDArray[np.float64]

_QUANTITY_WORDS = frozenset(
    """year years month months day days date century decade ago before after than more less least most older younger
    longer shorter over under hour hours minute minutes long old tall age many early late earlier later number times
    million billion hundred thousand percent half twice""".split()  # noqa: SIM905
)
NAME_WEIGHT = 0.25  # the words of the entity's own name say little about which of its triples is meant
_FREE_WORDS = 6  # an object of more words than this is likely to share some by chance
_LENGTH_PENALTY = 0.08
_PRIOR = 0.4
_TYPE_PRIOR = 0.35
_QUANTITY_PRIOR = 0.8
_LINK_BONUS = 12.0
_HALF = 8.0  # the weight of shared words that makes a relevance of one half


@dataclass(frozen=True, slots=True)
class Query:
    """The content words of a text: word ids in rising order and their weights (same shape); whether it counts."""

    words: Ints
    weights: Floats
    quantity: bool


def inverse_frequency(index: GraphIndex, words: Ints) -> Floats:
    """log(1 + N / (1 + n)) for the number n of the graph's N triples that hold each word. Shape as `words`."""
    total = max(1, index.info.triples)
    return np.log1p(total / (1.0 + index.frequencies(words)))


def make_query(index: GraphIndex, words: Words) -> Query:
    """The content words of a text that the graph knows."""
    stems = dict.fromkeys(filter(None, map(stem, words.words)))
    ids = np.unique(index.word_ids(list(stems)))
    ids = ids[ids >= 0]
    quantity = any(word[0].isdigit() or word in _QUANTITY_WORDS or stem(word).isdigit() for word in words.words)
    return Query(ids, inverse_frequency(index, ids), quantity)


def hits(query: Query, words: Ints) -> Floats:
    """The weight of each word in the query, 0 for one that is not in it. Shape as `words`."""
    if not len(query.words):
        return np.zeros(len(words))
    places = np.minimum(np.searchsorted(query.words, words), len(query.words) - 1)
    return np.where(query.words[places] == words, query.weights[places], 0.0)


def without_names(index: GraphIndex, query: Query, nodes: Collection[int]) -> Query:
    """The query with little weight on the words of the nodes' own labels."""
    named, _ = index.words_of(np.fromiter(nodes, np.int64, len(nodes)))
    own = np.isin(query.words, named)
    return Query(query.words, np.where(own, query.weights * NAME_WEIGHT, query.weights), query.quantity)


def shared_weight(index: GraphIndex, query: Query, nodes: Ints) -> tuple[Floats, Ints]:
    """For each node, the weight of the query's words in its label, and the number of the label's words."""
    words, counts = index.words_of(nodes)
    owners = np.repeat(np.arange(len(nodes)), counts)
    shared: Floats = np.bincount(owners, weights=hits(query, words), minlength=len(nodes)).astype(np.float64)
    return shared, counts


def relevance(index: GraphIndex, query: Query, facts: Facts, nodes: Collection[int]) -> Floats:
    """The relevance in [0, 1] of each fact about `nodes` to the query. Shape (len(facts),)."""
    if not len(facts):
        return np.zeros(0)
    query = without_names(index, query, nodes)
    members = np.fromiter(nodes, np.int64, len(nodes))
    from_subject = np.isin(facts.subjects, members)
    to_object = np.isin(facts.objects, members)
    others = np.where(from_subject, facts.objects, facts.subjects)
    on_predicate, _ = shared_weight(index, query, facts.predicates)
    on_other, lengths = shared_weight(index, query, others)
    raw = on_predicate + on_other / (1.0 + _LENGTH_PENALTY * np.maximum(0, lengths - _FREE_WORDS))
    # One of many values of a predicate says less than an only value.
    pairs = np.stack([np.where(from_subject, facts.subjects, facts.objects), facts.predicates])
    _, group, sizes = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    raw += _PRIOR / sizes[group.reshape(-1)]
    raw += np.where(facts.predicates == index.type_node, _TYPE_PRIOR, 0.0)
    if query.quantity:
        raw += np.where(index.has_digit(others), _QUANTITY_PRIOR, 0.0)
    raw += np.where(from_subject & to_object & (facts.subjects != facts.objects), _LINK_BONUS, 0.0)
    return raw / (raw + _HALF)


def best_first(scores: Floats, top_k: int) -> list[int]:
    """Places of the `top_k` highest scores, best first; equal ones in the order in which they stand."""
    return np.argsort(-scores, kind="stable")[:top_k].tolist()  # type: ignore[no-any-return]
