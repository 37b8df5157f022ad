"""Readings of a text: which of its spans may name which entities, and how likely that is from how they are written."""

from typing import NamedTuple

from groundwire.kg.index import GraphIndex, Posting
from groundwire.kg.match import Span, find_spans
from groundwire.kg.surface import FEATURES, Written, features, written_spans
from groundwire.kg.text import Words

SHORTEST_RESPACED = 5  # letters: "in C" is not "Inc"
MOST_CANDIDATES = 64

# Log odds, fitted by scripts/fit_kg_scores.py. Some are held back by hand: what opens a sentence is often the topic in
# the data, and not elsewhere; a stop word or a number may be a name, but those of the data hardly are. The bias is
# above the fitted one (0.03), since of the readings that were fitted only the best of each place become mentions.
BIAS = 0.9
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
VECTOR = [_WEIGHTS[name] for name in FEATURES]


class Reading(NamedTuple):
    """The words `first` to `last` (exclusive) as a name, of so many letters.

    `candidates` are (log odds from how it is written, node), of falling odds, equal ones by IRI; `best` is the first's.
    """

    first: int
    last: int
    letters: int
    candidates: list[tuple[float, int]]
    best: float


def find_readings(index: GraphIndex, text: str, words: Words) -> list[Reading]:
    """The readings of each span of `words` that may be a label, ordered by their first and last word."""
    spans = find_spans(index, text, words)
    if not spans:
        return []
    capitals = text != text.lower()
    if index.scorer is not None:
        return index.scorer.readings(text, words.words, words.starts, words.ends, spans, capitals)
    at: dict[tuple[int, int], list[Span]] = {}
    for span in spans:
        at.setdefault((span.first, span.last), []).append(span)
    readings = []
    for place, written in zip(at, written_spans(index, text, words, list(at)), strict=True):
        best: dict[int, float] = {}
        for span in at[place]:
            label = index.key_text(span.key)
            if written.letters < SHORTEST_RESPACED and _respaced(span, written, label):
                continue
            odds: dict[tuple[int, int], float] = {}
            for posting in index.postings(span.key)[:MOST_CANDIDATES]:
                kind = (posting.kind, posting.shape)
                if kind not in odds:
                    odds[kind] = log_odds(written, span, label, posting, capitals)
                if posting.node not in best or odds[kind] > best[posting.node]:
                    best[posting.node] = odds[kind]
        candidates = sorted(((log, node) for node, log in best.items()), key=lambda one: (-one[0], index.key(one[1])))
        del candidates[MOST_CANDIDATES:]
        if candidates:
            readings.append(Reading(*place, written.letters, candidates, candidates[0][0]))
    return readings


def log_odds(written: Written, span: Span, label: str, posting: Posting, text_has_capitals: bool) -> float:
    """How likely it is, from how it is written, that the span names an entity of that label."""
    total = 0.0  # one after another, and not by `sum`, which is more exact in some versions of Python
    for weight, value in zip(VECTOR, features(written, span, label, posting, text_has_capitals), strict=True):
        total += weight * value
    return BIAS + total


def _respaced(span: Span, written: Written, label: str) -> bool:
    text = " ".join(written.words)
    return not span.edits and (f" {text} " not in f" {label} " and " " in text if span.part else text != label)
