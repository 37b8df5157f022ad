"""The hash tables of a compiled graph, looked up with numpy; what `groundwire.kg._native` does where it was built."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.hashing import U64, hash_all, hash_slices
from groundwire.kg.index import Ints, Place
from groundwire.kg.native import native
from groundwire.kg.spell import deletions

_THREE, _SEVEN = np.uint64(3), np.uint64(7)


def equal(table: U64, hashes: U64) -> list[tuple[int, int]]:
    """(place in `hashes`, entry) for each entry of the sorted `table` that equals a hash."""
    if not len(table):
        return []
    low = np.searchsorted(table, hashes)
    hit = np.flatnonzero(table[np.minimum(low, len(table) - 1)] == hashes)
    found = []
    for place, entry in zip(hit.tolist(), low[hit].tolist(), strict=True):
        while entry < len(table) and table[entry] == hashes[place]:
            found.append((place, entry))
            entry += 1  # noqa: PLW2901 - walk on over entries of the same hash
    return found


def places(table: U64, words: Sequence[str]) -> list[int]:
    """Where the hash of each word stands first in a sorted `table`; -1 for one that it lacks."""
    if native is not None:
        found: list[int] = native.places(table, words)
        return found
    if not len(table):
        return [-1] * len(words)
    hashes = hash_all(list(words))
    at = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
    found = np.where(table[at] == hashes, at, -1).tolist()
    return found


@lru_cache(maxsize=512)
def _sequences(count: int, starts: int, longest: int, center: int) -> tuple[Ints, Ints]:
    """First and last (exclusive) of all sequences of 1 to `longest` of `count` words begun in the first `starts`.

    Only those around the word `center`, unless it is -1.
    """
    first = np.repeat(np.arange(starts), longest)
    last = first + np.tile(np.arange(1, longest + 1), starts)
    fits = last <= count
    if center >= 0:
        fits &= (first <= center) & (last > center)
    return first[fits], last[fits]


class Tables:
    """Keys, parts of keys and spellings by hash. `filter_shift` leaves of a hash the place of its filter bit."""

    def __init__(self, arrays: dict[str, NDArray[Any]], filter_shift: int) -> None:
        self._filter, self._shift = arrays["key_filter"], np.uint64(filter_shift)
        self._keys, self._parts = arrays["key_hash"], arrays["part_hash"]
        self._spellings = arrays["spelling_hash"]

    def sequences(
        self, words: Sequence[str], starts: int, longest: int, center: int
    ) -> tuple[list[tuple[int, int, int]], list[Place]]:
        """The sequences that equal a key's hash, as (first, last, key), and those that pass the filter."""
        first, last = _sequences(len(words), starts, longest, center)
        bounds = np.fromiter(accumulate(map(len, words), initial=0), np.int64, len(words) + 1)
        hashes = hash_slices("".join(words), bounds[first], bounds[last])
        bits = hashes >> self._shift
        passed = ((self._filter[bits >> _THREE] >> (bits & _SEVEN).astype(np.uint8)) & 1).nonzero()[0]
        hashes = hashes[passed]
        maybe = list(zip(first[passed].tolist(), last[passed].tolist(), hashes.tolist(), strict=True))
        return [(*maybe[place][:2], entry) for place, entry in equal(self._keys, hashes)], maybe

    def parts(self, wanted: int) -> list[int]:
        """The entries of the table of parts that have a hash."""
        return [entry for _, entry in equal(self._parts, np.array([wanted], dtype=np.uint64))]

    def misspelt(self, word: str, shortest_for_two: int, longest_for_two: int) -> list[int]:
        """The entries of the table of spellings for the word with no, one or, within the bounds, two letters less."""
        forms = deletions(word, shortest_for_two if len(word) <= longest_for_two else len(word) + 1)
        return [entry for _, entry in equal(self._spellings, hash_all(forms))]
