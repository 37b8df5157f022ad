"""The words that a model knows, with how often they were seen, and those one slip away from a word.

Neighbours are found with a table of forms that lack one letter (`groundwire.kg.spell`), as sorted hashes: a few
megabytes, and no try of every word.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from groundwire.kg.hashing import hash_all
from groundwire.kg.spell import LONGEST, SHORTEST, deletions, neighbours
from groundwire.kg.tables import equal
from groundwire.kg.text import fold

MOST_WORDS = 200_000
MOST_BYTES = 8 << 20
SURE = 2  # seen so often, a word is no slip
_LETTERS = re.compile(r"[^\W\d_]+")
_ONE = LONGEST + 1  # for `deletions`: one letter at most, however long the word


class KnownWords:
    """Words with counts.

    Args:
        counts: word -> how often it was seen, 1 or more; folded (`groundwire.kg.text.fold`), letters only. Of equal
            counts the one that comes first is taken for the more frequent.

    Raises:
        ValueError: there are more than `MOST_WORDS`, or something is no folded word, or a count is below 1.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        if len(counts) > MOST_WORDS:
            raise ValueError(f"there are {len(counts)} words, and at most {MOST_WORDS} are read")
        for word, count in counts.items():
            if count < 1 or not word.isalpha() or fold(word)[0] != word:
                raise ValueError(f"{word!r} with the count {count} is no folded word that was seen")
        self.words: Sequence[str] = sorted(counts, key=lambda word: -counts[word])
        self.counts: Mapping[str, int] = {word: counts[word] for word in self.words}
        self._rank = {word: rank for rank, word in enumerate(self.words)}
        forms: list[str] = []
        owners: list[int] = []
        for rank, word in enumerate(self.words):
            if SHORTEST <= len(word) <= LONGEST:
                lacking = deletions(word, _ONE)
                forms += lacking
                owners += [rank] * len(lacking)
        hashes = hash_all(forms)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], np.array(owners, np.int32)[order]
        # No method of this object, which would keep itself alive.
        self._near = lru_cache(maxsize=16_384)(_Near(self.words, self._hashes, self._owners))

    def rank(self, word: str) -> int:
        """Place of a word by frequency, 0 for the most frequent; that of a word not known is beyond all others."""
        return self._rank.get(word, len(self._rank))

    def near(self, word: str) -> Sequence[str]:
        """Known words of four letters or more that are one slip from `word`, the most frequent first."""
        return self._near(word)

    @classmethod
    def of(cls, texts: Iterable[str], vocabulary: Mapping[str, int]) -> "KnownWords":
        """Words of texts, and the whole words of a tokenizer, each of which counts as once more seen.

        Args:
            texts: texts as they are.
            vocabulary: token -> id of the tokenizer. Low ids are taken for frequent words, as trained ones are.
        """
        counts = Counter(word for text in texts for word in _LETTERS.findall(fold(text)[0]))
        whole = _whole_words(vocabulary)
        for word in whole:
            counts[word] += 1
        place = {word: number for number, word in enumerate(whole)}
        known = sorted(counts, key=lambda word: (-counts[word], place.get(word, len(place)), word))
        return cls({word: counts[word] for word in known if fold(word)[0] == word and word.isalpha()})

    def to_bytes(self) -> bytes:
        """A file: a line for each word, the most frequent first: count, tab, word. UTF-8."""
        return "".join(f"{self.counts[word]}\t{word}\n" for word in self.words).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "KnownWords":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: it is something else, or larger than `MOST_BYTES`.
        """
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has {len(content)} bytes, and at most {MOST_BYTES} are read")
        counts: dict[str, int] = {}
        for number, line in enumerate(content.decode("utf-8").split("\n")[:-1], 1):
            count, tab, word = line.partition("\t")
            if not tab or not count.isascii() or not count.isdigit() or len(count) > 12 or word in counts:
                raise ValueError(f"line {number} is not a count, a tab and a word of its own")
            counts[word] = int(count)
        return cls(counts)


class _Near:
    """word -> the known words one slip from it, by rank."""

    def __init__(self, words: Sequence[str], hashes: np.ndarray, owners: np.ndarray) -> None:
        self.words, self.hashes, self.owners = words, hashes, owners

    def __call__(self, word: str) -> tuple[str, ...]:
        if len(word) > LONGEST + 1:
            return ()
        entries = equal(self.hashes, hash_all(deletions(word, _ONE)))
        ranks = sorted({int(self.owners[entry]) for _, entry in entries})
        return tuple(self.words[rank] for rank in ranks if neighbours(word, self.words[rank]))


def _whole_words(vocabulary: Mapping[str, int]) -> list[str]:
    """Tokens that begin a word, folded, by id: those of WordPiece without `##`, of other tokenizers with their mark."""
    marks = tuple(mark for mark in ("\u2581", "\u0120") if sum(t.startswith(mark) for t in vocabulary) > 1)
    found: dict[str, None] = {}
    for token in sorted(vocabulary, key=vocabulary.__getitem__):
        if marks and not token.startswith(marks):
            continue
        word = fold(token[1:] if marks else token)[0]
        if len(word) > 1 and word.isalpha():
            found[word] = None
    return list(found)
