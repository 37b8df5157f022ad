"""What a text and an entity have in common: words of the text in the entity's triples and description."""

from collections.abc import Sequence

import numpy as np

from groundwire.kg.index import GraphIndex
from groundwire.kg.rank import NAME_WEIGHT, Query, hits


def shared_words(index: GraphIndex, query: Query, nodes: Sequence[int]) -> list[float]:
    """For each node, the weight of the query's words that its triples or its description hold, each word once.

    Words of the node's own label count little. The sums don't depend on how the index numbers words.
    """
    if not len(query.words) or not nodes:
        return [0.0] * len(nodes)
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
    owner = np.concatenate([owner, np.repeat(np.arange(len(members)), about)])
    words = np.concatenate([words, described])
    known = hits(query, words) > 0
    pairs = np.unique(np.stack([owner[known], words[known]]), axis=1)
    weights = hits(query, pairs[1])
    own, own_counts = index.words_of(members)
    own_pairs = np.repeat(np.arange(len(members)), own_counts) * (1 << 32) + own
    weights = np.where(np.isin(pairs[0] * (1 << 32) + pairs[1], own_pairs), weights * NAME_WEIGHT, weights)
    # Sum in the order of the weights, which is the same in every index.
    ordered = np.lexsort((weights, pairs[0]))
    sums: list[float] = np.bincount(pairs[0][ordered], weights=weights[ordered], minlength=len(members)).tolist()
    return sums
