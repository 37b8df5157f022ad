"""Slips and tricks of spelling that a reader sees through (Gao et al. 2018, Li et al. 2019 "TextBugger").

Each edit is a function word -> other spellings. Numbers and negations are left alone, and no slip may turn a word into
another known word ("form" for "from"), because then the text would say something else.
"""

from collections.abc import Callable, Collection, Mapping

from groundwire.export.attacks.text.meaning import is_protected, keeps_meaning, words_of
from groundwire.protected_words import PROTECTED

# Letters left and right of, above and below each key of a QWERTY keyboard.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS: Mapping[str, str] = {
    letter: "".join(
        _ROWS[r][c]
        for r, c in ((row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column))
        if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r])
    )
    for row, letters in enumerate(_ROWS)
    for column, letter in enumerate(letters)
}
# Cyrillic letters drawn like Latin ones (Unicode confusables, UTS 39).
LOOKALIKES: Mapping[str, str] = dict(zip("aceijopsxyABCEHIJKMOPSTX", "асеіјорѕхуАВСЕНІЈКМОРЅТХ", strict=True))
ZERO_WIDTH = "\u200b"
MIN_LETTERS = 4
MOST_SPELLINGS = 12  # tried for a word, unless an attack asks for more


def swap(word: str) -> list[str]:
    """Two neighbouring letters change places; the first and the last stay."""
    return [word[:n] + word[n + 1] + word[n] + word[n + 2 :] for n in range(1, len(word) - 2) if word[n] != word[n + 1]]


def leave_out(word: str) -> list[str]:
    """One inner letter is missing."""
    return [word[:n] + word[n + 1 :] for n in range(1, len(word) - 1)]


def double(word: str) -> list[str]:
    """One inner letter is typed twice."""
    return [word[: n + 1] + word[n:] for n in range(1, len(word) - 1)]


def neighbour(word: str) -> list[str]:
    """One inner letter is that of a key beside it."""
    return [
        word[:n] + (key.upper() if word[n].isupper() else key) + word[n + 1 :]
        for n in range(1, len(word) - 1)
        for key in NEIGHBOURS.get(word[n].lower(), "")
    ]


def homoglyph(word: str) -> list[str]:
    """One letter is a Cyrillic one that looks the same; and all of them are."""
    one = [word[:n] + LOOKALIKES[word[n]] + word[n + 1 :] for n in range(len(word)) if word[n] in LOOKALIKES]
    return [*one, "".join(LOOKALIKES.get(c, c) for c in word)] if one else []


def zero_width(word: str) -> list[str]:
    """A space without width stands in the middle."""
    return [word[: len(word) // 2] + ZERO_WIDTH + word[len(word) // 2 :]]


def spacing(word: str) -> list[str]:
    """A space stands inside the word."""
    return [word[:n] + " " + word[n:] for n in range(2, len(word) - 1)]


CHARACTER_EDITS: Mapping[str, Callable[[str], list[str]]] = {
    "swap": swap,
    "drop": leave_out,
    "double": double,
    "neighbour": neighbour,
    "homoglyph": homoglyph,
    "zero-width": zero_width,
    "spacing": spacing,
}


def character_candidates(
    known_words: Collection[str] = (), edits: Collection[str] = tuple(CHARACTER_EDITS), most: int = MOST_SPELLINGS
) -> Callable[[str], dict[tuple[int, int], list[str]]]:
    """Candidates for `attack_texts`: for each word of a text that may change, by (start, end), other spellings.

    Args:
        known_words: lower-case words that a slip may not make, such as those of the training texts and the tokenizer.
        edits: keys of `CHARACTER_EDITS`.
        most: candidates for each word, spread evenly over edits and places.

    Raises:
        ValueError: an edit is not known.
    """
    unknown = set(edits) - set(CHARACTER_EDITS)
    if unknown:
        raise ValueError(f"edits not known: {', '.join(sorted(unknown))}; use {', '.join(CHARACTER_EDITS)}")
    known = frozenset(known_words)

    def candidates(text: str) -> dict[tuple[int, int], list[str]]:
        found: dict[tuple[int, int], list[str]] = {}
        for start, end in words_of(text):
            word = text[start:end]
            if len(word) >= MIN_LETTERS and word.isalpha() and not is_protected(word):
                found[start, end] = _spread([_allowed(CHARACTER_EDITS[e](word), word, known) for e in edits], most)
        return {span: words for span, words in found.items() if words}

    return candidates


def _allowed(spellings: list[str], word: str, known: frozenset[str]) -> list[str]:
    """Those that read as no other words, and whose pieces are no protected ones."""
    found = []
    for spelling in spellings:
        pieces = spelling.casefold().split()
        other = all(piece in known for piece in pieces)
        if spelling != word and not other and PROTECTED.isdisjoint(pieces) and keeps_meaning(word, spelling):
            found.append(spelling)
    return found


def _spread(lists: list[list[str]], most: int) -> list[str]:
    """At most `most` of all, the same number from each list where it has so many, evenly over its places."""
    lists = [spellings for spellings in lists if spellings]
    share = max(1, most // max(1, len(lists)))
    out: dict[str, None] = {}
    for spellings in lists:
        step = max(1.0, len(spellings) / share)
        for n in range(min(share, len(spellings))):
            out[spellings[int((n + 0.5) * step) if step > 1 else n]] = None
    return list(out)[: max(most, 0)]
