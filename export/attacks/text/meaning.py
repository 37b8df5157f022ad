"""What a text attack leaves alone, because changing it would change what the text says."""

import re
from functools import lru_cache

from groundwire.protected_words import PROTECTED

# A word is letters, with apostrophes and hyphens inside ("don't", "well-known"); digits make it a number or a code.
WORD = re.compile(r"[^\W_]+(?:['’.,:/-][^\W_]+)*")
_ROMAN = re.compile(r"[IVXLCDM]{2,}")  # a slip makes another number of it
_LETTERS = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=65_536)  # an attack asks for the same words again and again
def is_protected(word: str) -> bool:
    """Whether a word may not change: it holds a digit or an apostrophe, or any part is a number or a negation, also in
    Roman numerals.

    Words that compare or count ("more", "before", "only") are left alone too.
    """
    if any(character.isdigit() or character in "'’" for character in word):
        return True
    return any(part.casefold() in PROTECTED or _ROMAN.fullmatch(part) for part in _LETTERS.findall(word))


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, code points."""
    return [match.span() for match in WORD.finditer(text)]


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each word that no attack may change."""
    return [(start, end) for start, end in words_of(text) if is_protected(text[start:end])]


def fixed_words(text: str) -> list[str]:
    """The protected words, in order: two texts with other ones do not say the same."""
    return [text[start:end] for start, end in protected_spans(text)]


def keeps_meaning(before: str, after: str) -> bool:
    """Whether numbers, negations and words that compare are the same, in the same order, none added."""
    return fixed_words(before) == fixed_words(after)
