"""Mentions: which spans of a text name which entities, and how sure that is.

Every span that may be a label gets a probability from how it is written; then from what else the text says: an entity
whose triples share words with the text is likelier, all the more where a label belongs to several. Spans compete for
the words of the text, and those that explain most of it best win.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from operator import mul

from groundwire.kg.context import shared_words
from groundwire.kg.index import GraphIndex, Posting
from groundwire.kg.match import Span, find_spans
from groundwire.kg.rank import Query
from groundwire.kg.surface import FEATURES, Written, features, written_spans
from groundwire.kg.text import Words
from groundwire.kg.types import Candidate, Mention

_LOWEST_SCORE = 0.28
_SHORTEST_RESPACED = 5  # letters: "in C" is not "Inc"
_MOST_CANDIDATES = 64
_SHOWN_CANDIDATES = 16
_CERTAIN = 0.93  # a span of one candidate that is written so plainly needs no context

# Log odds, fitted by scripts/fit_kg_scores.py. Some are held back by hand: what opens a sentence is often the topic in
# the data, and not elsewhere; a stop word or a number may be a name, but those of the data hardly are. The bias is
# above the fitted one (0.03), since of the readings that were fitted only the best of each place become mentions.
_BIAS = 0.9
_WEIGHTS = {
    "alternative": -1.0,
    "part": -1.8,
    "part_missing": -1.0,
    "part_shared": -0.3,
    "part_own": -0.6,
    "part_first": 0.05,
    "edits": 0.5,
    "edits_short": -1.2,
    "respaced": 0.0,
    "single": -1.05,
    "lower": -1.75,
    "lower_single": -0.45,
    "lower_changed": -1.8,
    "lower_address": -2.5,
    "shouted": -0.8,
    "opening": 0.5,
    "common": -0.6,
    "common_lower": 0.0,
    "stop": -3.0,
    "number": -3.0,
    "short": -0.7,
    "glued": -1.2,
    "address": -1.6,
    "letters": 0.9,
}
_VECTOR = [_WEIGHTS[name] for name in FEATURES]
_CONTEXT_WEIGHT = 0.15  # of the weight of shared words: an entity that the text is about is likelier named
# Offset and slope on the log odds that a span is a name at all (Platt 1999), fitted by scripts/fit_kg_calibration.py on
# the mentions that are made: among these more are right than among the readings that the weights were fitted on.
_CALIBRATION = 0.63, 0.91
CONTEXT_EXPECTED = 2.0
CONTEXT_LARGEST = 12.0
_CHOICE_WEIGHT = 0.3  # of the same, between entities of one name
_DEGREE_WEIGHT = 0.15


@dataclass(slots=True)
class _Reading:
    """One span with its candidates: (log odds from writing, posting)."""

    first: int
    last: int
    written: Written
    candidates: list[tuple[float, Posting]]
    best: float


def link(index: GraphIndex, text: str, words: Words, query: Query) -> list[tuple[Mention, tuple[int, ...]]]:
    """The mentions in `text` in order of their start, none overlapping another, each with its candidates' nodes."""
    readings = _choose(_readings(index, text, words), len(words.words))
    unsure = [r for r in readings if len(r.candidates) > 1 or _probability(r.best) < _CERTAIN]
    context: dict[int, float] = {}
    if unsure:
        nodes = sorted({posting.node for reading in unsure for _, posting in reading.candidates}, key=index.key)
        context = dict(zip(nodes, shared_words(index, query, nodes), strict=True))
    mentions = []
    for reading in readings:
        found = _mention(index, text, words, reading, context)
        if found is not None:
            mentions.append(found)
    return mentions


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + exp(-log_odds))


