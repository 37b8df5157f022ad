"""Spans of a text that may be labels: as written, split or joined otherwise, a part of a label, misspelt by one letter.

Words are compared without the spaces between them, so "Cobian RAT" is found as "CobianRAT" and "in rain bows" as
"In Rainbows". A word that no label holds is tried again in the spellings that labels do hold.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from groundwire.kg.index import GraphIndex, Ints
from groundwire.kg.spell import spellable
from groundwire.kg.text import Words

_CHUNK = 1024  # words whose sequences are looked up at a time: bounds the memory that a long text takes
_EXTRA_WORDS = 2  # a label may be written with that many words more than it has
_FEWEST_WORDS = 4
_MOST_SPELLINGS = 6  # tried for one word
_MOST_VARIANTS = 48  # tried for one chunk
_RUN_ON = re.compile(r"(.{4,}[^\W\dA-Z])[A-Z]{2,4}")  # a name with an acronym run onto it: "NetwireRAT"
_LONG_WORD = 8  # letters: misspelt words are looked for in lower case only from here on


@dataclass(frozen=True, slots=True)
class Span:
    """The words `first` to `last` (exclusive) as the label `key`.

    `part` when they are a part of the label only; `edits` counts misspelt words; `shared` is the number of labels that
    the span may be in this way.
    """

    first: int
    last: int
    key: int
    part: bool
    edits: int
    shared: int


@lru_cache(maxsize=512)
def _sequences(count: int, starts: int, longest: int) -> tuple[Ints, Ints]:
    """First and last (exclusive) of all sequences of 1 to `longest` of `count` words begun in the first `starts`."""
    first = np.repeat(np.arange(starts), longest)
    last = first + np.tile(np.arange(1, longest + 1), starts)
    fits = last <= count
    return first[fits], last[fits]


def find_spans(index: GraphIndex, text: str, words: Words) -> list[Span]:
    """All spans of `words` that may be a label, each span and label once, ordered by (first, last, label)."""
    if not index.longest_key_words:
        return []
    longest = max(_FEWEST_WORDS, index.longest_key_words + _EXTRA_WORDS)
    total = len(words.words)
    found: dict[tuple[int, int, int], Span] = {}
    for begin in range(0, total, _CHUNK):
        starts = min(_CHUNK, total - begin)
        chunk = words.words[begin : min(total, begin + starts + longest - 1)]
        first, last = _sequences(len(chunk), starts, longest)
        for span in _look_up(index, chunk, first, last, 0):
            _keep(found, span, begin)
        for variant, center, edits in _variants(index, text, words, begin, chunk):
            low, high = max(0, center - longest + 1), min(len(chunk), center + longest)
            first, last = _sequences(high - low, high - low, longest)
            around = (first <= center - low) & (last > center - low)
            for span in _look_up(index, variant[low:high], first[around], last[around], edits):
                _keep(found, span, begin + low)
    return sorted(found.values(), key=lambda span: (span.first, span.last, index.key_text(span.key)))


def _keep(found: dict[tuple[int, int, int], Span], span: Span, offset: int) -> None:
    place = (span.first + offset, span.last + offset, span.key)
    known = found.get(place)
    if known is None or (span.edits, span.part) < (known.edits, known.part):
        found[place] = Span(place[0], place[1], span.key, span.part, span.edits, span.shared)


def _look_up(index: GraphIndex, words: Sequence[str], first: Ints, last: Ints, edits: int) -> Iterator[Span]:
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    starts = np.concatenate(([0], ends[:-1]))
    from_, to = starts[first], ends[last - 1]
    short = np.flatnonzero(to - from_ <= index.longest_key)
    first, last = first[short], last[short]
    labels, parts = index.lookup("".join(words), from_[short], to[short])
    for part, found in ((False, labels), (True, parts)):
        shared: dict[int, int] = {}
        for place, _ in found:
            shared[place] = shared.get(place, 0) + 1
        for place, key in found:
            yield Span(int(first[place]), int(last[place]), key, part, edits, shared[place])


def _variants(
    index: GraphIndex, text: str, words: Words, begin: int, chunk: list[str]
) -> Iterator[tuple[list[str], int, int]]:
    """The chunk with a misspelt word put right, the place of that word, and how many words were put right."""
    has_capitals = text != text.lower()
    doubtful = []
    for place, word in enumerate(chunk):
        if spellable(word):
            written = text[words.starts[begin + place] : words.ends[begin + place]]
            if not has_capitals or written != written.lower() or len(word) >= _LONG_WORD:
                doubtful.append(place)
                run_on = _RUN_ON.fullmatch(written)
                if run_on and len(written) == len(word):
                    yield [*chunk[:place], word[: run_on.end(1)], *chunk[place + 1 :]], place, 1
    if not doubtful:
        return
    spellings = index.spellings([chunk[place] for place in doubtful])
    corrected = {place: found[:_MOST_SPELLINGS] for place, found in zip(doubtful, spellings, strict=True) if found}
    best = [corrected[place][0] if place in corrected else word for place, word in enumerate(chunk)]
    variants = 0
    for place, found in corrected.items():
        for spelling in found:
            if variants >= _MOST_VARIANTS:
                return
            variants += 1
            yield [*chunk[:place], spelling, *chunk[place + 1 :]], place, 1
            if len(corrected) > 1:
                yield [*best[:place], spelling, *best[place + 1 :]], place, 2
