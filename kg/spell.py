"""Words one slip of the pen apart.

Two words are neighbours when one inserted, deleted, changed or swapped letter makes one the other (Damerau 1964). Such
words have a common form with at most one letter left out of each, so a table of those forms finds them without trying
every word (symmetric delete, Garbe 2012).
"""

import re

_DIGITS = re.compile(r"\d")
SHORTEST, LONGEST = 4, 32  # code points: shorter words have too many neighbours, longer ones are no words


def spellable(word: str) -> bool:
    """Whether misspellings of the word are looked for: 4 to 32 letters, not a number."""
    return SHORTEST <= len(word) <= LONGEST and not word.isdigit()


def deletions(word: str) -> list[str]:
    """The word and all forms with one letter left out, each once, in a fixed order."""
    return list(dict.fromkeys([word, *(word[:place] + word[place + 1 :] for place in range(len(word)))]))


def neighbours(one: str, other: str) -> bool:
    """Whether `one` is `other` with exactly one inserted, deleted, changed or swapped letter.

    Where `other` has digits, `one` has the same ones: another number is another code, not a slip.
    """
    if one == other or abs(len(one) - len(other)) > 1 or not _same_digits(one, other):
        return False
    start = 0
    shorter = min(len(one), len(other))
    while start < shorter and one[start] == other[start]:
        start += 1
    if len(one) > len(other):
        return one[start + 1 :] == other[start:]
    if len(one) < len(other):
        return one[start:] == other[start + 1 :]
    if one[start + 1 :] == other[start + 1 :]:
        return True
    return one[start : start + 2] == other[start : start + 2][::-1] and one[start + 2 :] == other[start + 2 :]


def _same_digits(one: str, other: str) -> bool:
    digits = _DIGITS.findall(other)
    return not digits or digits == _DIGITS.findall(one)
