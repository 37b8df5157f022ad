"""Mentions: which spans of a text name which entities, and how sure that is.

Every span that may be a label gets a probability from how it is written; then from what else the text says: an entity
whose triples share words with the text is likelier, all the more where a label belongs to several. Spans compete for
the words of the text, and those that explain most of it best win.
"""

from collections.abc import Sequence
from math import exp, log

from groundwire.kg.context import shared_words
from groundwire.kg.index import GraphIndex
from groundwire.kg.rank import Query
from groundwire.kg.readings import Reading, find_readings
from groundwire.kg.text import Words
from groundwire.kg.types import Candidate, Mention

_LOWEST_SCORE = 0.28
_SHOWN_CANDIDATES = 16
_CERTAIN = 0.93  # a span of one candidate that is written so plainly needs no context

_CONTEXT_WEIGHT = 0.15  # of the weight of shared words: an entity that the text is about is likelier named
# Offset and slope on the log odds that a span is a name at all (Platt 1999), fitted by scripts/fit_kg_calibration.py on
# the mentions that are made: among these more are right than among the readings that the weights were fitted on.
_CALIBRATION = 0.63, 0.91
CONTEXT_EXPECTED = 2.0
CONTEXT_LARGEST = 12.0
_CHOICE_WEIGHT = 0.3  # of the same, between entities of one name
_DEGREE_WEIGHT = 0.15


def link(index: GraphIndex, text: str, words: Words, query: Query) -> list[tuple[Mention, tuple[int, ...]]]:
    """The mentions in `text` in order of their start, none overlapping another, each with its candidates' nodes."""
    readings = _choose(find_readings(index, text, words), words, len(text))
    unsure = [r for r in readings if len(r.candidates) > 1 or _probability(r.best) < _CERTAIN]
    context: dict[int, float] = {}
    if unsure:
        nodes = sorted({node for reading in unsure for _, node in reading.candidates}, key=index.key)
        context = dict(zip(nodes, shared_words(index, query, nodes), strict=True))
    mentions = []
    for reading in readings:
        found = _mention(index, text, words, reading, context)
        if found is not None:
            mentions.append(found)
    return mentions


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + exp(-log_odds))


def _choose(readings: list[Reading], words: Words, length: int) -> list[Reading]:
    """Readings that don't overlap, those first that explain most letters with most certainty.

    By their characters: one character, such as ㍿, may be several words.
    """
    readings = [r for r in readings if _probability(r.best) >= _LOWEST_SCORE / 3]
    readings.sort(key=lambda r: (-_probability(r.best) * r.letters, r.first))
    taken = bytearray(length)
    chosen = []
    for reading in readings:
        start, end = words.starts[reading.first], words.ends[reading.last - 1]
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\1" * (end - start)
            chosen.append(reading)
    return sorted(chosen, key=lambda r: r.first)


def _mention(
    index: GraphIndex, text: str, words: Words, reading: Reading, context: dict[int, float]
) -> tuple[Mention, tuple[int, ...]] | None:
    candidates = reading.candidates
    if candidates[0][1] in context:
        scores = _with_context(index, candidates, context)
    else:
        scores = [_probability(candidates[0][0])]
    if len(scores) == 1:
        node = candidates[0][1]
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
    index: GraphIndex, scores: Sequence[float], candidates: Sequence[tuple[float, int]]
) -> list[tuple[float, str, int]]:
    """(score, IRI, node) of the best candidates, ties by IRI."""
    found = [(score, index.key(node), node) for score, (_, node) in zip(scores, candidates, strict=True)]
    return sorted(found, key=lambda item: (-item[0], item[1]))[:_SHOWN_CANDIDATES]


def _calibration(name: float) -> float:
    """What the scores of a mention's candidates, `name` together, are multiplied by."""
    name = min(name, 1.0 - 1e-9)
    offset, slope = _CALIBRATION
    return _probability(offset + slope * log(name / (1.0 - name))) / name


def _with_context(index: GraphIndex, candidates: Sequence[tuple[float, int]], context: dict[int, float]) -> list[float]:
    """The probability of each candidate: that the span is a name at all, times its share among the candidates."""
    raw = []
    names = []
    for odds, node in candidates:
        shared = min(CONTEXT_LARGEST, context[node])
        names.append(_probability(odds + _CONTEXT_WEIGHT * (shared - CONTEXT_EXPECTED)))
        raw.append(exp(_CHOICE_WEIGHT * shared + odds) * (1.0 + index.degree(node)) ** _DEGREE_WEIGHT)
    total = sum(raw)
    return [max(names) * one / total for one in raw]