def _readings(index: GraphIndex, text: str, words: Words) -> list[_Reading]:
    spans: dict[tuple[int, int], list[Span]] = {}
    for span in find_spans(index, text, words):
        spans.setdefault((span.first, span.last), []).append(span)
    if not spans:
        return []
    capitals = text != text.lower()
    readings = []
    places = list(spans)
    for place, written in zip(places, written_spans(index, text, words, places), strict=True):
        best: dict[int, tuple[float, Posting]] = {}
        for span in spans[place]:
            label = index.key_text(span.key)
            if written.letters < _SHORTEST_RESPACED and _respaced(span, written, label):
                continue
            odds: dict[tuple[int, int], float] = {}
            for posting in index.postings(span.key)[:_MOST_CANDIDATES]:
                kind = (posting.kind, posting.shape)
                if kind not in odds:
                    values = features(written, span, label, posting, capitals)
                    odds[kind] = _BIAS + sum(map(mul, _VECTOR, values))
                if posting.node not in best or odds[kind] > best[posting.node][0]:
                    best[posting.node] = odds[kind], posting
        candidates = list(best.values())
        if len(candidates) > 1:
            candidates.sort(key=lambda item: (-item[0], index.key(item[1].node)))
            del candidates[_MOST_CANDIDATES:]
        if candidates:
            readings.append(_Reading(*place, written, candidates, candidates[0][0]))
    return readings


def _respaced(span: Span, written: Written, label: str) -> bool:
    text = " ".join(written.words)
    return not span.edits and (f" {text} " not in f" {label} " and " " in text if span.part else text != label)


def _choose(readings: list[_Reading], count: int) -> list[_Reading]:
    """Readings that don't overlap, those first that explain most letters with most certainty."""
    readings = [r for r in readings if _probability(r.best) >= _LOWEST_SCORE / 3]
    readings.sort(key=lambda r: (-_probability(r.best) * r.written.letters, r.first))
    taken = bytearray(count)
    chosen = []
    for reading in readings:
        if not any(taken[reading.first : reading.last]):
            taken[reading.first : reading.last] = b"\1" * (reading.last - reading.first)
            chosen.append(reading)
    return sorted(chosen, key=lambda r: r.first)


def _mention(
    index: GraphIndex, text: str, words: Words, reading: _Reading, context: dict[int, float]
) -> tuple[Mention, tuple[int, ...]] | None:
    candidates = reading.candidates
    if candidates[0][1].node in context:
        scores = _with_context(index, candidates, context)
    else:
        scores = [_probability(candidates[0][0])]
    if len(scores) == 1:
        node = candidates[0][1].node
        ranked = [(scores[0], index.key(node), node)]
    else:
        ranked = _ranked(index, scores, candidates)
    if ranked[0][0] < _LOWEST_SCORE:
        return None
    start, end = words.starts[reading.first], words.ends[reading.last - 1]
    scale = _calibration(sum(scores))
    shown = tuple(Candidate(key, index.label(node), score * scale, index.same_as(node)) for score, key, node in ranked)
    return Mention(start, end, text[start:end], shown), tuple(node for _, _, node in ranked)


def _ranked(
    index: GraphIndex, scores: Sequence[float], candidates: Sequence[tuple[float, Posting]]
) -> list[tuple[float, str, int]]:
    """(score, IRI, node) of the best candidates, ties by IRI."""
    found = [
        (score, index.key(posting.node), posting.node) for score, (_, posting) in zip(scores, candidates, strict=True)
    ]
    return sorted(found, key=lambda item: (-item[0], item[1]))[:_SHOWN_CANDIDATES]


def _calibration(name: float) -> float:
    """What the scores of a mention's candidates, `name` together, are multiplied by."""
    name = min(name, 1.0 - 1e-9)
    offset, slope = _CALIBRATION
    return _probability(offset + slope * log(name / (1.0 - name))) / name


def _with_context(
    index: GraphIndex, candidates: Sequence[tuple[float, Posting]], context: dict[int, float]
) -> list[float]:
    """The probability of each candidate: that the span is a name at all, times its share among the candidates."""
    raw = []
    names = []
    for odds, posting in candidates:
        shared = min(CONTEXT_LARGEST, context[posting.node])
        names.append(_probability(odds + _CONTEXT_WEIGHT * (shared - CONTEXT_EXPECTED)))
        raw.append(exp(_CHOICE_WEIGHT * shared + odds) * (1.0 + index.degree(posting.node)) ** _DEGREE_WEIGHT)
    total = sum(raw)
    return [max(names) * one / total for one in raw]
