"""Texts as words: folded for comparison, each with its place in the text as given.

Labels and texts go through the same steps, so a label is found wherever its words stand in a row: compatibility
decomposition (Unicode NFKD) without accents, full case folding, and words split where letters and digits end. Scripts
that write no spaces are split into single characters, so that a label is found inside a running line.
"""

import re
import unicodedata
from dataclasses import dataclass

from groundwire.kg.lookalikes import SMALL
from groundwire.kg.native import native

# Characters of scripts without spaces (Thai, Lao, Myanmar, Khmer, kana, bopomofo, CJK) and of Hangul, whose particles
# are written onto the noun: each is a word of its own.
_SINGLE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3040-\u30ff\u3100-\u318f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Vowel signs of the Indic scripts are no letters to `re`, but they belong to the word.
_SIGNS = "\u0900-\u0963\u0966-\u0dff"
_LETTER = f"(?:[{_SIGNS}]|[^\\W_{_SINGLE}])"
# A sign that stands for a letter, in the middle of a word: lost in a conversion ("Ca?onero") or put there ("P@ris").
_STAND_IN = "[?*@$\x80-\x9f\ufffd]"
_WORD = re.compile(f"[{_SINGLE}]|{_LETTER}+(?:{_STAND_IN}{_LETTER}+)*")
_ASCII_WORD = re.compile("[a-z0-9]+(?:[?*@$][a-z0-9]+)*")
# Hangul syllables and voiced kana would be taken apart by NFKD into pieces that no longer compare.
_LATIN = re.compile("[a-z]")
_KEEP_COMPOSED = re.compile("[\u3040-\u30ff\uac00-\ud7a3]")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text.

    `words` are folded; `starts` and `ends` are code point offsets into the text as given, one pair a word.
    """

    words: list[str]
    starts: list[int]
    ends: list[int]


def fold(text: str) -> tuple[str, list[int] | None]:
    """Fold `text` for comparison: decomposed, without accents and invisible characters, case folded.

    Returns the folded text and, for each of its characters, the offset of the character of `text` that it comes from;
    None stands for the identity (ASCII).
    """
    if text.isascii():
        return text.lower(), None
    pieces: list[str] = []
    origin: list[int] = []
    for offset, character in enumerate(text):
        piece = _fold_character(character)
        pieces.append(piece)
        if len(piece) == 1:
            origin.append(offset)
        else:
            origin.extend([offset] * len(piece))
    return "".join(pieces), origin


# Latin letters that have no decomposition.
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"})


def _fold_character(character: str) -> str:
    if character < "\x80":
        return character.lower()
    if _KEEP_COMPOSED.match(character):
        return character
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    # Marks of combining class 0 are vowel signs, which carry meaning; the others are accents. Format characters
    # (zero-width spaces and joiners, soft hyphens) are not seen by a reader.
    kept = "".join(c for c in folded if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    return kept.translate(_PLAIN)


def split(text: str) -> Words:
    """Split `text` into folded words."""
    folded, origin = fold(text)
    if origin is None:
        if native is not None:
            return Words(*native.ascii_words(folded))
        spans = [match.span() for match in _ASCII_WORD.finditer(folded)]
        return Words([folded[a:b] for a, b in spans], [a for a, _ in spans], [b for _, b in spans])
    spans = [match.span() for match in _WORD.finditer(folded)]
    words = [_one_script(folded[a:b]) for a, b in spans]
    return Words(words, [origin[a] for a, _ in spans], [_end_with_marks(text, origin[b - 1] + 1) for _, b in spans])


def _end_with_marks(text: str, end: int) -> int:
    # A combining accent after the last letter is part of what the reader sees as that letter.
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return end


def _one_script(word: str) -> str:
    # Letters of another script in a Latin word are there to deceive: no language mixes them.
    if word.isascii() or not _LATIN.search(word):
        return word
    return word.translate(SMALL)


def key_of(text: str) -> str:
    """The folded words of `text` joined by single spaces: equal keys mean equal labels. Empty when there is no word."""
    folded, origin = fold(text)
    if origin is None:
        return " ".join(_ASCII_WORD.findall(folded))
    return " ".join(map(_one_script, _WORD.findall(folded)))


def squeeze(text: str) -> str:
    """`text` with each run of white space as one space, and none at either end."""
    return " ".join(text.split())
