"""What a text and an entity have in common: words of the text in the entity's triples and description."""

from collections.abc import Sequence
from math import fsum

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.index import GraphIndex, Ints
from groundwire.kg.rank import NAME_WEIGHT, Query


def shared_words(index: GraphIndex, query: Query, nodes: Sequence[int]) -> list[float]:
    """For each node, the weight of the query's words that its triples or its description hold, each word once.

    Words of the node's own label count little. The sums don't depend on how the index numbers words.
    """
    if not len(query.words) or not nodes:
        return [0.0] * len(nodes)
    # Exactly rounded sums, so that the order of the words, which differs between indexes, changes nothing.
    if index.kernel is not None:
        return [fsum(row) for row in index.kernel.shared(list(nodes), query.words, query.weights)]
    members = np.asarray(nodes, dtype=np.int64)
    order = np.argsort(members)
    facts = index.facts(nodes)
    owners, around = [], []
    for side, other in ((facts.subjects, facts.objects), (facts.objects, facts.subjects)):
        place = np.minimum(np.searchsorted(members[order], side), len(members) - 1)
        owner = order[place]
        mine = np.flatnonzero(members[owner] == side)
        owners += [owner[mine], owner[mine]]
        around += [facts.predicates[mine], other[mine]]
    owner = np.concatenate(owners)
    words, counts = index.words_of(np.concatenate(around))
    owner = np.repeat(owner, counts)
    described, about = index.about(members)
    shares = np.zeros((len(members), len(query.words)), dtype=bool)
    _mark(shares, query, owner, words)
    _mark(shares, query, np.repeat(np.arange(len(members)), about), described)
    named = np.zeros_like(shares)
    own, own_counts = index.words_of(members)
    _mark(named, query, np.repeat(np.arange(len(members)), own_counts), own)
    weights = np.where(named, query.weights * NAME_WEIGHT, query.weights)
    return [fsum(row[said].tolist()) for row, said in zip(weights, shares, strict=True)]


def _mark(shares: NDArray[np.bool_], query: Query, owners: Ints, words: Ints) -> None:
    """Mark the query's words among `words`, each at its owner's row."""
    places = query.words.searchsorted(words)
    places[places == len(query.words)] = 0
    known = query.words[places] == words
    shares[owners[known], places[known]] = True
