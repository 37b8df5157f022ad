"""Perturbed copies of a text: slips of the keyboard that leave its meaning alone.

A label that flips on one of them is not to be relied on. Numbers, negations and the mentions of entities are left as
they are, because changing those changes what the text says.
"""

import random
import re
import zlib
from collections.abc import Sequence

from groundwire.kg.types import Mention
from groundwire.protected_words import PROTECTED

# One edit for each so many words, at least one.
WORDS_PER_EDIT = 12
MIN_LETTERS = 4
# A run of letters with no digit, apostrophe or hyphen at its sides: contractions and codes stay whole.
_WORD = re.compile(rf"(?<![\w'’-])[^\W\d_]{{{MIN_LETTERS},}}(?![\w'’-])")


def perturb(text: str, mentions: Sequence[Mention], count: int) -> list[str]:
    """At most `count` different copies of `text`, each with a few letters swapped, doubled or dropped.

    The same text always gives the same copies. Fewer come back when it has too few words that may be changed.
    """
    spans = [(mention.start, mention.end) for mention in mentions]
    words = [
        (match.start(), match.end())
        for match in _WORD.finditer(text)
        if match.group().casefold() not in PROTECTED
        and not any(start < match.end() and match.start() < end for start, end in spans)
    ]
    if not words:
        return []
    # crc32, not hash(): it is the same in every process.
    rng = random.Random(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    edits = min(len(words), max(1, len(text.split()) // WORDS_PER_EDIT))
    copies: dict[str, None] = {}
    for _ in range(count * 8):  # a short text has few copies: give up after this many tries
        if len(copies) == count:
            break
        copy = text
        for start, end in sorted(rng.sample(words, edits), reverse=True):  # from the end, so that spans stay right
            copy = copy[:start] + _slip(copy[start:end], rng) + copy[end:]
        if copy != text:
            copies[copy] = None
    return list(copies)


def _slip(word: str, rng: random.Random) -> str:
    """Swap, double or drop one letter; the first one stays, as it does in most real slips."""
    at = rng.randrange(1, len(word) - 1)
    slipped = {
        "swap": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        "double": word[:at] + word[at] + word[at:],
        "drop": word[:at] + word[at + 1 :],
    }[rng.choice(("swap", "double", "drop"))]
    return word if slipped.casefold() in PROTECTED else slipped
