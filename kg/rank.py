"""Triples ranked against a text by the words they share.

Words are weighted by inverse document frequency (Spärck Jones 1972), a triple being a document. Triples that share no
word follow in a fixed order, since what decides a claim is often said in other words.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.index import Facts, Floats, GraphIndex, Ints, Row
from groundwire.kg.terms import is_literal
from groundwire.kg.text import Words
from groundwire.kg.vectors import NO_VECTORS, similarity

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
_LINK_BONUS = 12.0  # a triple between two entities of the text
_PATH_BONUS = 4.0  # half of a path of two triples between them
_UNRELATED = 0.3  # words of unrelated meaning have cosines up to about this
_PREDICATE_MEANING, _VALUE_MEANING = 3.0, 1.5
_MOST_CONTENT = 256  # words of the text whose meaning is compared
_FEW_NODES = 8  # so many are compared one after another, which is faster than a set operation
_HALF = 8.0  # the weight of shared words that makes a relevance of one half
# The same for the compiled kernel.
WEIGHTS = {
    "name": NAME_WEIGHT, "free_words": _FREE_WORDS, "length_penalty": _LENGTH_PENALTY, "prior": _PRIOR,
    "type": _TYPE_PRIOR, "quantity": _QUANTITY_PRIOR, "link": _LINK_BONUS, "path": _PATH_BONUS,
    "unrelated": _UNRELATED, "predicate_meaning": _PREDICATE_MEANING, "value_meaning": _VALUE_MEANING, "half": _HALF,
}  # fmt: skip


class Query(NamedTuple):
    """The content words of a text: word ids in rising order and their weights (same shape).

    `numbers` holds the id of each word of the text that the graph knows, by its stem; `stems` one stem a word of the
    text, empty for a stop word; `content` the words that are neither stop words nor numbers, kept only where word
    vectors are used, and `content_ids` their ids, -1 for unknown ones; `quantity` says whether the text is about
    numbers or times.
    """

    words: Ints
    weights: Floats
    numbers: dict[str, int]
    stems: list[str]
    content: list[str]
    content_ids: list[int]
    quantity: bool


def make_query(index: GraphIndex, words: Words) -> Query:
    """The content words of a text that the graph knows."""
    stems, numbers, known, weights = index.look_up(words.words)
    quantity = not _QUANTITY_WORDS.isdisjoint(words.words) or any(one[:1].isdigit() for one in stems)
    content, content_ids = [], []
    if index.vectors is not None:
        pairs = dict(zip(words.words, stems, strict=True))
        content = [word for word, reduced in pairs.items() if reduced and not reduced[0].isdigit()][:_MOST_CONTENT]
        content_ids = [numbers.get(pairs[word], -1) for word in content]
    known_words, their_weights = np.array(known, dtype=np.int64), np.array(weights, dtype=np.float64)
    return Query(known_words, their_weights, numbers, stems, content, content_ids, quantity)


def hits(query: Query, words: Ints, weights: Floats | None = None) -> Floats:
    """The weight of each word in the query (or of those given, one a word of the query), 0 for one that is not in it.

    Shape as `words`.
    """
    if not len(query.words):
        return np.zeros(len(words))
    places = query.words.searchsorted(words)
    places[places == len(query.words)] = 0
    found: Floats = (query.weights if weights is None else weights)[places] * (query.words[places] == words)
    return found


def without_names(query: Query, named: Ints) -> Floats:
    """The query's weights, with little on the words `named`, which the entities' own labels hold."""
    names = set(named.tolist())
    own = [place for place, word in enumerate(query.words.tolist()) if word in names]
    if not own:
        return query.weights
    weights = query.weights.copy()
    weights[own] *= NAME_WEIGHT
    return weights


@dataclass(frozen=True, slots=True)
class Ranking:
    """Facts with their relevance, shape (n,), and the words that they share with the query.

    `words` are those of all labels but the entities' own; `owners` (same shape) the place of the fact that holds each;
    `named` the words of the entities' labels.
    """

    scores: Floats
    words: Ints
    owners: Ints
    named: Ints

    def words_of(self, places: Sequence[int]) -> set[int]:
        """The query's words that some facts or the entities' labels hold."""
        chosen = np.zeros(len(self.scores), dtype=bool)
        chosen[places] = True
        return {*self.words[chosen[self.owners]].tolist(), *self.named.tolist()}


def rank(index: GraphIndex, query: Query, facts: Facts, nodes: Sequence[int]) -> Ranking:
    """The relevance in [0, 1] of each fact about `nodes` to the query."""
    count = len(facts)
    members = np.array(nodes, dtype=np.int64)
    named, _ = index.words_of(members)
    own = without_names(query, named)
    from_subject, to_object = _members(facts.subjects, members), _members(facts.objects, members)
    others = np.where(from_subject, facts.objects, facts.subjects)
    words, lengths = index.words_of(np.concatenate((facts.predicates, others)))
    weights = hits(query, words, own)
    hit = weights.nonzero()[0]
    owners = np.arange(2 * count).repeat(lengths)[hit]
    shared = np.bincount(owners, weights=weights[hit], minlength=2 * count)
    raw = shared[:count] + shared[count:] / (1.0 + _LENGTH_PENALTY * np.maximum(0, lengths[count:] - _FREE_WORDS))
    # One of many values of a predicate says less than an only value.
    about = np.where(from_subject, facts.subjects, facts.objects)
    pairs = ((about << 32) + facts.predicates).tolist()
    sizes = Counter(pairs)
    raw += _PRIOR / np.array([sizes[pair] for pair in pairs])
    if len(nodes) > 1:
        raw += _on_paths(index, about, others, facts.predicates) * _PATH_BONUS
    if index.vectors is not None:
        raw += _meaning(index, query, facts.predicates, others, named)
    raw += (facts.predicates == index.type_node) * _TYPE_PRIOR
    if query.quantity:
        raw += index.has_digit(others) * _QUANTITY_PRIOR
    raw += (from_subject & to_object & (facts.subjects != facts.objects)) * _LINK_BONUS
    return Ranking(raw / (raw + _HALF), words[hit], owners % max(1, count), named)


def _on_paths(index: GraphIndex, about: Ints, others: Ints, predicates: Ints) -> NDArray[np.bool_]:
    """Which facts are half of a path of two triples between two of the entities. Shape as `about`.

    The node in the middle is no literal and not reached by rdf:type: all of one class would be on paths.
    """
    reached: dict[int, int] = {}
    middles: set[int] = set()
    for one, other, predicate in zip(about.tolist(), others.tolist(), predicates.tolist(), strict=True):
        if predicate != index.type_node and one != other and reached.setdefault(other, one) != one:
            middles.add(other)
    middles = {node for node in middles if not is_literal(index.key(node))}
    if not middles:
        return np.zeros(len(others), dtype=bool)
    found: NDArray[np.bool_] = np.isin(others, np.fromiter(middles, np.int64, len(middles)))
    found &= predicates != index.type_node
    return found


def _meaning(index: GraphIndex, query: Query, predicates: Ints, others: Ints, named: Ints) -> Floats:
    """How near each fact's predicate and value are to some word of the text in meaning. Shape as `predicates`."""
    assert index.vectors is not None
    names = set(named.tolist())
    words = [word for word, number in zip(query.content, query.content_ids, strict=True) if number not in names]
    vectors = index.vectors.words(words)
    near = similarity(index.label_vectors(np.concatenate((predicates, others))), vectors).astype(np.float64)
    near = np.maximum(0.0, near - _UNRELATED) / (1.0 - _UNRELATED)
    return _PREDICATE_MEANING * near[: len(predicates)] + _VALUE_MEANING * near[len(predicates) :]


