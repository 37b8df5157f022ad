"""64-bit hashes of words and of all word sequences of a text at once.

A polynomial hash over code points (Karp and Rabin 1987) modulo 2^64: with prefix sums, the hash of any slice is a
subtraction and a multiplication, so the hashes of hundreds of word sequences cost a few numpy calls. Whoever finds a
hash in a table compares the strings too; a collision can cost time, never a wrong answer.
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_WINDOW = 1 << 16


def _powers(base: int, count: int) -> U64:
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_BASE, _WINDOW + 1)
_INVERSE_POWERS = _powers(_INVERSE, _WINDOW + 1)


def _mix(values: U64) -> U64:
    # The finaliser of SplitMix64 (Steele et al. 2014): spreads the hash over all bits.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = values ^ (values >> np.uint64(31))
    return mixed


def hash_slices(text: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> U64:
    """Hash `text[starts[i]:ends[i]]` for each i; offsets are code points. Shape as `starts`."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    powers, inverse = _POWERS, _INVERSE_POWERS
    if len(codes) > _WINDOW:
        powers, inverse = _powers(_BASE, len(codes) + 1), _powers(_INVERSE, len(codes) + 1)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return _mix((sums[ends] - sums[starts]) * inverse[starts])


def hash_all(strings: list[str]) -> U64:
    """Hash each string. Shape (len(strings),)."""
    hashes = np.empty(len(strings), dtype=np.uint64)
    position = 0
    while position < len(strings):
        size, last = 0, position
        while last < len(strings) and (last == position or size + len(strings[last]) <= _WINDOW):
            size += len(strings[last])
            last += 1
        lengths = np.fromiter((len(s) for s in strings[position:last]), np.int64, last - position)
        ends = np.cumsum(lengths)
        hashes[position:last] = hash_slices("".join(strings[position:last]), ends - lengths, ends)
        position = last
    return hashes
