"""Words one slip of the pen apart; long ones, two.

Two words are neighbours when one inserted, deleted, changed or swapped letter makes one the other (Damerau 1964). Such
words have a common form with at most one letter left out of each, so a table of those forms finds them without trying
every word (symmetric delete, Garbe 2012). Words of eight letters or more stand in the table with two letters left out
too: two slips leave enough of them.
"""

import re
from collections.abc import Callable, Sequence
from itertools import combinations

_DIGITS = re.compile(r"\d")
SHORTEST, LONGEST = 4, 32  # code points: shorter words have too many neighbours, longer ones are no words
SHORTEST_FOR_TWO, LONGEST_FOR_TWO = 8, 20  # the same for two slips; the forms grow with the square of the letters
# The same for the compiled speller.
BOUNDS = {
    "shortest": SHORTEST, "longest": LONGEST,
    "shortest_for_two": SHORTEST_FOR_TWO, "longest_for_two": LONGEST_FOR_TWO,
}  # fmt: skip

# How many slips a spelling is from the word as written, and the spelling.
Spelling = tuple[int, str]


def spellable(word: str) -> bool:
    """Whether misspellings of the word are looked for: 4 to 32 letters, not a number."""
    return SHORTEST <= len(word) <= LONGEST and not word.isdigit()


def deletions(word: str, shortest_for_two: int = SHORTEST_FOR_TWO) -> list[str]:
    """The word and all forms with one letter left out, or two from a long one, each once, in a fixed order."""
    forms = [word, *(word[:place] + word[place + 1 :] for place in range(len(word)))]
    if shortest_for_two <= len(word) <= LONGEST_FOR_TWO:
        forms += [word[:a] + word[a + 1 : b] + word[b + 1 :] for a, b in combinations(range(len(word)), 2)]
    return list(dict.fromkeys(forms))


def nearest(
    words: Sequence[str], look_up: Callable[[list[str], int], list[set[str]]], known: Callable[[str], bool]
) -> list[list[Spelling]]:
    """For each word the words of the table that are fewest slips away, in alphabetic order; none for one that it holds.

    Args:
        words: words as they are written.
        look_up: for each word the words of the table that have any of its `deletions`, with the same second argument.
        known: whether the graph knows a word otherwise: then it is not taken for one that was misspelt twice.
    """
    near = look_up(list(words), LONGEST + 1)
    found = [
        sorted((1, other) for other in others if neighbours(word, other)) if word not in others else []
        for word, others in zip(words, near, strict=True)
    ]
    far = [
        place
        for place, word in enumerate(words)
        if not found[place] and len(word) >= SHORTEST_FOR_TWO - 2 and word not in near[place] and not known(word)
    ]
    if far:
        # What is written may lack two letters of the word that was meant.
        others = look_up([words[place] for place in far], SHORTEST_FOR_TWO - 2)
        for place, candidates in zip(far, others, strict=True):
            found[place] = sorted((2, other) for other in candidates if _two_slips(words[place], other))
    return found


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


def _two_slips(one: str, other: str) -> bool:
    """Whether two slips make `one` the long word `other`: optimal string alignment distance of at most 2."""
    if not SHORTEST_FOR_TWO <= len(other) <= LONGEST_FOR_TWO or abs(len(one) - len(other)) > 2:
        return False
    if not _same_digits(one, other):
        return False
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1] <= 2


def _same_digits(one: str, other: str) -> bool:
    digits = _DIGITS.findall(other)
    return not digits or digits == _DIGITS.findall(one)
