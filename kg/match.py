"""Spans of a text that may be labels: as written, split or joined otherwise, a part of a label, misspelt.

Words are compared without the spaces between them, so "Cobian RAT" is found as "CobianRAT" and "in rain bows" as
"In Rainbows". A word that no label holds is tried again in the spellings that labels do hold.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from groundwire.kg.index import GraphIndex
from groundwire.kg.spell import spellable
from groundwire.kg.text import Words

_CHUNK = 1024  # words whose sequences are looked up at a time: bounds the memory that a long text takes
_EXTRA_WORDS = 2  # a label may be written with that many words more than it has
_FEWEST_WORDS = 4
_MOST_SPELLINGS = 6  # tried for one word
_MOST_VARIANTS = 48  # tried for one chunk
RUN_ON = re.compile(r"(.{4,}[^\W\dA-Z])[A-Z]{2,4}")  # a name with an acronym run onto it: "NetwireRAT"
_LONG_WORD = 8  # letters: misspelt words are looked for in lower case only from here on
# The same for the compiled finder.
BOUNDS = {
    "chunk": _CHUNK, "most_spellings": _MOST_SPELLINGS, "most_variants": _MOST_VARIANTS, "long_word": _LONG_WORD,
}  # fmt: skip


class Span(NamedTuple):
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


def find_spans(index: GraphIndex, text: str, words: Words) -> list[Span]:
    """All spans of `words` that may be a label, each span and label once, ordered by (first, last, label).

    Within a whole label as written, parts and misspellings are not looked for: they could not win.
    """
    if not index.longest_key_words:
        return []
    if index.finder is not None:
        return index.finder.spans(text, words.words, words.starts, words.ends)
    longest = longest_span(index.longest_key_words)
    total = len(words.words)
    cased = _cased(text, words)
    found: dict[tuple[int, int, int], Span] = {}
    for begin in range(0, total, _CHUNK):
        starts = min(_CHUNK, total - begin)
        end = min(total, begin + starts + longest - 1)
        chunk, in_capitals = words.words[begin:end], cased[begin:end]
        whole = bytearray(len(chunk))
        for span in _look_up(index, chunk, in_capitals, (starts, longest, -1), whole):
            _keep(found, span, begin, 0)
        for variant, center, edits in _variants(index, text, words, (begin, chunk), (in_capitals, whole)):
            low, high = max(0, center - longest + 1), min(len(chunk), center + longest)
            around = (high - low, longest, center - low)
            for span in _look_up(index, variant[low:high], in_capitals[low:high], around, bytearray(high - low)):
                _keep(found, span, begin + low, edits)
    spans = list(found.values())
    if len({(span.first, span.last) for span in spans}) == len(spans):
        return sorted(spans)
    return sorted(spans, key=lambda span: (span.first, span.last, index.key_text(span.key)))


def longest_span(longest_key_words: int) -> int:
    """Most words of a span, in a graph whose longest label has so many."""
    return max(_FEWEST_WORDS, longest_key_words + _EXTRA_WORDS)


def _cased(text: str, words: Words) -> bytes:
    """1 for each word that has a capital; for all, when the text has none and case says nothing."""
    lowered = text.lower()
    if text == lowered:
        return b"\1" * len(words.words)
    places = zip(words.starts, words.ends, strict=True)
    if len(lowered) == len(text):
        return bytes([text[start:end] != lowered[start:end] for start, end in places])
    return bytes([text[start:end] != text[start:end].lower() for start, end in places])


def _keep(found: dict[tuple[int, int, int], Span], span: Span, offset: int, edits: int) -> None:
    place = (span.first + offset, span.last + offset, span.key)
    known = found.get(place)
    if known is None or (edits, span.part) < (known.edits, known.part):
        found[place] = Span(*place, span.part, edits, span.shared) if offset or edits else span


def _look_up(
    index: GraphIndex, words: Sequence[str], cased: bytes, which: tuple[int, int, int], whole: bytearray
) -> list[Span]:
    """Labels and parts among the sequences (see `GraphIndex.lookup`); marks in `whole` the words of longer labels."""
    labels, maybe, parts = index.lookup(words, *which)
    spans = [Span(a, b, key, False, 0, 1) for a, b, key in labels]
    inside: list[tuple[int, int]] = []
    for a, b, _ in labels:
        if b - a > 1 and 1 in cased[a:b]:
            whole[a:b] = b"\1" * (b - a)
            inside.append((a, b))
    wanted = []
    for place in maybe:
        a, b, _ = place
        if 1 in cased[a:b]:
            for low, high in inside:
                if low <= a and b <= high:
                    break
            else:
                wanted.append(place)
    if wanted:
        found = parts(wanted)
        if found:
            shared = Counter((a, b) for a, b, _ in found)
            spans += [Span(a, b, key, True, 0, shared[a, b]) for a, b, key in found]
    return spans


def _variants(
    index: GraphIndex,
    text: str,
    words: Words,
    part: tuple[int, list[str]],
    marks: tuple[bytes, bytearray],
) -> Iterator[tuple[list[str], int, int]]:
    """The words of a part of the text (which begins at a word) with one put right, its place, and how many were.

    Tried are the words in capitals (first mark), and long ones, that are in no whole label (second mark).
    """
    begin, chunk = part
    doubtful = []
    for place, (word, cased, whole) in enumerate(zip(chunk, *marks, strict=True)):
        if not whole and (cased or len(word) >= _LONG_WORD) and spellable(word):
            doubtful.append(place)
            run_on = RUN_ON.fullmatch(text, words.starts[begin + place], words.ends[begin + place])
            if run_on and len(run_on.group()) == len(word):
                yield [*chunk[:place], word[: len(run_on.group(1))], *chunk[place + 1 :]], place, 1
    if not doubtful:
        return
    spellings = index.spellings([chunk[place] for place in doubtful])
    corrected = {place: found[:_MOST_SPELLINGS] for place, found in zip(doubtful, spellings, strict=True) if found}
    best = [corrected[place][0][1] if place in corrected else word for place, word in enumerate(chunk)]
    variants = 0
    for place, found in corrected.items():
        for slips, spelling in found:
            if variants >= _MOST_VARIANTS:
                return
            variants += 1
            yield [*chunk[:place], spelling, *chunk[place + 1 :]], place, slips
            if len(corrected) > 1:
                yield [*best[:place], spelling, *best[place + 1 :]], place, slips + 1
