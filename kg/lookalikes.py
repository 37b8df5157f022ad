"""Letters that only look Latin, and characters that nobody sees (Unicode confusables, UTS 39).

No language mixes scripts within a word, so a letter of another script in a Latin word is there to deceive. Words of
other scripts, and the invisible characters that some of them need, stay as they are.
"""

import re
import unicodedata
from functools import lru_cache

from groundwire.kg.stems import LONGEST_KEPT

# Cyrillic, Greek and Armenian small letters, and the Latin ones that they look like.
SMALL = str.maketrans(
    "авсԁеһіјӏкмнорԛѕтѵԝхуґѡαβγεηικνορτυχωսոցհօ",
    "abcdehijlkmhopqstvwxyrwabyeniknoptuxwungho",
)
# Capitals apart: small eta looks like n, the capital like H. Small letters that are drawn as Latin ones of another sort
# (alpha and iota of phonetics, small caps) belong to the Latin script itself.
_WRITTEN = SMALL | str.maketrans(
    "АВСЕНІЈКМОРЅТХУҮԌԚԜΑΒΕΖΗΙΚΜΝΟΡΤΥΧՍՕӀɑɡɩıʟɴʀʏ",
    "ABCEHIJKMOPSTXYYGQWABEZHIKMNOPTYXUOlagiilnry",
)
# Letters with the marks and unseen characters among them.
_RUN = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff])*")


def fold_lookalikes(text: str) -> str:
    """`text` with its Latin words in Latin letters only, without invisible characters; ASCII comes back as it is.

    Full-width, bold and other forms of Latin letters become plain ones (NFKC of single letters; digits and signs stay).
    A word made of look-alikes alone is folded when the text has Latin words, and none that must be of another script.
    """
    if text.isascii():
        return text
    runs = [(match.start(), match.end(), *_known(match.group())) for match in _RUN.finditer(text)]
    latin = any(kind == "latin" for _, _, kind, _ in runs) and all(kind != "other" for _, _, kind, _ in runs)
    for start, end, kind, plain in reversed(runs):
        if kind == "latin" or (kind == "doubtful" and latin):
            text = text[:start] + plain + text[end:]
    return text


def _known(word: str) -> tuple[str, str]:
    return _kept(word) if len(word) <= LONGEST_KEPT else _read(word)


def _read(word: str) -> tuple[str, str]:
    """What a word is, "latin", "doubtful" (all look-alikes) or "other", and how it reads in Latin letters."""
    if word.isascii():
        return "latin", word
    plain = "".join(map(_plain, word))
    letters = [c for c in plain if c.isalpha()]
    latin = sum(map(_is_latin, letters))
    # Letters that stay foreign and outnumber the Latin ones: a word of another script with a Latin letter in it.
    if 2 * latin < len(letters) or not letters:
        return "other", word
    if any(_is_latin(c) for c in map(_compatible, word) if c.isalpha()):
        return "latin", plain
    # A single letter of another script is a symbol ("an α of 0.05").
    return ("doubtful", plain) if latin == len(letters) > 1 else ("other", word)


_kept = lru_cache(maxsize=16_384)(_read)


def _plain(character: str) -> str:
    """A character as it reads in a Latin word; nothing for one that nobody sees."""
    if unicodedata.category(character) == "Cf":
        return ""
    return _compatible(character).translate(_WRITTEN)


def _compatible(character: str) -> str:
    """The plain Latin letters that a letter is a form of, or the character itself."""
    if character < "\x80" or not character.isalpha():
        return character
    form = unicodedata.normalize("NFKC", character)
    return form if form.isascii() and form.isalpha() else character


def _is_latin(letter: str) -> bool:
    return letter < "\x80" or unicodedata.name(letter, "").startswith("LATIN")
