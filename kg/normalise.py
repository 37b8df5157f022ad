"""A text as a reader takes it, before the tokenizer: look-alike letters folded, slips of spelling put right.

An attack on spelling works because a tokenizer breaks a misspelt word into pieces that mean nothing to the model.
Putting the word right first takes most of that away (Pruthi et al. 2019 "Combating Adversarial Misspellings with Robust
Word Recognition", Jones et al. 2020 "Robust Encodings"). Here it is a rule, not a model, so it is fast, the same in
training and serving, and says what it does:

- a word that is known stays: one that the evidence of this very text holds, or that was seen often enough;
- one that is not becomes the nearest known word one slip away (Damerau 1964): of the evidence first, then the most
  frequent one;
- one that was seen once at most may be a slip that hit another word ("bon" for "born"), and is put right only in favour
  of a frequent one;
- two neighbours that are no words apart, and one together, are joined;
- numbers, negations, words that compare, and words with digits or apostrophes stay, and nothing becomes one of them.

What is left to an attacker: slips that make another known word, and names that neither evidence nor words hold.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from groundwire.kg.known_words import SURE, KnownWords
from groundwire.kg.lookalikes import fold_lookalikes
from groundwire.kg.spell import LONGEST, SHORTEST, deletions, neighbours
from groundwire.kg.text import fold, split
from groundwire.kg.types import Evidence
from groundwire.protected_words import PROTECTED

# A word seen once at most gives way to one of the evidence seen so often, or to any seen so often.
FREQUENT_IN_EVIDENCE, FREQUENT = 20, 100
_MOST_LABEL_WORDS = 64  # of one label of the evidence
_LONGEST_LABEL = 4_000  # code points of it that are looked at
_FEW = 8
_PASSES = 4
# Letters, with a sign that stands for one inside ("P@ris"), that are no part of a number, a contraction or an address.
_WORD = re.compile(r"(?<![\w'’@./:])[^\W\d_]+(?:[?*@$][^\W\d_]+)*(?![\w'’@/]|[.:?*$]\w)")
_BARE = re.compile(r"[^\W_]+")


class _Found(NamedTuple):
    start: int
    end: int
    word: str  # folded


class Normaliser:
    """(text, evidence) -> the text that the tokenizer gets. May be used from several threads at once.

    Args:
        words: what is known beside the evidence; None folds look-alikes only.
    """

    def __init__(self, words: KnownWords | None = None) -> None:
        self.words = words

    def __call__(self, text: str, evidence: Sequence[Evidence] = ()) -> str:
        """The text put right. A text of known words in plain letters comes back as it is."""
        text = fold_lookalikes(text)
        if self.words is None or self._all_known(text):
            return text
        reading = _Reading(self.words, evidence)
        for _ in range(_PASSES):  # what was put right may have a neighbour that it belongs to
            before, text = text, reading.spell(text)
            if text == before:
                break
        return text

    def _all_known(self, text: str) -> bool:
        assert self.words is not None
        counts = self.words.counts
        return all(counts.get(word, 0) >= SURE for word in _BARE.findall(text.lower()))


class _Reading:
    """One text beside its evidence."""

    def __init__(self, words: KnownWords, evidence: Sequence[Evidence]) -> None:
        self.words, self.counts = words, words.counts
        self._corrected: dict[str, str] = {}
        self._asked = 0
        self._forms: dict[str, list[str]] | None = None  # of the words of the evidence: with one letter left out
        self.evidence: frozenset[str] = frozenset().union(
            *(
                _label_words(label[:_LONGEST_LABEL])
                for triple in evidence
                for label in (triple.subject.label, triple.predicate.label, triple.object.label)
            )
        )

    def spell(self, text: str) -> str:
        """One pass from left to right."""
        found = [_Found(m.start(), m.end(), fold(m.group())[0]) for m in _WORD.finditer(text)]
        pieces: list[str] = []
        done = place = 0
        while place < len(found):
            here = found[place]
            place += 1
            right = here.word
            end = here.end
            # Spaces are looked for first: a half of a word is near to many others.
            while place < len(found) and text[end : found[place].start] == " ":
                joined = self.joined(right, found[place].word)
                if joined is None:
                    break
                right, end = joined, found[place].end
                place += 1
            if end == here.end:
                right = self.correct(right)
            if right != here.word:
                pieces += (text[done : here.start], _as_written(right, text[here.start : here.end]))
                done = end
        return "".join((*pieces, text[done:]))

    def correct(self, word: str) -> str:
        """The word that was meant, as far as can be said."""
        known = self._corrected.get(word)
        if known is None:
            known = self._corrected[word] = self._correct(word)
        return known

    def _correct(self, word: str) -> str:
        if len(word) < SHORTEST - 1 or word in PROTECTED or self.sure(word):
            return word
        seen = self.counts.get(word, 0)
        stated = self.near_in_evidence(word)
        if stated is not None and (not seen or self.counts.get(stated, 0) >= FREQUENT_IN_EVIDENCE):
            return word if stated in PROTECTED else stated
        for other in self.words.near(word):
            if seen and self.counts[other] < FREQUENT:
                break
            if other in PROTECTED:
                break  # a number or a negation is never put into a text
            if seen or self.counts[other] >= SURE or self.correct(other) == other:
                return other
        return word

    def joined(self, left: str, right: str) -> str | None:
        """The word that two halves make, if they are none themselves."""
        whole = left + right
        if not SHORTEST <= len(whole) <= LONGEST or whole in PROTECTED or left in PROTECTED or right in PROTECTED:
            return None
        strange = not (self.known(left) and self.known(right))
        halves = len(left) > 1 and len(right) > 1 and not (self.sure(left) and self.sure(right))
        if (strange and self.known(whole)) or (halves and self.sure(whole)):
            return whole if self.correct(whole) == whole else None
        return None

    def near_in_evidence(self, word: str) -> str | None:
        if len(word) > LONGEST + 1:
            return None
        near = {other for other in self._candidates(word) if neighbours(word, other)}
        return min(near, key=lambda other: (self.words.rank(other), other), default=None)

    def _candidates(self, word: str) -> Iterable[str]:
        """Words of the evidence, all that are one slip from the word among them."""
        self._asked += 1
        if self._asked <= _FEW:  # so few are compared with all sooner than a table is made
            return (other for other in self.evidence if SHORTEST <= len(other) <= LONGEST)
        if self._forms is None:
            self._forms = {}
            for other in self.evidence:
                if SHORTEST <= len(other) <= LONGEST:
                    for form in deletions(other, LONGEST + 1):
                        self._forms.setdefault(form, []).append(other)
        forms = self._forms
        return (other for form in deletions(word, LONGEST + 1) for other in forms.get(form, ()))

    def sure(self, word: str) -> bool:
        return self.counts.get(word, 0) >= SURE or word in self.evidence

    def known(self, word: str) -> bool:
        return len(word) > 1 and (word in self.counts or word in self.evidence)


@lru_cache(maxsize=16_384)
def _label_words(label: str) -> frozenset[str]:
    return frozenset(word for word in split(label).words[:_MOST_LABEL_WORDS] if len(word) > 1 and word.isalpha())


def _as_written(word: str, before: str) -> str:
    """With capitals as the word before had them."""
    if before[:1].isupper():
        return word.upper() if len(before) > 1 and before.isupper() else word[:1].upper() + word[1:]
    return word