def _members(column: Ints, nodes: Ints) -> NDArray[np.bool_]:
    if len(nodes) > _FEW_NODES:
        return np.isin(column, nodes)
    found: NDArray[np.bool_] = column == nodes[0]
    for node in nodes[1:]:
        found |= column == node
    return found


def best(index: GraphIndex, query: Query, nodes: Sequence[int], top_k: int) -> tuple[list[Row], list[float], set[int]]:
    """The `top_k` facts about `nodes` that rank highest, best first and equal ones in canonical order.

    Returns them as rows, with their scores, and the query's words that they or the nodes' labels hold.
    """
    if not nodes or top_k <= 0:
        return [], [], set()
    if index.kernel is not None:
        vectors = index.vectors.words(query.content) if index.vectors is not None else NO_VECTORS
        asked = query.words, query.weights, query.quantity, query.content_ids, vectors
        return index.kernel.best(list(nodes), *asked, top_k)
    facts = index.facts(nodes)
    if not len(facts):
        return [], [], set()
    ranking = rank(index, query, facts, nodes)
    order: list[int] = (-ranking.scores).argsort(kind="stable")[:top_k].tolist()
    columns = (facts.subjects, facts.predicates, facts.objects, facts.graphs)
    rows = list(zip(*(column[order].tolist() for column in columns), strict=True))
    return rows, ranking.scores[order].tolist(), ranking.words_of(order)
