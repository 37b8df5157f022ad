"""Parts of a label that stand for the whole: a surname, a title without its bracket, a name without its honours."""

import re

from groundwire.kg.stems import STOP_WORDS
from groundwire.kg.text import split

_MOST_UNITS = 12
_LONGEST_PART = 6  # units
_FEWEST_WORDS = 2
_SHORTEST_RUN_ON = 6  # letters of two words run together
_SHORTEST_NAME = 3  # letters of a part that is a single word
# Infobox titles and identifiers run words together: "David GilmourCBE", "Kingdom of FranceRoyaume de France".
_RUN_ON = re.compile(r"(?<=[^\W\d_A-Z]{3})(?=[A-Z][^\W_]{2})")


def parts_of(label: str) -> list[str]:
    """The proper parts of a label under which its entity may be found: runs of words, folded, without spaces.

    A part neither begins nor ends with a stop word; a single word has at least three letters, is no number, and has a
    capital where the label has one.
    """
    cased = label != label.lower()
    units: list[str] = []
    usable: list[bool] = []
    named: list[bool] = []
    inside: list[bool] = []
    words = split(label)
    if len(words.words) < _FEWEST_WORDS and not _RUN_ON.search(label):
        return []
    for word, start, end in zip(words.words, words.starts, words.ends, strict=True):
        written = label[start:end]
        if len(word) < _SHORTEST_RUN_ON or word == written or len(written) != len(word):
            pieces = [written]
        else:
            pieces = _RUN_ON.split(written)
        position = 0
        for number, piece in enumerate(pieces):
            unit = word[position : position + len(piece)] if len(pieces) > 1 else word
            position += len(piece)
            units.append(unit)
            usable.append(unit not in STOP_WORDS)
            capital = not cased or piece != piece.lower()
            named.append(capital and len(unit) >= _SHORTEST_NAME and not unit.isdigit() and unit not in STOP_WORDS)
            inside.append(number > 0)
    count = len(units)
    if count < 2 or count > 4 * _MOST_UNITS:
        return []
    inside.append(False)
    found: dict[str, None] = {}
    for first in range(min(count, _MOST_UNITS)):
        if not usable[first] or inside[first]:
            continue
        for last in range(first + 1, min(count, first + _LONGEST_PART) + 1):
            if not usable[last - 1] or (first == 0 and last == count):
                continue
            if last - first == 1 and not named[first]:
                continue
            if not any(named[first:last]):
                continue
            found["".join(units[first:last])] = None
    found.pop("".join(units), None)
    return list(found)
