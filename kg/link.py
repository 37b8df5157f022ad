"""Mentions: which spans of a text name which entities.

All label matches of a text compete; longer ones win, then better ones, then earlier ones. Where a label belongs to
several entities, the words around it choose: those that an entity's triples share with the text.
"""

import math
from collections.abc import Sequence

import numpy as np

from groundwire.kg.index import CASED, LABEL, GraphIndex, Match, Posting
from groundwire.kg.rank import Query, make_query, without_names
from groundwire.kg.stems import STOP_WORDS
from groundwire.kg.text import Words
from groundwire.kg.types import Candidate, Mention

_LABEL_SCORE, _ALTERNATIVE_SCORE = 0.97, 0.93
_LOWEST_SCORE = 0.25
_MOST_CANDIDATES = 64
_SHOWN_CANDIDATES = 16


def link(index: GraphIndex, text: str, words: Words) -> list[tuple[Mention, tuple[int, ...]]]:
    """The mentions in `text` in order of their start, none overlapping another, each with its candidates' nodes."""
    found = []
    has_capitals = text != text.lower()
    for match in index.matches(words):
        scores = [_surface_score(text, words, match, posting, has_capitals) for posting in match.postings]
        best = max(scores, default=0.0)
        if best >= _LOWEST_SCORE:
            found.append((match, scores, best))
    found.sort(key=lambda item: (item[0].first - item[0].last, -item[2], item[0].first))
    taken = bytearray(len(words.words))
    chosen = []
    for item in found:
        match = item[0]
        if not any(taken[match.first : match.last]):
            taken[match.first : match.last] = b"\1" * (match.last - match.first)
            chosen.append(item)
    chosen.sort(key=lambda item: item[0].first)
    query: Query | None = None
    mentions = []
    for match, scores, _ in chosen:
        if len(match.postings) > 1 and query is None:
            query = make_query(index, words)
        mentions.append(_mention(index, text, words, (match, scores), query))
    return mentions


def _surface_score(text: str, words: Words, match: Match, posting: Posting, has_capitals: bool) -> float:
    """How well the span as written fits a label: its kind, its case, and how much of a name it is."""
    start, end = words.starts[match.first], words.ends[match.last - 1]
    span = text[start:end]
    score = _LABEL_SCORE if posting.kind == LABEL else _ALTERNATIVE_SCORE
    parts = words.words[match.first : match.last]
    span_cased = span != span.lower()
    letters = sum(map(len, parts))
    if all(part in STOP_WORDS for part in parts):
        # "It", "The Who": a name only when written as one, away from the start of a sentence.
        if posting.shape != CASED or not span_cased or (len(parts) == 1 and _starts_sentence(text, start)):
            return 0.0
        score *= 0.5 if len(parts) == 1 else 0.8
    elif "".join(parts).isdigit():
        score *= 0.3
    elif letters <= 2 and span.isascii():
        score *= 0.5 if span_cased else 0.0
    if posting.shape == CASED and not span_cased and has_capitals and any(part.isalpha() for part in parts):
        score *= 0.3 if len(parts) == 1 else 0.75
    elif len(parts) == 1 and span_cased and _starts_sentence(text, start) and not _all_capitals(span):
        score *= 0.85
    return score


def _all_capitals(span: str) -> bool:
    return span == span.upper() and len(span) > 1


def _starts_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 16) : start].rstrip(" \t\n\"'“”‘’(*>#-")
    return not before or before[-1] in ".!?:;"


def _mention(
    index: GraphIndex, text: str, words: Words, candidates: tuple[Match, Sequence[float]], query: Query | None
) -> tuple[Mention, tuple[int, ...]]:
    match, scores = candidates
    start, end = words.starts[match.first], words.ends[match.last - 1]
    postings = match.postings[:_MOST_CANDIDATES]
    if len(postings) == 1:
        shares = [1.0]
    else:
        assert query is not None
        shares = context_shares(index, query, [posting.node for posting in postings])
    ranked = sorted(
        (
            (score * share, index.key(posting.node), posting.node)
            for posting, score, share in zip(postings, scores[:_MOST_CANDIDATES], shares, strict=True)
        ),
        key=lambda item: (-item[0], item[1]),
    )[:_SHOWN_CANDIDATES]
    shown = tuple(Candidate(key, index.label(node), score) for score, key, node in ranked)
    return Mention(start, end, text[start:end], shown), tuple(node for _, _, node in ranked)


def context_shares(index: GraphIndex, query: Query, nodes: Sequence[int]) -> list[float]:
    """How likely each of the nodes is the one that the text speaks of, given that one of them is: shares of 1.

    The evidence is the weight of the text's words in the words of a node's triples; the degree is a weak prior.
    """
    weights = []
    for node in nodes:
        facts = index.facts([node])
        own = without_names(index, query, [node])
        around = np.concatenate([facts.predicates, facts.objects, facts.subjects])
        seen, _ = index.words_of(np.unique(around))
        # An exact sum: the order of the words differs from index to index.
        shared = math.fsum(own.weights[np.isin(own.words, seen)].tolist())
        weights.append((1.0 + shared) ** 2 * (1.0 + 0.1 * math.log1p(index.degree(node))))
    total = math.fsum(weights)
    return [weight / total for weight in weights]
